# SPDX-License-Identifier: Apache-2.0
"""Where the rules of a plan come from, and the index by which kernel tables name them."""

from __future__ import annotations

from monitor.policy.action import Origin
from monitor.policy.floor import BUILT_IN
from monitor.profile.model import Position, Profile


class CompileError(ValueError):
    """A profile cannot be held here; the message begins with its FILE:LINE where it has one."""


def make(
    profile: Profile, section: str, text: str, position: Position | None, why: str = ""
) -> Origin:
    """The origin of a rule; a profile that was read from no file gives its name as source."""
    if position is None:
        return Origin(profile.name, section, text, profile.name, 0, why)
    return Origin(profile.name, section, text, position.source, position.line, why)


def built_in(section: str, text: str) -> Origin:
    return Origin("floor", section, text, BUILT_IN, 0)


def error(origin: Origin, message: str) -> CompileError:
    place = f"{origin.source}:{origin.line}" if origin.line else origin.source
    return CompileError(f"{place}: {origin.section}: {origin.text}: {message}")


class Rules:
    """The rules of one policy in the order in which they were first named."""

    def __init__(self) -> None:
        self._numbers: dict[Origin, int] = {}

    def number(self, origin: Origin) -> int:
        return self._numbers.setdefault(origin, len(self._numbers))

    def all(self) -> tuple[Origin, ...]:
        return tuple(self._numbers)

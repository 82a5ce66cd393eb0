# SPDX-License-Identifier: Apache-2.0
"""One known way out of an agent sandbox: what is tried, and what must come of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

PYTHON = "/usr/bin/python3"
MEASURED = "measured on Linux 6.18"
KILLED = "killed"
# Why some refusals leave no record.
HIDDEN = "the view shows no such process: nothing was refused"
PROFILE, STRICT, TREES, EMPTY = "bypass", "bypass-strict", "bypass-trees", "bypass-empty"


class Control(Enum):
    """How the control is switched off, to show that the attempt succeeds then."""

    OBSERVE = "observe"  # `ri-exec --observe`: no rule on files, network or programs
    BARE = "bare"  # without ri-exec, as the same user
    ROOT = "root"  # without ri-exec, as root: the host refuses it to users


OBSERVE, BARE, ROOT = Control.OBSERVE, Control.BARE, Control.ROOT


@dataclass(frozen=True, slots=True)
class Case:
    """Words in braces of `program` stand for what the scene holds (scene.py).

    `row` is that of the project's list of bypasses, `source` where the way is known from. `expect`:
    the errno's name, or KILLED. `verb`: of the record; where there can be none, `unrecorded` says
    why.
    """

    row: int
    title: str
    source: str
    program: tuple[str, ...]
    expect: str
    verb: str | None
    control: Control
    profile: str = PROFILE
    observed: bool = True  # False: what observing lets pass shows nowhere, so it is not told
    unrecorded: str = ""

    @property
    def id(self) -> str:
        return f"{self.row}-{self.title.replace(' ', '-')}"

    def command(self, scene: Mapping[str, str]) -> list[str]:
        """The command line in a scene; KeyError where the scene lacks a word."""
        name, *arguments = (word.format_map(scene) for word in self.program)
        path = f"{scene['programs']}/{name}"
        return [*([PYTHON] if name.endswith(".py") else []), path, *arguments]

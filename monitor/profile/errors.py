# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a profile, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monitor.profile.model import Position

LONGEST_PART = 500  # characters


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; `key` is dotted (`files.read[2]`), line and column count from 1.

    Line 0 stands for the whole of `source`; `key` is empty where the file as such is meant.
    """

    source: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        """One line, whatever the profile holds: it may come from anybody, and goes to terminals."""
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        return ": ".join(_line(part) for part in (place, self.key, self.message) if part)


def _line(text: str) -> str:
    short = text if len(text) <= LONGEST_PART else f"{text[:LONGEST_PART]}..."
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in short)


class ProfileError(ValueError):
    """A profile cannot be used. Its text has one line for each of `problems`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


def problem(position: Position | None, key: str, message: str) -> Problem:
    """A problem at `position`, or at no place where a profile was not read from a file."""
    if position is None:
        return Problem("profile", 0, 0, key, message)
    return Problem(position.source, position.line, position.column, key, message)

# SPDX-License-Identifier: Apache-2.0
"""A doubt about a rule, as lint reports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from monitor.profile.model import Position

# error: it hands out what the session is to be kept from. warning: somebody should know.
# note: it may well be meant.
Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One doubt. `position` is None where the profile was not read from a file."""

    level: Level
    position: Position | None
    key: str
    message: str

# SPDX-License-Identifier: Apache-2.0
"""Moments as people write and read them: `10m` ago, `today`, RFC 3339; local time."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from monitor.cli.failure import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
AGO = re.compile(r"([0-9]{1,9})([smhdw])")


def parse(text: str, now: float | None = None) -> float:
    """Unix seconds of a moment; without an offset it is meant in local time."""
    moment = time.time() if now is None else now
    if match := AGO.fullmatch(text):
        return max(0.0, moment - int(match[1]) * UNITS[match[2]])
    if text == "today":
        midnight = datetime.fromtimestamp(moment).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight.timestamp()
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{text!r} is not a moment",
            "write 90s, 10m, 2h or 7d ago, `today`, 2026-01-31, or 2026-01-31T14:00:00+01:00",
        ) from None


def local(moment: str | float | None) -> str:
    """A record's time, or Unix seconds, as local time; what cannot be read is shown as it is."""
    try:
        if isinstance(moment, str):
            when = datetime.fromisoformat(moment)
        else:
            when = datetime.fromtimestamp(moment or 0.0, UTC)
        return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(moment)


def until(expires: float | str | None, now: float | None = None) -> str:
    """How long something still lasts, in its largest two units."""
    if expires is None:
        return "never"
    if isinstance(expires, str):
        expires = datetime.fromisoformat(expires).timestamp()
    left = int(expires - (time.time() if now is None else now))
    if left <= 0:
        return "over"
    for big, small in (("d", "h"), ("h", "m"), ("m", "s")):
        if left >= UNITS[big]:
            rest = left % UNITS[big] // UNITS[small]
            return f"{left // UNITS[big]}{big}{rest:02d}{small}"
    return f"{left}s"

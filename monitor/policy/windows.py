# SPDX-License-Identifier: Apache-2.0
"""Time windows: whether one is open at a moment, and until when it stays so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from monitor.policy.plan import TimeWindow

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES = 24 * 60
# Windows that follow one another are one; where they do so for longer, they never close.
LONGEST = timedelta(days=8)


class UnknownZone(ValueError):
    """This host does not know the time zone."""


@dataclass(frozen=True, slots=True)
class Opening:
    """Whether windows are open, and the moment (Unix seconds) at which that changes.

    None: it never does.
    """

    open: bool
    until: float | None


@lru_cache(maxsize=64)
def zone(name: str) -> tzinfo:
    """The time zone of that name; UnknownZone says what to do about it."""
    try:
        return ZoneInfo(name)
    # OSError: the name is that of a folder, or too long.
    except (KeyError, ValueError, OSError) as error:
        raise UnknownZone(
            f"this host does not know the time zone {name!r}: is the name right,"
            " and is the package tzdata installed?"
        ) from error


def opening(windows: Sequence[TimeWindow], now: float) -> Opening:
    """Whether one of `windows` is open at `now`; no windows at all are never closed."""
    if not windows:
        return Opening(True, None)
    spans = sorted(span for each in windows for span in _spans(each, now))
    end = None
    for start, until in spans:
        if start <= (now if end is None else end) < until:
            end = until
    if end is not None:
        return Opening(True, end if end - now < LONGEST.total_seconds() - 86400 else None)
    later = [start for start, until in spans if start > now and until > start]
    return Opening(False, min(later, default=None))


def all_open(groups: Sequence[Sequence[TimeWindow]], now: float) -> Opening:
    """Whether every group has a window that is open; until when, where they all have."""
    found = [opening(group, now) for group in groups]
    closed = [each for each in found if not each.open]
    if closed:
        moments = [each.until for each in closed]
        return Opening(False, None if None in moments else max(filter(None, moments), default=None))
    return Opening(
        True, min((each.until for each in found if each.until is not None), default=None)
    )


def text(window: TimeWindow) -> str:
    """A window as a person reads it: `mon-fri 09:00-17:00 Europe/Berlin`."""
    start, until = (
        f"{minute // 60:02}:{minute % 60:02}" for minute in (window.start, window.until)
    )
    days = "" if len(window.days) == len(DAYS) else _days(window.days) + " "
    return f"{days}{start}-{until} {window.zone}"


def _days(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(
        DAYS[run[0]] if len(run) == 1 else f"{DAYS[run[0]]}-{DAYS[run[-1]]}" for run in runs
    )


def _spans(window: TimeWindow, now: float) -> list[tuple[float, float]]:
    """The window's times around `now` as Unix seconds: from yesterday on, for over a week."""
    where = zone(window.zone)
    today = datetime.fromtimestamp(now, where).date()
    found = []
    for offset in range(-1, LONGEST.days + 1):
        day = today + timedelta(days=offset)
        if day.weekday() in window.days:
            ends = window.until if window.until > window.start else window.until + MINUTES
            found.append((_moment(day, window.start, where), _moment(day, ends, where)))
    return found


def _moment(day: date, minute: int, where: tzinfo) -> float:
    """A minute of a day on the clock of a zone; one that the clock leaves out is the next."""
    day += timedelta(days=minute // MINUTES)
    minute %= MINUTES
    return datetime(
        day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=where
    ).timestamp()

# SPDX-License-Identifier: Apache-2.0
"""Time windows: days, midnight, summer time, windows that follow one another."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from monitor.policy import windows
from monitor.policy.plan import TimeWindow
from monitor.policy.windows import Opening, UnknownZone

EVERY_DAY = tuple(range(7))
WORK = TimeWindow((0, 1, 2, 3, 4), 9 * 60, 17 * 60, "UTC")


def moment(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_no_windows_are_always_open() -> None:
    assert windows.opening((), 0) == Opening(True, None)
    assert windows.all_open((), 0) == Opening(True, None)


@pytest.mark.parametrize(
    ("now", "opened", "until"),
    [
        ("2026-11-25T09:00", True, "2026-11-25T17:00"),
        ("2026-11-25T16:59:59", True, "2026-11-25T17:00"),
        ("2026-11-25T17:00", False, "2026-11-26T09:00"),
        ("2026-11-25T08:59:59", False, "2026-11-25T09:00"),
        ("2026-11-27T18:00", False, "2026-11-30T09:00"),  # Friday evening to Monday
    ],
)
def test_a_working_week(now: str, opened: bool, until: str) -> None:
    assert windows.opening((WORK,), moment(now)) == Opening(opened, moment(until))


def test_a_window_reaches_into_the_next_day() -> None:
    night = TimeWindow((4,), 22 * 60, 6 * 60, "UTC")  # Friday 22:00 to Saturday 06:00
    friday, saturday = "2026-11-27T23:00", "2026-11-28T05:59"
    for now in (friday, saturday):
        assert windows.opening((night,), moment(now)) == Opening(True, moment("2026-11-28T06:00"))
    assert not windows.opening((night,), moment("2026-11-27T05:00")).open
    assert not windows.opening((night,), moment("2026-11-28T06:00")).open


def test_until_24_00_is_the_end_of_the_day() -> None:
    day = TimeWindow((2,), 0, 24 * 60, "UTC")
    assert windows.opening((day,), moment("2026-11-25T12:00")) == Opening(
        True, moment("2026-11-26T00:00")
    )


def test_windows_that_follow_one_another_are_one() -> None:
    first = TimeWindow((2,), 9 * 60, 12 * 60, "UTC")
    second = TimeWindow((2,), 12 * 60, 15 * 60, "UTC")
    overlaps = TimeWindow((2,), 14 * 60, 18 * 60, "UTC")
    found = windows.opening((overlaps, second, first), moment("2026-11-25T10:00"))
    assert found == Opening(True, moment("2026-11-25T18:00"))


def test_every_day_around_the_clock_never_closes() -> None:
    always = TimeWindow(EVERY_DAY, 0, 24 * 60, "Europe/Berlin")
    assert windows.opening((always,), moment("2026-11-25T10:00")) == Opening(True, None)


def test_summer_time_is_the_zones() -> None:
    berlin = TimeWindow(EVERY_DAY, 9 * 60, 17 * 60, "Europe/Berlin")
    assert windows.opening((berlin,), moment("2026-07-01T07:00")).open  # 09:00 there
    assert not windows.opening((berlin,), moment("2026-12-01T07:00")).open  # 08:00 there
    # The night in which 02:30 does not exist, and the one in which it comes twice.
    for day in ("2026-03-29", "2026-10-25"):
        night = TimeWindow(EVERY_DAY, 60, 4 * 60, "Europe/Berlin")
        found = windows.opening((night,), moment(f"{day}T03:30", "Europe/Berlin"))
        assert found == Opening(True, moment(f"{day}T04:00", "Europe/Berlin"))


def test_each_group_must_be_open() -> None:
    morning = (TimeWindow(EVERY_DAY, 8 * 60, 12 * 60, "UTC"),)
    late = (TimeWindow(EVERY_DAY, 10 * 60, 14 * 60, "UTC"),)
    groups = (morning, late)
    assert windows.all_open(groups, moment("2026-11-25T11:00")) == Opening(
        True, moment("2026-11-25T12:00")
    )
    assert windows.all_open(groups, moment("2026-11-25T09:00")) == Opening(
        False, moment("2026-11-25T10:00")
    )


def test_a_window_without_days_never_opens() -> None:
    never = TimeWindow((), 0, 24 * 60, "UTC")
    assert windows.opening((never,), moment("2026-11-25T11:00")) == Opening(False, None)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "Europe", "x" * 5000])
def test_an_unknown_zone_says_so(name: str) -> None:
    with pytest.raises(UnknownZone, match="does not know the time zone"):
        windows.zone(name)


def test_the_text_is_short() -> None:
    assert windows.text(WORK) == "mon-fri 09:00-17:00 UTC"
    assert windows.text(TimeWindow((0, 2, 3), 0, 1440, "UTC")) == "mon,wed-thu 00:00-24:00 UTC"
    assert windows.text(TimeWindow(EVERY_DAY, 60, 120, "UTC")) == "01:00-02:00 UTC"


def test_moments_agree_with_the_clock() -> None:
    now = datetime(2026, 11, 25, 13, 30, tzinfo=UTC).timestamp()
    assert windows.opening((WORK,), now).open

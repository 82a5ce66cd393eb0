# SPDX-License-Identifier: Apache-2.0
"""Moments as people write them, and times as rictl prints them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from monitor.cli import moment
from monitor.cli.failure import UsageError

NOW = datetime(2026, 1, 31, 14, 30, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two hours east of Greenwich."""
    monkeypatch.setenv("TZ", "XXX-2")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604800), ("1w", 604800), ("0s", 0)],
)
def test_ago(text: str, seconds: int) -> None:
    assert moment.parse(text, NOW) == NOW - seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31T14:00:00+01:00", "2026-01-31T13:00:00+00:00"),
        ("2026-01-31T14:00:00Z", "2026-01-31T14:00:00+00:00"),
        ("2026-01-31T14:00:00.5Z", "2026-01-31T14:00:00.500000+00:00"),
        ("2026-01-31 14:00", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31", "2026-01-30T22:00:00+00:00"),
        ("today", "2026-01-30T22:00:00+00:00"),
    ],
)
def test_absolute(text: str, expected: str) -> None:
    parsed = datetime.fromtimestamp(moment.parse(text, NOW), UTC)
    assert parsed.isoformat() == expected


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-5m", "1.5h", "soon", "2026-13-01", "9" * 40 + "s"]
)
def test_nonsense(text: str) -> None:
    with pytest.raises(UsageError, match="not a moment"):
        moment.parse(text, NOW)


def test_more_than_all_time_ago_is_the_beginning() -> None:
    assert moment.parse("999999999w", NOW) == 0


def test_times_of_records_are_local() -> None:
    assert moment.local("2026-01-31T13:00:00.123456Z") == "2026-01-31 15:00:00"
    assert moment.local(NOW) == "2026-01-31 16:30:00"
    assert moment.local("when?") == "when?"


@pytest.mark.parametrize(
    ("left", "text"),
    [(-1, "over"), (0, "over"), (5, "5s"), (65, "1m05s"), (7260, "2h01m"), (90000, "1d01h")],
)
def test_until(left: int, text: str) -> None:
    assert moment.until(NOW + left, NOW) == text
    assert moment.until(None) == "never"

# SPDX-License-Identifier: Apache-2.0
"""Notices: the first refusal of each kind, one a second, and never waited for."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from monitor.daemon import notices
from monitor.daemon.notices import Notices
from monitor.launch import protocol
from monitor.policy.action import Verb


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("monitor.daemon.notices.time.monotonic", lambda: made.now)
    return made


class Ends:
    """A lifeline by both its ends."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.theirs.settimeout(0)

    def heard(self) -> list[str]:
        texts: list[str] = []
        while True:
            try:
                data = self.theirs.recv(protocol.MAXIMUM)
            except BlockingIOError:
                return texts
            if not data:
                return [*texts, "closed"]
            texts.append(protocol.decode(data).expect("notice").one("text").decode())


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.ours.close()
    made.theirs.close()


@pytest.fixture
def told(ends: Ends, clock: Clock) -> Notices:
    made = Notices()
    made.attach("one", ends.ours)
    return made


def test_the_first_refusal_of_an_object_is_told(told: Notices, ends: Ends, clock: Clock) -> None:
    for _ in range(3):
        told.denied("one", Verb.FILE_OPEN, "/etc/shadow", "no rule allows it")
        clock.now += 2
    assert ends.heard() == ["denied file.open /etc/shadow: no rule allows it"]
    told.denied("one", Verb.FILE_WRITE, "/etc/shadow", "no rule allows it")
    assert ends.heard() == ["denied file.write /etc/shadow: no rule allows it"]


def test_one_a_second_with_the_number_of_the_others(
    told: Notices, ends: Ends, clock: Clock
) -> None:
    for number in range(5):
        told.denied("one", Verb.FILE_OPEN, f"/{number}", "no")
    assert ends.heard() == ["denied file.open /0: no"]
    clock.now += 1
    # What was left out is told when it is met again.
    told.denied("one", Verb.FILE_OPEN, "/4", "no")
    assert ends.heard() == ["denied file.open /4: no (4 more were refused before)"]


def test_names_cannot_act_on_a_terminal(told: Notices, ends: Ends) -> None:
    told.denied("one", Verb.FILE_OPEN, "/a\x1b[2J\n\x00\udcff", "no")
    (line,) = ends.heard()
    assert line.isprintable()
    assert "\\x1b[2J\\n\\x00\\xff" in line


def test_long_names_are_cut(told: Notices, ends: Ends) -> None:
    told.denied("one", Verb.FILE_OPEN, "/" + "a" * 100_000, "no")
    (line,) = ends.heard()
    assert len(line) <= notices.LONGEST


def test_nobody_is_waited_for(told: Notices, ends: Ends, clock: Clock) -> None:
    for number in range(20_000):
        clock.now += 2
        told.denied("one", Verb.FILE_OPEN, f"/{number % 1000}-{'x' * 900}", "no")
    assert 0 < len(ends.heard()) <= 1000


def test_a_lifeline_that_is_gone_is_no_error(told: Notices, ends: Ends) -> None:
    ends.theirs.close()
    told.denied("one", Verb.FILE_OPEN, "/etc/shadow", "no")
    told.denied("other", Verb.FILE_OPEN, "/etc/shadow", "no")
    told.ending("other", "over")
    told.end("one")
    told.end("one")


def test_the_end_is_told_once_and_closes(told: Notices, ends: Ends) -> None:
    told.ending("one", "expired")
    told.ending("one", "expired")
    told.end("one")
    assert ends.heard() == ["the session ends: expired", "closed"]


def test_asks_and_answers_come_in_pairs(ends: Ends, clock: Clock) -> None:
    told = Notices()
    told.attach("s", ends.ours)
    told.asked("s", "held \x1b[31m")
    told.asked("s", "approved")
    assert ends.heard() == ["held \\x1b[31m", "approved"]
    for number in range(100):
        told.asked("s", str(number))
    assert len(ends.heard()) < notices.ASKS_AT_ONCE + 1, "many are left out"
    clock.now += 5
    told.asked("s", "later")
    assert ends.heard() == ["later"]
    told.asked("unknown", "nobody hears it")

# SPDX-License-Identifier: Apache-2.0
"""The channel between worker and gate, the desk's answers, and the loop's edge."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.daemon.gate.channel import MAXIMUM, Channel
from monitor.daemon.gate.desk import Desk, Question
from monitor.daemon.gate.loop import Loop
from monitor.policy.action import Verb

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    both = Channel(ours, lambda _waiting: None), Channel(theirs, lambda _waiting: None)
    yield both
    for each in both:
        each.close()


def question(link: int) -> Question:
    return Question(link, Verb.PROC_EXEC, "/bin/x", ("x",), "/", "rule", "why", 1, "/bin/sh", "key")


def test_messages_and_descriptors(pair: Pair) -> None:
    one, other = pair
    with Path(os.devnull).open("rb") as file:
        one.send({"do": "session", "text": "é"}, [file.fileno()])
    message, descriptors = other.receive() or ({}, [])
    assert message == {"do": "session", "text": "é"}
    assert len(descriptors) == 1
    os.close(descriptors[0])
    assert other.receive() is None
    with pytest.raises(ValueError, match="bytes"):
        one.send({"text": "x" * MAXIMUM})
    one.close()
    with pytest.raises(ConnectionError):
        other.receive()


def test_a_full_socket_makes_nobody_wait(pair: Pair) -> None:
    one, other = pair
    for number in range(20_000):
        one.send({"say": "record", "number": number, "more": "x" * 200})
    seen: list[int] = []
    while len(seen) < 20_000:
        while (received := other.receive()) is not None:
            seen.append(received[0]["number"])
        one.flush()
    assert seen == list(range(20_000))


def test_every_link_must_say_yes(pair: Pair) -> None:
    one, other = pair
    desk = Desk(one)
    told: list[tuple[bool, str]] = []
    number = desk.ask("s", [question(0), question(1)], lambda *answer: told.append(answer))
    answer = {"number": number, "allow": True, "reason": "fine"}
    desk.take_answer(answer | {"index": 0})
    assert told == []
    desk.take_answer(answer | {"index": 1})
    assert told == [(True, "fine; fine")]
    desk.take_answer(answer | {"index": 1})  # twice: nothing
    assert len(told) == 1
    number = desk.ask("s", [question(0), question(1)], lambda *answer: told.append(answer))
    desk.take_answer({"number": number, "index": 1, "allow": False, "reason": "no"})
    assert told[1:] == [(False, "no")]
    said = []
    while (received := other.receive()) is not None:
        said.append(received[0]["say"])
    assert said == ["ask", "ask", "ask", "ask", "gone"]


def test_what_raises_does_not_end_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    loop = Loop()
    done = []

    def fail() -> None:
        raise ValueError("wrong")

    loop.after(0, fail)
    loop.after(0.01, lambda: done.append(1))
    loop.after(0.02, loop.stop)
    loop.run()
    assert (done, loop.faults) == ([1], 1)
    assert "wrong" in capsys.readouterr().err

# SPDX-License-Identifier: Apache-2.0
"""Rules that ask, on the real kernel: an approval lets through what it names, and no more."""

from __future__ import annotations

import errno
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from monitor.policy.plan import Policy
from monitor.wire.events import DenyCause, NetEvent
from monitor.wire.layout import SessionFlag
from tests.support.probes import (
    TCP,
    UDP,
    Governed,
    Inside,
    Probes,
    boottime,
    inside,
    policy,
    ports,
    raw_connect,
    raw_sendto,
    sockaddr,
)

DONE, REFUSED, CLOSED = 0, errno.EPERM, errno.ECONNREFUSED
V4, STREAM, DGRAM = socket.AF_INET, socket.SOCK_STREAM, socket.SOCK_DGRAM
LOOPBACK = "::ffff:127.0.0.0/104"
HOST, PORT = "127.0.0.1", 9


def rules(ask: bool) -> Policy:
    """Everything on loopback by TCP and UDP: asked about, or allowed."""
    every = [ports(0, 65535, ask=ask), ports(0, 65535, protocol=UDP, ask=ask)]
    return policy(connect=[(LOOPBACK, every), ("::1/128", every)])


ASK, ALLOW = rules(ask=True), rules(ask=False)


def connect(host: str = HOST, port: int = PORT, kind: int = STREAM) -> int:
    family = socket.AF_INET6 if ":" in host else V4
    with socket.socket(family, kind) as sock:
        return raw_connect(sock, sockaddr(host, port))


def whole() -> int:
    """From socket(2) on, which is refused where everything is."""
    try:
        return connect()
    except PermissionError:
        return REFUSED


def connects(times: int) -> list[int]:
    return [connect() for _time in range(times)]


def approve(probes: Probes, session: Governed, **more: int) -> None:
    """Of the first link's rule on HOST and PORT by TCP."""
    probes.tables.approve(session.id, session.policy_ids[0], TCP, HOST, PORT, **more)


def causes(probes: Probes, session: Governed) -> set[DenyCause]:
    events = [e for e in probes.events(session) if isinstance(e, NetEvent)]
    return {event.cause for event in events} - {DenyCause.NONE}


def test_without_an_answer_it_is_refused(probes: Probes) -> None:
    with probes.running(ASK) as session:
        assert (
            inside(session, lambda: [connect(), connect("::1"), connect(kind=DGRAM)])
            == [REFUSED] * 3
        )
        assert causes(probes, session) == {DenyCause.UNANSWERED}
    with probes.running(ALLOW) as session:
        assert inside(session, lambda: [connect(), connect("::1"), connect(kind=DGRAM)]) == [
            CLOSED,
            CLOSED,
            DONE,
        ]


def test_an_approval_is_for_just_this(probes: Probes) -> None:
    with probes.running(ASK) as session, probes.running(ASK) as other:
        approve(probes, session)
        answers = inside(
            session,
            lambda: [
                connect(),
                connect(port=PORT + 1),
                connect("127.0.0.2"),
                connect("::1"),
                connect(kind=DGRAM),
            ],
        )
        assert answers == [CLOSED, REFUSED, REFUSED, REFUSED, REFUSED]
        assert inside(other, connect) == REFUSED


def test_an_approval_by_ipv4_is_one_for_the_mapped_address(probes: Probes) -> None:
    with probes.running(ASK) as session:
        approve(probes, session, uses=2)
        assert inside(session, lambda: [connect(), connect("::ffff:127.0.0.1")]) == [CLOSED] * 2
        assert inside(session, connect) == REFUSED


def test_uses_are_counted(probes: Probes) -> None:
    with probes.running(ASK) as session:
        approve(probes, session, uses=2)
        assert inside(session, lambda: connects(3)) == [CLOSED, CLOSED, REFUSED]
        approve(probes, session, uses=1)
        assert inside(session, lambda: connects(2)) == [CLOSED, REFUSED]
        approve(probes, session, uses=0)
        assert inside(session, connect) == REFUSED
        approve(probes, session)
        assert inside(session, lambda: connects(5)) == [CLOSED] * 5


def test_uses_are_counted_by_datagrams_too(probes: Probes) -> None:
    def send() -> list[int]:
        with socket.socket(V4, DGRAM) as sock:
            return [raw_sendto(sock, sockaddr(HOST, PORT)) for _time in range(3)]

    with probes.running(ASK) as session:
        probes.tables.approve(session.id, session.policy_ids[0], UDP, HOST, PORT, uses=2)
        # The port is closed: the second may be told of what became of the first.
        sent = inside(session, send)
        assert sent[0] == DONE
        assert sent[2] == REFUSED


@pytest.mark.parametrize("uses", [1, 50])
def test_no_use_is_taken_twice(probes: Probes, uses: int) -> None:
    def hammer() -> int:
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda _n: connect(kind=DGRAM), range(200))
            return sum(answer == DONE for answer in answers)

    with probes.running(ASK) as session:
        probes.tables.approve(session.id, session.policy_ids[0], UDP, HOST, PORT, uses=uses)
        together = [Inside(session, hammer) for _process in range(4)]
        assert sum(each.result() for each in together) == uses


def test_an_approval_ends_at_its_time(probes: Probes) -> None:
    with probes.running(ASK) as session:
        approve(probes, session, expires=boottime(30))
        assert inside(session, connect) == CLOSED
        approve(probes, session, expires=boottime(-0.001))
        assert inside(session, connect) == REFUSED


def test_each_link_is_answered_by_itself(probes: Probes) -> None:
    with probes.running(ASK, ALLOW, ASK) as session:
        first, _second, third = session.policy_ids
        assert inside(session, connect) == REFUSED
        probes.tables.approve(session.id, first, TCP, HOST, PORT)
        assert inside(session, connect) == REFUSED
        probes.tables.approve(session.id, third, TCP, HOST, PORT)
        assert inside(session, connect) == CLOSED


def test_an_approval_lifts_nothing_else(probes: Probes) -> None:
    nothing = policy(connect=[])
    with probes.running(ASK, nothing) as session:
        for number in session.policy_ids:
            probes.tables.approve(session.id, number, TCP, HOST, PORT)
        assert inside(session, connect) == REFUSED
        assert causes(probes, session) == {DenyCause.UNLISTED}
    with probes.running(ASK) as session:
        approve(probes, session)
        probes.tables.add_flags(session.id, SessionFlag.REVOKED)
        assert inside(session, whole) == REFUSED


def test_approvals_go_with_the_session(probes: Probes) -> None:
    before = probes.rows()["approvals"]
    with probes.running(ASK) as session:
        approve(probes, session)
        approve(probes, session)
        probes.tables.approve(session.id, session.policy_ids[0], TCP, "::1", PORT)
        assert probes.rows()["approvals"] == before + 2
        probes.tables.unapprove(session.id)
        assert inside(session, connect) == REFUSED
        approve(probes, session)
    assert probes.rows()["approvals"] == before


def test_observing_lets_it_pass_and_says_so(probes: Probes) -> None:
    with probes.running(ASK, flags=SessionFlag.OBSERVE) as session:
        assert inside(session, connect) == CLOSED
        (event,) = [e for e in probes.events(session) if isinstance(e, NetEvent)]
        assert (event.cause, event.observed) == (DenyCause.UNANSWERED, True)


def test_while_a_condition_does_not_hold_nothing_goes(probes: Probes) -> None:
    with probes.running(ALLOW) as session:
        probes.tables.add_flags(session.id, SessionFlag.PAUSED)
        assert inside(session, whole) == REFUSED
        assert causes(probes, session) == {DenyCause.CONDITION}
        probes.tables.clear_flags(session.id, SessionFlag.PAUSED)
        assert inside(session, connect) == CLOSED

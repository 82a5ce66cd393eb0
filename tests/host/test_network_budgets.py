# SPDX-License-Identifier: Apache-2.0
"""Budgets on the real kernel: exactly what is left may be used, whoever asks at once."""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest

from monitor.policy.plan import Budgets, Policy
from monitor.wire.events import DenyCause, NetEvent, NetOperation
from monitor.wire.layout import BudgetKind, SessionFlag
from tests.support.probes import (
    UDP,
    Governed,
    Inside,
    Probes,
    attempt,
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
MINUTE = 60 * 10**9


def rules(**budgets: int) -> Policy:
    every = [ports(0, 65535), ports(0, 65535, protocol=UDP)]
    return policy(connect=[(LOOPBACK, every), ("::1/128", every)], budgets=Budgets(**budgets))


UNLIMITED = rules()


@pytest.fixture(autouse=True)
def _within_one_minute() -> None:
    """Counts are for a minute of boottime: a test should not see two of them."""
    left = MINUTE - time.clock_gettime_ns(time.CLOCK_BOOTTIME) % MINUTE
    if left < 8 * 10**9:
        time.sleep(left / 1e9)


def connect(host: str = "127.0.0.1", kind: int = DGRAM) -> int:
    family = socket.AF_INET6 if ":" in host else V4
    with socket.socket(family, kind) as sock:
        return raw_connect(sock, sockaddr(host, 9))


def hammer(hosts: list[str]) -> int:
    """How many of many connects at once are let out."""
    with ThreadPoolExecutor(4) as pool:
        return sum(answer == DONE for answer in pool.map(connect, hosts))


def spent(probes: Probes, session: Governed) -> list[tuple[int, int]]:
    """(policy, kind of budget) of everything that a budget refused."""
    found = [e for e in probes.events(session) if isinstance(e, NetEvent) and e.cause.value]
    assert all(event.cause is DenyCause.OVER_BUDGET for event in found)
    return [(event.policy, event.rule) for event in found]


# -- connects -------------------------------------------------------------------------------------


def test_so_many_connects_and_no_more(probes: Probes) -> None:
    with probes.running(rules(connects=3)) as session:
        answers = inside(
            session, lambda: [connect(), connect(kind=STREAM), connect("::1"), connect(), connect()]
        )
        assert answers == [DONE, CLOSED, DONE, REFUSED, REFUSED]
        (number,) = session.policy_ids
        assert spent(probes, session) == [(number, BudgetKind.CONNECTS)] * 2
        assert probes.tables.usage(number)[BudgetKind.CONNECTS] >= 3
    with probes.running(UNLIMITED) as session:
        assert inside(session, lambda: hammer(["127.0.0.1"] * 50)) == 50
        assert probes.tables.usage(session.policy_ids[0]) == {}


def test_a_datagram_without_a_connection_counts_as_one(probes: Probes) -> None:
    def act() -> list[int]:
        with socket.socket(V4, DGRAM) as sock, socket.socket(V4, DGRAM) as other:
            sock.connect(("127.0.0.1", 9))
            to = sockaddr("127.0.0.2", 9)
            return [
                raw_sendto(other, to),
                raw_sendto(other, to),
                attempt(lambda: sock.send(b"x")),
                raw_sendto(other, to),
            ]

    with probes.running(rules(connects=3)) as session:
        assert inside(session, act) == [DONE, DONE, DONE, REFUSED]


@pytest.mark.parametrize("limit", [0, 1, 100])
@pytest.mark.once
def test_many_at_once_get_no_more_connects(probes: Probes, limit: int) -> None:
    with probes.running(rules(connects=limit)) as session:
        together = [Inside(session, lambda: hammer(["127.0.0.1"] * 200)) for _process in range(4)]
        assert sum(each.result() for each in together) == limit


def test_what_is_refused_uses_nothing_up(probes: Probes) -> None:
    with probes.running(rules(connects=2)) as session:
        assert inside(session, lambda: [connect("127.0.0.1"), attempt_elsewhere()]) == [DONE] * 2
        assert inside(session, connect) == DONE
        assert inside(session, connect) == REFUSED


def attempt_elsewhere() -> int:
    """A refused connect to where no rule lets it."""
    with socket.socket(V4, DGRAM) as sock:
        return DONE if raw_connect(sock, sockaddr("192.0.2.1", 9)) == REFUSED else -1


def test_another_minute_another_budget(probes: Probes) -> None:
    with probes.running(rules(connects=2)) as session:
        assert inside(session, lambda: hammer(["127.0.0.1"] * 5)) == 2
        earlier = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // MINUTE - 1
        key = struct.pack("=II", session.policy_ids[0], BudgetKind.CONNECTS)
        probes.tables._maps["usage"].update(key, struct.pack("=Q", earlier << 32 | 5))
        assert probes.tables.usage(session.policy_ids[0])[BudgetKind.CONNECTS] == 0
        together = [Inside(session, lambda: hammer(["127.0.0.1"] * 50)) for _process in range(4)]
        assert sum(each.result() for each in together) == 2


def test_every_link_has_its_own_budget(probes: Probes) -> None:
    with probes.running(UNLIMITED, rules(connects=3), rules(connects=2)) as session:
        assert inside(session, lambda: hammer(["127.0.0.1"] * 5)) == 2
        # The one before has counted what the smaller one refused then.
        assert spent(probes, session)[0] == (session.policy_ids[2], BudgetKind.CONNECTS)


def test_sessions_do_not_share_a_budget(probes: Probes) -> None:
    same = rules(connects=2)
    with probes.running(same) as one, probes.running(same) as other:
        assert inside(one, lambda: hammer(["127.0.0.1"] * 5)) == 2
        assert inside(other, lambda: hammer(["127.0.0.1"] * 5)) == 2


def test_without_its_count_a_budget_is_used_up(probes: Probes) -> None:
    with probes.running(rules(connects=5)) as session:
        key = struct.pack("=II", session.policy_ids[0], BudgetKind.CONNECTS)
        probes.tables._maps["usage"].delete(key)
        assert inside(session, connect) == REFUSED


def test_observing_refuses_nothing_and_says_so(probes: Probes) -> None:
    with probes.running(rules(connects=1), flags=SessionFlag.OBSERVE) as session:
        assert inside(session, lambda: hammer(["127.0.0.1"] * 3)) == 3
        assert len(spent(probes, session)) == 2


# -- destinations ---------------------------------------------------------------------------------


def test_so_many_destinations_and_no_more(probes: Probes) -> None:
    with probes.running(rules(destinations=2)) as session:

        def act() -> list[int]:
            with socket.socket(V4, DGRAM) as sock:
                return [
                    connect("127.0.0.1"),
                    connect("127.0.0.1", STREAM),
                    raw_sendto(sock, sockaddr("127.0.0.2", 9)),
                    connect("127.0.0.3"),
                    raw_sendto(sock, sockaddr("127.0.0.4", 9)),
                    connect("::1"),
                    connect("127.0.0.2"),
                ]

        assert inside(session, act) == [DONE, CLOSED, DONE, REFUSED, REFUSED, REFUSED, DONE]
        (number,) = session.policy_ids
        assert set(spent(probes, session)) == {(number, BudgetKind.DESTINATIONS)}
        assert probes.tables.usage(number) == {BudgetKind.DESTINATIONS: 2}
        probes.tables.refill(number, BudgetKind.DESTINATIONS)
        assert inside(session, lambda: [connect(f"127.0.0.{n}") for n in (7, 8, 9)]) == [
            DONE, DONE, REFUSED,
        ]  # fmt: skip


@pytest.mark.once
def test_many_at_once_reach_no_more_destinations(probes: Probes) -> None:
    hosts = [f"127.0.1.{n}" for n in range(1, 100)] * 2
    with probes.running(rules(destinations=20)) as session:
        together = [Inside(session, lambda: reached(hosts)) for _process in range(4)]
        every = set().union(*(each.result() for each in together))
        assert 0 < len(every) <= 20
        assert probes.tables.usage(session.policy_ids[0])[BudgetKind.DESTINATIONS] == len(every)


def reached(hosts: list[str]) -> set[str]:
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(connect, hosts)
        return {host for host, answer in zip(hosts, answers, strict=True) if answer == DONE}


# -- bytes ----------------------------------------------------------------------------------------


@contextmanager
def receiving() -> Iterator[socket.socket]:
    with socket.socket(V4, DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.5)
        yield sock


def test_so_many_bytes_and_no_more(probes: Probes) -> None:
    with receiving() as peer, probes.running(rules(egress=1000)) as session:
        address = peer.getsockname()

        def act() -> list[int]:
            with socket.socket(V4, DGRAM) as sock:
                sock.connect(address)
                # 28 bytes are headers.
                sizes = (372, 372, 372, 1)
                return [attempt(partial(sock.send, b"x" * size)) for size in sizes]

        assert inside(session, act) == [DONE, DONE, REFUSED, REFUSED]
        assert [len(peer.recv(2000)) for _datagram in range(2)] == [372, 372]
        with pytest.raises(TimeoutError):
            peer.recv(2000)
        # Once it is used up, a connection is refused by name, not left to wait.
        assert inside(session, lambda: connect(kind=STREAM)) == REFUSED
        found = [e for e in probes.events(session) if isinstance(e, NetEvent) and e.cause.value]
        assert {event.rule for event in found} == {BudgetKind.EGRESS}
        assert [event.operation for event in found][0] is NetOperation.SEND
        probes.tables.refill(session.policy_ids[0], BudgetKind.EGRESS)
        assert inside(session, lambda: connect(kind=STREAM)) == CLOSED


def test_a_stream_stops_at_the_budget(probes: Probes) -> None:
    limit = 200_000
    with socket.create_server(("127.0.0.1", 0)) as server, \
            probes.running(rules(egress=limit)) as session:  # fmt: skip
        address = server.getsockname()

        def act() -> bool:
            with socket.create_connection(address) as sock:
                sock.settimeout(0.5)
                try:
                    for _chunk in range(1000):
                        sock.sendall(b"x" * 1000)
                except TimeoutError:
                    return True
                return False

        sending = Inside(session, act)
        peer = server.accept()[0]
        peer.settimeout(1.5)
        got = 0
        with peer, pytest.raises((TimeoutError, ConnectionError)):
            while True:
                data = peer.recv(65536)
                if not data:
                    raise TimeoutError
                got += len(data)
        assert 0 < got <= limit
        sending.result()


def test_the_rows_of_budgets_go_with_the_session(probes: Probes) -> None:
    before = probes.rows()
    with probes.running(rules(connects=3, destinations=3, egress=9999, execs=2)) as session:
        inside(session, lambda: hammer(["127.0.0.1", "127.0.0.2"]))
        (number,) = session.policy_ids
        assert probes.tables.budgets(number) == Budgets(3, 3, 9999, 2, None)
        # As after a restart: what was used stays used.
        probes.tables.install(session.id, [(number, rules(connects=3, destinations=3))])
        assert probes.tables.usage(number)[BudgetKind.CONNECTS] == 2
    assert probes.rows() == before


def test_a_full_map_refuses_the_session_whole(probes: Probes) -> None:
    before = probes.rows()
    table = probes.tables._maps["budgets"]
    filled = [struct.pack("=I", 1_000_000 + number) for number in range(4096)]
    try:
        for key in filled:
            table.update(key, bytes(table.value_size))
        with pytest.raises(OSError, match="budgets"):
            probes.session(rules(connects=3))
        with probes.running(UNLIMITED) as session:
            assert inside(session, connect) == DONE
    finally:
        for key in filled:
            table.delete(key)
    assert probes.rows() == before


def test_uses_that_a_gate_counts(probes: Probes) -> None:
    with probes.running(rules(deletes=2)) as session:
        (number,) = session.policy_ids
        counts = [probes.tables.count(number, BudgetKind.DELETES) for _use in range(3)]
        assert counts == [1, 2, 3]
        assert probes.tables.usage(number) == {BudgetKind.DELETES: 3}

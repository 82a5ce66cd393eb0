# SPDX-License-Identifier: Apache-2.0
"""Labels on the real kernel: earned before the call returns, and asked of every packet then."""

from __future__ import annotations

import errno
import mmap
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from monitor.policy.plan import Label, Policy
from monitor.wire.events import DenyCause, LabelEvent, NetEvent, NetOperation
from monitor.wire.layout import SessionFlag
from tests.support.daemon import wait_until
from tests.support.probes import (
    TCP,
    UDP,
    Governed,
    Inside,
    Probes,
    attempt,
    inside,
    label,
    policy,
    ports,
    raw_connect,
    sockaddr,
)

DONE, REFUSED, CLOSED = 0, errno.EPERM, errno.ECONNREFUSED
V4, STREAM, DGRAM = socket.AF_INET, socket.SOCK_STREAM, socket.SOCK_DGRAM
# What earns the label, what stays, and what is lost by it.
EARNS, STAYS, LOST = "127.0.0.10", "127.0.0.11", "127.0.0.12"
CONTROL_TIMESTAMP = 35  # SO_TIMESTAMPNS, asm-generic/socket.h


def host(address: str) -> str:
    return f"::ffff:{address}/128"


EVERY = [ports(0, 65535), ports(0, 65535, protocol=UDP)]
LABELLED = [ports(0, 65535, rule=3, label=0), ports(0, 65535, protocol=UDP, rule=3, label=0)]
BIND = [("::ffff:127.0.0.0/104", [ports(0, 65535), ports(0, 65535, protocol=UDP)])]
NARROW = policy(connect=[(host(STAYS), EVERY), (host(EARNS), EVERY)], bind=BIND)


def rules(*labels: Label) -> Policy:
    """Three hosts; to connect to the first earns the first label."""
    return policy(
        connect=[(host(EARNS), LABELLED), (host(STAYS), EVERY), (host(LOST), EVERY)],
        bind=BIND,
        labels=labels or (label("seen", NARROW),),
    )


RULES = rules()


def connect(address: str, port: int = 9, kind: int = STREAM) -> int:
    with socket.socket(V4, kind) as sock:
        return raw_connect(sock, sockaddr(address, port))


def all_three() -> list[int]:
    return [connect(address) for address in (STAYS, LOST, EARNS)]


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """A TCP listener outside of all sessions."""
    with socket.create_server((address, 0)) as server:
        server.settimeout(5)
        yield server


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def labels(probes: Probes, session: Governed) -> list[LabelEvent]:
    return [e for e in probes.events(session) if isinstance(e, LabelEvent)]


# -- earning --------------------------------------------------------------------------------------


def test_a_connection_earns_it_and_the_next_call_feels_it(probes: Probes) -> None:
    with probes.running(RULES) as session:
        assert probes.tables.earned(session.label_ids) == set()
        assert inside(session, lambda: connect(LOST)) == CLOSED
        assert inside(session, lambda: connect(EARNS)) == CLOSED
        assert probes.tables.earned(session.label_ids) == set(session.label_ids)
        # The children that come later have it too.
        assert inside(session, all_three) == [CLOSED, REFUSED, CLOSED]
        (event,) = [e for e in probes.events(session) if isinstance(e, NetEvent) and e.cause.value]
        assert (event.cause, event.policy) == (DenyCause.UNLISTED, session.label_ids[0])


def test_it_is_told_once(probes: Probes) -> None:
    with probes.running(RULES) as session:
        inside(session, lambda: [connect(EARNS, port) for port in range(9, 40)])
        (event,) = labels(probes, session)
        assert (event.address, event.port, event.protocol) == (EARNS, 9, TCP)
        assert (event.operation, event.rule) == (NetOperation.CONNECT, 3)
        assert event.policy == session.label_ids[0]


def test_a_datagram_earns_it(probes: Probes) -> None:
    def send() -> int:
        with socket.socket(V4, DGRAM) as sock:
            return attempt(lambda: sock.sendto(b"x", (EARNS, 9)))

    with probes.running(RULES) as session:
        assert inside(session, send) == DONE
        assert inside(session, all_three) == [CLOSED, REFUSED, CLOSED]
        (event,) = labels(probes, session)
        assert (event.operation, event.protocol) == (NetOperation.SEND, UDP)


def test_what_another_link_denies_earns_nothing(probes: Probes) -> None:
    other = policy(connect=[(host(STAYS), EVERY), (host(LOST), EVERY)])
    with probes.running(RULES, other) as session:
        assert inside(session, lambda: connect(EARNS)) == REFUSED
        assert inside(session, lambda: connect(LOST)) == CLOSED
        assert probes.tables.earned(session.label_ids) == set()


def test_without_a_label_nothing_is_taken_away(probes: Probes) -> None:
    plain = policy(connect=[(host(each), EVERY) for each in (EARNS, STAYS, LOST)], bind=BIND)
    with probes.running(plain) as session:
        assert inside(session, lambda: [connect(EARNS), *all_three()]) == [CLOSED] * 4


def test_a_label_of_any_link_counts(probes: Probes) -> None:
    plain = policy(connect=[(host(each), EVERY) for each in (EARNS, STAYS, LOST)], bind=BIND)
    with probes.running(plain, RULES, plain) as session:
        assert inside(session, lambda: [connect(EARNS), *all_three()]) == [
            CLOSED, CLOSED, REFUSED, CLOSED,
        ]  # fmt: skip


def test_of_several_labels_each_is_earned_by_itself(probes: Probes) -> None:
    first = policy(connect=[(host(EARNS), EVERY), (host(STAYS), EVERY)], bind=BIND)
    second = policy(connect=[(host(EARNS), EVERY), (host(LOST), EVERY)], bind=BIND)
    both = policy(
        connect=[
            (host(EARNS), [ports(1, label=0), ports(2, label=1), ports(3, 65535)]),
            (host(STAYS), EVERY),
            (host(LOST), EVERY),
        ],
        labels=[label("first", first), label("second", second)],
    )
    with probes.running(both) as session:
        assert inside(session, lambda: [connect(EARNS, 2), *all_three()]) == [
            CLOSED, REFUSED, CLOSED, CLOSED,
        ]  # fmt: skip
        assert probes.tables.earned(session.label_ids) == {session.label_ids[1]}
        assert inside(session, lambda: [connect(EARNS, 1), *all_three()]) == [
            CLOSED, REFUSED, REFUSED, CLOSED,
        ]  # fmt: skip


def test_a_label_that_leaves_the_network_alone_is_earned_too(probes: Probes) -> None:
    with probes.running(rules(label("seen", None))) as session:
        assert inside(session, lambda: [connect(EARNS), *all_three()]) == [CLOSED] * 4
        assert probes.tables.earned(session.label_ids) == set(session.label_ids)
        assert len(labels(probes, session)) == 1


@pytest.mark.parametrize("ask", [True, False])
def test_what_a_label_takes_away_it_takes_from_what_earned_it(probes: Probes, ask: bool) -> None:
    """Refused by name: its packets would not leave, and it would wait for nothing."""
    narrowed = policy(connect=[(host(EARNS), [ports(0, 65535, ask=ask, allow=False)])])
    with probes.running(rules(label("seen", narrowed))) as session:
        assert inside(session, lambda: connect(EARNS)) == REFUSED
        assert probes.tables.earned(session.label_ids) == set(session.label_ids)
        earned, refused = [
            e for e in probes.events(session) if isinstance(e, LabelEvent | NetEvent)
        ]
        assert isinstance(earned, LabelEvent)
        assert isinstance(refused, NetEvent)
        assert refused.policy == session.label_ids[0]
        assert refused.cause is (DenyCause.UNANSWERED if ask else DenyCause.RULE)
        assert inside(session, lambda: connect(STAYS)) == REFUSED
    with probes.running(rules(label("seen", narrowed))) as session:
        probes.tables.approve(session.id, session.label_ids[0], TCP, EARNS, 9, uses=1)
        assert inside(session, lambda: [connect(EARNS), connect(EARNS)]) == (
            [CLOSED, REFUSED] if ask else [REFUSED, REFUSED]
        )


def test_a_gate_and_a_person_have_the_same_row(probes: Probes) -> None:
    with probes.running(RULES) as session:
        (number,) = session.label_ids
        assert probes.tables.earn(number)
        assert not probes.tables.earn(number)
        assert inside(session, all_three) == [CLOSED, REFUSED, CLOSED]
        assert labels(probes, session) == []  # who wrote the row tells of it
        probes.tables.unearn(number)
        assert inside(session, lambda: connect(LOST)) == CLOSED
        assert inside(session, all_three) == [CLOSED, CLOSED, CLOSED]
        assert inside(session, all_three) == [CLOSED, REFUSED, CLOSED]


def test_without_its_row_a_label_counts(probes: Probes) -> None:
    with probes.running(RULES) as session:
        (number,) = session.label_ids
        probes.tables._maps["earned"].delete(struct.pack("=I", number))
        assert probes.tables.earned([number]) == {number}
        assert inside(session, all_three) == [CLOSED, REFUSED, CLOSED]


def test_labels_go_with_the_session_and_stay_with_its_row(probes: Probes) -> None:
    before = probes.rows()
    with probes.running(RULES) as session:
        inside(session, lambda: connect(EARNS))
        # As after a restart: the same again changes nothing that was earned.
        pairs = [(session.policy_ids[0], RULES)]
        probes.tables.install(session.id, pairs, labels=session.label_ids)
        assert probes.tables.earned(session.label_ids) == set(session.label_ids)
        probes.tables.set_flags(session.id, SessionFlag.EVERY)
        assert inside(session, all_three) == [CLOSED, REFUSED, CLOSED]
    assert probes.rows() == before


def test_observing_takes_nothing_away(probes: Probes) -> None:
    with probes.running(RULES, flags=SessionFlag.OBSERVE) as session:
        assert inside(session, lambda: [connect(EARNS), *all_three()]) == [CLOSED] * 4
        observed = [e for e in probes.events(session) if isinstance(e, NetEvent) and e.observed]
        assert {(e.address, e.policy) for e in observed} == {(LOST, session.label_ids[0])}


# -- what is open already -------------------------------------------------------------------------


@pytest.mark.once
def test_nothing_leaves_what_is_open_and_lost(probes: Probes) -> None:
    with listening(LOST) as lost, listening(STAYS) as stays, probes.running(RULES) as session:

        def act() -> None:
            with socket.create_connection((LOST, port_of(lost))) as first, \
                    socket.create_connection((STAYS, port_of(stays))) as second:  # fmt: skip
                first.sendall(b"before")
                connect(EARNS)
                first.sendall(b"after")
                second.sendall(b"after")
                time.sleep(0.5)

        acting = Inside(session, act)
        peer, other = lost.accept()[0], stays.accept()[0]
        with peer, other:
            peer.settimeout(5)
            assert other.recv(100) == b"after"
            assert peer.recv(100) == b"before"
            peer.settimeout(1)
            with pytest.raises((TimeoutError, ConnectionError)):
                peer.recv(100)
            acting.result()
        refused = [e for e in probes.events(session) if isinstance(e, NetEvent) and e.cause.value]
        # The kernel goes on trying; that is told once, and then only counted.
        first = refused[0]
        assert (first.operation, first.address, first.policy, first.pid) == (
            NetOperation.SEND, LOST, session.label_ids[0], 0,
        )  # fmt: skip
        assert len(refused) <= 2


def test_a_connected_datagram_socket_is_lost_too(probes: Probes) -> None:
    with socket.socket(V4, DGRAM) as peer, probes.running(RULES) as session:
        peer.bind((LOST, 0))
        peer.settimeout(1)
        address = peer.getsockname()

        def act() -> list[int]:
            with socket.socket(V4, DGRAM) as sock:
                sock.connect(address)
                before = attempt(lambda: sock.send(b"before"))
                connect(EARNS)
                return [before, attempt(lambda: sock.send(b"after"))]

        assert inside(session, act) == [DONE, REFUSED]
        assert peer.recv(100) == b"before"
        with pytest.raises(TimeoutError):
            peer.recv(100)


@pytest.mark.parametrize("address", ["::1", f"::ffff:{LOST}"])
def test_ipv6_is_lost_too(probes: Probes, address: str) -> None:
    made = policy(
        connect=[(host(EARNS), LABELLED), (host(LOST), EVERY), ("::1/128", EVERY)],
        labels=[label("seen", NARROW)],
    )
    with socket.socket(socket.AF_INET6, DGRAM) as peer, probes.running(made) as session:
        peer.bind(("::", 0))
        peer.settimeout(1)
        port = port_of(peer)

        def act() -> list[int]:
            with socket.socket(socket.AF_INET6, DGRAM) as sock:
                sock.connect((address, port))
                before = attempt(lambda: sock.send(b"before"))
                connect(EARNS)
                return [before, attempt(lambda: sock.send(b"after"))]

        assert inside(session, act) == [DONE, REFUSED]
        assert peer.recv(100) == b"before"
        with pytest.raises(TimeoutError):
            peer.recv(100)


def test_a_label_that_asks_lets_approved_connections_go_on(probes: Probes) -> None:
    asks = [ports(0, 65535, ask=True), ports(0, 65535, protocol=UDP, ask=True)]
    ranges = {EARNS: EVERY, STAYS: asks, LOST: asks}
    narrowed = policy(connect=[(host(each), ranges[each]) for each in ranges], bind=BIND)
    with listening(LOST) as lost, listening(STAYS) as stays, \
            probes.running(rules(label("seen", narrowed))) as session:  # fmt: skip
        (number,) = session.label_ids
        probes.tables.approve(session.id, number, TCP, LOST, port_of(lost), uses=1)

        def act() -> list[int]:
            before = socket.create_connection((STAYS, port_of(stays)))
            answers = [connect(EARNS), connect(STAYS)]
            with before, socket.create_connection((LOST, port_of(lost))) as approved:
                approved.sendall(b"approved")
                before.sendall(b"not approved")
                answers.append(connect(LOST, port_of(lost)))
                time.sleep(0.3)
                return answers

        acting = Inside(session, act)
        peer, other = lost.accept()[0], stays.accept()[0]
        with peer, other:
            peer.settimeout(5)
            assert peer.recv(100) == b"approved"
            other.settimeout(1)
            with pytest.raises((TimeoutError, ConnectionError)):
                other.recv(100)
        assert acting.result() == [CLOSED, REFUSED, REFUSED]


def test_who_connected_in_is_answered_still(probes: Probes) -> None:
    """A connection that came in is no way out: its peer chose it, and bind rules let it."""
    with probes.running(RULES) as session:
        shared = mmap.mmap(-1, 4096)

        def serve() -> str:
            with socket.create_server(("127.0.0.13", 0)) as server:
                shared[:2] = port_of(server).to_bytes(2, "little")
                peer = server.accept()[0]
                with peer:
                    connect(EARNS)
                    peer.sendall(b"answer")
                    return peer.recv(100).decode()

        serving = Inside(session, serve)
        wait_until(lambda: shared[:2] != b"\0\0")
        port = int.from_bytes(shared[:2], "little")
        with socket.create_connection(("127.0.0.13", port), 5, (LOST, 0)) as client:
            assert client.recv(100) == b"answer"
            client.sendall(b"thanks")
            assert serving.result() == "thanks"


def test_a_connection_made_from_a_port_to_listen_on_is_lost(probes: Probes) -> None:
    """It has the ends of one that came in, but it was made."""
    with listening(LOST) as lost, probes.running(RULES) as session:

        def act() -> None:
            with socket.socket(V4, STREAM) as sock:
                sock.bind(("127.0.0.13", 0))
                sock.connect((LOST, port_of(lost)))
                connect(EARNS)
                sock.sendall(b"after")
                time.sleep(0.3)

        acting = Inside(session, act)
        peer = lost.accept()[0]
        with peer:
            peer.settimeout(1)
            with pytest.raises((TimeoutError, ConnectionError)):
                peer.recv(100)
        acting.result()


# -- races ----------------------------------------------------------------------------------------

ROUNDS = 25
THREADS = 8


def last_arrival(peer: socket.socket) -> float:
    """When the kernel took in the last data that waits, in Unix seconds; 0: there is none."""
    latest = 0.0
    peer.setblocking(False)
    while True:
        try:
            data, control, _flags, _address = peer.recvmsg(100, 100)
        except (BlockingIOError, ConnectionResetError):
            return latest
        if not data:
            return latest
        for _level, _kind, data in control:
            seconds, nanoseconds = struct.unpack("=qq", data)
            latest = max(latest, seconds + nanoseconds / 1e9)


@pytest.mark.parametrize("connected", [True, False])
def test_no_datagram_leaves_after_the_earning_call_returned(
    probes: Probes, connected: bool
) -> None:
    """Threads send to the lost host in a tight loop, while one connects to what earns the label."""
    sent = 0
    for _round in range(ROUNDS):
        with socket.socket(V4, DGRAM) as peer, probes.running(RULES) as session:
            peer.setsockopt(socket.SOL_SOCKET, CONTROL_TIMESTAMP, 1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
            peer.bind((LOST, 0))
            returned, count = inside(session, lambda: race(peer.getsockname(), connected))
            assert count > 0
            sent += count
            time.sleep(0.02)
            assert last_arrival(peer) < returned
    assert sent > ROUNDS * THREADS


def race(address: tuple[str, int], connected: bool) -> tuple[float, int]:
    """When the earning call returned, and how many datagrams were sent before they were refused."""
    go, sent = threading.Event(), [0] * THREADS

    def send(number: int) -> None:
        with socket.socket(V4, DGRAM) as sock:
            if connected:
                sock.connect(address)
            go.wait()
            while True:
                try:
                    sock.send(b"x") if connected else sock.sendto(b"x", address)
                except PermissionError:
                    return
                sent[number] += 1

    threads = [threading.Thread(target=send, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    go.set()
    time.sleep(0.005)
    with socket.socket(V4, DGRAM) as sock:
        sock.connect((EARNS, 9))
        returned = time.time()
    for thread in threads:
        thread.join()
    return returned, sum(sent)


def test_no_connection_is_made_after_the_earning_call_returned(probes: Probes) -> None:
    for _round in range(ROUNDS):
        with listening(LOST) as lost, probes.running(RULES) as session:
            lost.listen(4096)
            lost.setsockopt(socket.SOL_SOCKET, CONTROL_TIMESTAMP, 1)
            address = (LOST, port_of(lost))
            racing = Inside(session, partial(connect_race, address))
            returned = racing.result()
            lost.setblocking(False)
            while True:
                try:
                    peer = lost.accept()[0]
                except BlockingIOError:
                    break
                with peer:
                    # What was connected before may be open, and then nothing more came by it.
                    assert last_arrival(peer) < returned


def connect_race(address: tuple[str, int]) -> float:
    go, end = threading.Event(), threading.Event()

    def dial() -> None:
        go.wait()
        while not end.is_set():
            with socket.socket(V4, STREAM) as sock:
                sock.settimeout(0.2)
                try:
                    sock.connect(address)
                    sock.send(b"x")
                except OSError:
                    return

    threads = [threading.Thread(target=dial) for _n in range(THREADS)]
    for thread in threads:
        thread.start()
    go.set()
    time.sleep(0.005)
    with socket.socket(V4, DGRAM) as sock:
        sock.connect((EARNS, 9))
        returned = time.time()
    time.sleep(0.01)
    end.set()
    for thread in threads:
        thread.join()
    return returned

# SPDX-License-Identifier: Apache-2.0
"""A session's row: expiry, revocation, observing, cgroups without one, full maps."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable

import pytest

from monitor.daemon.probes import pins
from monitor.daemon.probes.tables import KernelTables
from monitor.kernel.bpf import Map
from monitor.policy.plan import Policy, SocketRule
from monitor.wire.events import DenyCause, NetEvent, NetOperation
from monitor.wire.layout import SessionFlag
from monitor.wire.rows import SessionRow, policy_rows
from tests.support.probes import (
    UDP,
    Inside,
    Probes,
    attempt,
    boottime,
    inside,
    policy,
    ports,
    raw_bind,
    raw_connect,
    raw_sendto,
    sockaddr,
)

DONE, REFUSED, CLOSED = 0, errno.EPERM, errno.ECONNREFUSED
V4, STREAM, DGRAM = socket.AF_INET, socket.SOCK_STREAM, socket.SOCK_DGRAM
ALLOWED, DENIED = sockaddr("127.0.0.1", 9), sockaddr("127.0.0.2", 9)

NARROW = policy(
    connect=[("::ffff:127.0.0.1/128", [ports(9), ports(9, protocol=UDP)])],
    bind=[("::ffff:127.0.0.1/128", [ports(0, 65535)])],
)


def connect(address: bytes) -> int:
    with socket.socket(V4, STREAM) as sock:
        return raw_connect(sock, address)


def everything() -> dict[str, int]:
    """One of each action that NARROW allows."""
    with socket.socket(V4, DGRAM) as udp, socket.socket(V4, STREAM) as tcp:
        return {
            "socket": attempt(lambda: socket.socket(V4, STREAM).close()),
            "connect": raw_connect(tcp, ALLOWED),
            "send": raw_sendto(udp, ALLOWED),
            "bind": raw_bind(tcp, sockaddr("127.0.0.1", 0)),
        }


def sockets_made_before(then: Callable[[], object]) -> dict[str, int]:
    """The same, on sockets that were made before `then`."""
    with socket.socket(V4, DGRAM) as udp, socket.socket(V4, STREAM) as tcp, \
            socket.socket(socket.AF_UNIX) as unix:  # fmt: skip
        then()
        return {
            "socket": attempt(lambda: socket.socket(V4, STREAM).close()),
            "connect": raw_connect(tcp, ALLOWED),
            "send": raw_sendto(udp, ALLOWED),
            "bind": raw_bind(tcp, sockaddr("127.0.0.1", 0)),
            "unix": attempt(lambda: unix.connect("/run/ri-no-such")),
        }


def causes(probes: Probes, cgroup: int) -> set[DenyCause]:
    events = [e for e in probes.events() if e.cgroup == cgroup and isinstance(e, NetEvent)]
    return {event.cause for event in events} - {DenyCause.NONE}


# -- expiry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [SessionFlag.NONE, SessionFlag.OBSERVE])
def test_expiry_comes_to_the_moment_without_anybody(probes: Probes, flags: SessionFlag) -> None:
    expires = boottime(0.4)

    def act() -> tuple[int, int]:
        """When the last connect was let out and when the first was refused."""
        with socket.socket(V4, DGRAM) as sock:
            while True:
                before = boottime()
                answer = raw_connect(sock, ALLOWED)
                if answer:
                    return before, answer
                assert boottime() < expires + 10**9

    with probes.running(NARROW, expires=expires, flags=flags) as session:
        refused, answer = inside(session, act)
        assert answer == REFUSED
        # The refused call began up to one round before; no call that began later was let out.
        assert -5_000_000 < refused - expires < 100_000_000
        assert causes(probes, session.id) == {DenyCause.EXPIRED}
        assert inside(session, lambda: attempt(lambda: socket.socket(V4, STREAM))) == REFUSED


def test_everything_expires(probes: Probes) -> None:
    with probes.running(NARROW) as session:
        identity = session.id

        def expire() -> None:
            probes.tables.set_expiry(identity, boottime(-0.001))

        with Holding() as hold:
            waiting = Inside(session, lambda: sockets_made_before(hold.wait))
            hold.let_go(expire)
        assert set(waiting.result().values()) == {REFUSED}
        assert causes(probes, identity) == {DenyCause.EXPIRED}
        probes.tables.set_expiry(identity, 0)
        assert inside(session, lambda: connect(ALLOWED)) == CLOSED


class Holding:
    """Lets a forked process wait while the test changes what it is held to."""

    def __init__(self) -> None:
        self.reached = os.pipe()
        self.go = os.pipe()

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *_exception: object) -> None:
        for end in (*self.reached, *self.go):
            os.close(end)

    def wait(self) -> None:
        """In the forked process."""
        os.write(self.reached[1], b"x")
        os.read(self.go[0], 1)

    def let_go(self, first: Callable[[], object]) -> None:
        """In the test: `first` runs while the process waits."""
        os.read(self.reached[0], 1)
        first()
        os.write(self.go[1], b"x")


# -- revocation, observing ------------------------------------------------------------------------


@pytest.mark.parametrize("before", [SessionFlag.NONE, SessionFlag.OBSERVE, SessionFlag.EVERY])
@pytest.mark.once
def test_revoked_refuses_everything_at_once(probes: Probes, before: SessionFlag) -> None:
    with probes.running(NARROW, flags=before) as session:
        identity = session.id
        assert REFUSED not in inside(session, everything).values()
        probes.events()
        with Holding() as hold:
            waiting = Inside(session, lambda: sockets_made_before(hold.wait))
            hold.let_go(lambda: probes.tables.set_flags(identity, SessionFlag.REVOKED | before))
        assert set(waiting.result().values()) == {REFUSED}
        assert causes(probes, identity) == {DenyCause.DENY_ALL}
        probes.tables.set_flags(identity, before)
        assert REFUSED not in inside(session, everything).values()


def test_observe_lets_pass_and_says_so(probes: Probes) -> None:
    def act() -> list[int]:
        with socket.socket(V4, DGRAM) as udp:
            return [connect(ALLOWED), connect(DENIED), raw_sendto(udp, DENIED)]

    with probes.running(NARROW) as session:
        assert inside(session, act) == [CLOSED, REFUSED, REFUSED]
    with probes.running(NARROW, flags=SessionFlag.OBSERVE) as session:
        probes.events()
        assert inside(session, act) == [CLOSED, CLOSED, DONE]
        events = [event for event in probes.events(session) if isinstance(event, NetEvent)]
        assert [(event.operation, event.cause, event.observed) for event in events] == [
            (NetOperation.CONNECT, DenyCause.NONE, False),
            (NetOperation.CONNECT, DenyCause.UNLISTED, True),
            (NetOperation.SEND, DenyCause.UNLISTED, True),
        ]


def test_every_denial_is_recorded_and_repeats_of_what_is_allowed_are_counted(
    probes: Probes,
) -> None:
    def act() -> None:
        for _round in range(5):
            connect(ALLOWED)
            connect(DENIED)

    for flags, recorded in ((SessionFlag.NONE, 1), (SessionFlag.EVERY, 5)):
        with probes.running(NARROW, flags=flags) as session:
            inside(session, act)
            events = [event for event in probes.events(session) if isinstance(event, NetEvent)]
            allowed = [event for event in events if not event.cause.value]
            assert (len(allowed), len(events) - len(allowed)) == (recorded, 5)
            counted = probes.reader.sweep(session.id)
            assert sum(event.count for event in counted) == 5 - recorded


# -- what is established --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["expired", "expired while observing", "revoked", "no row"])
def test_what_is_established_ends_with_authority(probes: Probes, how: str) -> None:
    """Nothing leaves by a connection of before, though nobody cuts it; given back, it does."""
    rules = policy(
        connect=[("::ffff:127.0.0.1/128", [ports(0, 65535), ports(0, 65535, protocol=UDP)])]
    )
    observe = SessionFlag.OBSERVE if "observing" in how else SessionFlag.NONE
    with (
        socket.socket() as listener,
        socket.socket(type=DGRAM) as receiver,
        probes.running(rules, flags=observe) as session,
        Holding() as hold,
    ):
        for sock in (listener, receiver):
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(0.3)
        listener.listen()
        to_stream, to_datagram = listener.getsockname(), receiver.getsockname()
        identity = session.id

        def talk() -> tuple[int, int]:
            with socket.socket() as tcp, socket.socket(type=DGRAM) as udp:
                tcp.connect(to_stream)
                udp.connect(to_datagram)
                tcp.send(b"before,")
                udp.send(b"before")
                hold.wait()
                answers = attempt(lambda: tcp.send(b"after")), attempt(lambda: udp.send(b"after"))
                hold.wait()
                return answers

        def take_away() -> None:
            assert connection.recv(100) == b"before,"
            assert receiver.recv(100) == b"before"
            if how == "revoked":
                probes.tables.set_flags(identity, SessionFlag.REVOKED)
            elif how == "no row":
                probes.tables.remove(identity)
            else:
                probes.tables.set_expiry(identity, boottime(-0.001))

        def give_back() -> None:
            for sock in (connection, receiver):
                with pytest.raises(TimeoutError):
                    sock.recv(100)
            probes.tables.install(identity, [(session.policy_ids[0], rules)])

        talking = Inside(session, talk)
        connection = listener.accept()[0]
        with connection:
            connection.settimeout(0.3)
            hold.let_go(take_away)
            hold.let_go(give_back)
            assert talking.result() == (DONE, REFUSED)
            connection.settimeout(5)
            assert connection.recv(100) == b"after"


# -- cgroups without a row ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["beside", "nested", "root"])
def test_a_cgroup_without_a_row_is_refused_everything(probes: Probes, kind: str) -> None:
    """A cgroup inside a session's is no way out: it has no row, so nothing is allowed in it."""

    def act() -> list[int]:
        return [
            attempt(lambda: socket.socket(V4, STREAM).close()),
            attempt(lambda: socket.socket(socket.AF_INET6, DGRAM).close()),
            attempt(lambda: socket.socket(socket.AF_UNIX).connect("/run/ri-no-such")),
        ]

    with probes.running(NARROW, flags=SessionFlag.OBSERVE) as session:
        nested = {"nested": session, "beside": None}
        cgroup = probes.root if kind == "root" else probes.cgroup(nested[kind])
        assert inside(session, act) == [DONE, DONE, errno.ENOENT]
        assert inside(cgroup, act) == [REFUSED] * 3
        assert causes(probes, cgroup.id) == {DenyCause.DENY_ALL}
        if kind != "root":
            cgroup.remove()


def test_sockets_made_in_a_session_do_not_work_in_a_cgroup_without_a_row(probes: Probes) -> None:
    with probes.running(NARROW) as session:
        nested = probes.cgroup(session)

        def move() -> None:
            (nested.path / "cgroup.procs").write_text("0")

        answers = inside(session, lambda: sockets_made_before(move))
        assert set(answers.values()) == {REFUSED}
        nested.remove()


# -- installing and removing ----------------------------------------------------------------------

UNIX_ROWS, SOCKET_ROWS, PREFIX_ROWS = 16384, 65536, 65536


def many_sockets(count: int) -> tuple[SocketRule, ...]:
    return tuple(SocketRule(number >> 16, 1, 1 + (number & 0xFFFF) % 0xFFF0) for number in range(
        0, count << 1, 1) if (number & 0xFFFF) < 0xFFF0)[:count]  # fmt: skip


@pytest.mark.parametrize(
    ("full", "code"),
    [
        pytest.param(
            lambda: policy(unix=[f"/run/{number}" for number in range(UNIX_ROWS + 1)]),
            errno.E2BIG,
            id="unix_paths",
        ),
        pytest.param(lambda: policy(sockets=many_sockets(SOCKET_ROWS + 1)), errno.E2BIG,
                     id="sockets"),
        pytest.param(
            lambda: policy(
                connect=[
                    (f"fd00::{number >> 12:x}:{number & 0xFFF:x}/128", [ports(1)])
                    for number in range(PREFIX_ROWS + 1)
                ]
            ),
            errno.ENOSPC,
            id="prefixes",
        ),
        pytest.param(
            lambda: policy(
                connect=[("::/0", [ports(port) for port in range(0, 65536, 2)]),
                         ("fd00::/8", [ports(port) for port in range(1, 65536, 2)]),
                         ("fe00::/8", [ports(1)])]
            ),
            errno.ENOSPC,
            id="ports",
        ),
    ],
)  # fmt: skip
def test_a_full_map_refuses_the_session_and_leaves_nothing(
    probes: Probes, full: Callable[[], Policy], code: int
) -> None:
    before = probes.rows()
    rules = full()
    began = time.monotonic()
    with pytest.raises(OSError) as caught:
        probes.session(NARROW, rules)
    assert caught.value.errno == code
    assert probes.rows() == before
    assert time.monotonic() - began < 20
    with probes.running(NARROW) as session:
        assert inside(session, lambda: connect(ALLOWED)) == CLOSED


def test_too_many_sessions_are_refused(probes: Probes) -> None:
    table = Map.pinned(pins.current(probes.instance) / "sessions")
    row = SessionRow(0, SessionFlag.REVOKED, (1,)).pack()
    before = probes.rows()
    keys = [number.to_bytes(8, "little") for number in range(1 << 60, (1 << 60) + 4096)]
    try:
        for key in keys:
            table.update(key, row)
        with pytest.raises(OSError, match="sessions") as caught:
            probes.session(NARROW)
        assert caught.value.errno == errno.E2BIG
    finally:
        for key in keys:
            table.delete(key)
        table.close()
    assert probes.rows() == before


def test_removing_leaves_no_row_and_shared_policies_stay(probes: Probes) -> None:
    empty = probes.rows()
    one, other = probes.cgroup(), probes.cgroup()
    probes.tables.install(one.id, [(9001, NARROW), (9002, policy(unix=["/run/x"]))])
    probes.tables.install(other.id, [(9001, NARROW)])
    probes.tables.remove(one.id)
    assert inside(other, lambda: [connect(ALLOWED), connect(DENIED)]) == [CLOSED, REFUSED]
    assert inside(one, lambda: attempt(lambda: socket.socket(V4, STREAM))) == REFUSED
    probes.tables.remove(other.id)
    probes.tables.remove(other.id)  # again: it is gone already
    assert probes.rows() == empty
    one.remove()
    other.remove()


def test_another_worker_removes_what_a_dead_one_left(probes: Probes) -> None:
    empty = probes.rows()
    cgroup = probes.cgroup()
    probes.tables.install(cgroup.id, [(9011, NARROW), (9012, NARROW)])
    # A worker that died between the rows of a policy and the session's row.
    dying = KernelTables(probes.instance)
    dying.open()
    left = policy_rows(9013, NARROW)
    dying.prepare([(9013, NARROW)])
    dying.close()
    after = KernelTables(probes.instance)
    after.open()
    try:
        assert after.sessions() == {cgroup.id}
        assert after.remove_leftovers({cgroup.id}) == len(left)
        assert inside(cgroup, lambda: [connect(ALLOWED), connect(DENIED)]) == [CLOSED, REFUSED]
        after.remove(cgroup.id)
    finally:
        after.close()
    assert probes.rows() == empty
    cgroup.remove()

# SPDX-License-Identifier: Apache-2.0
"""How a session ends: refused, frozen, cut and killed before its rules go."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from monitor.daemon import ending
from monitor.daemon.ending import Steps
from monitor.identity.chain import Chain, Principal
from monitor.kernel import sockdiag
from monitor.policy.plan import EnvironmentPlan, Limits, Plan, SyscallPlan
from monitor.session.session import Session, new_id
from tests.support.daemon import wait_until
from tests.support.probes import (
    UDP,
    Governed,
    Inside,
    Probes,
    inside,
    policy,
    ports,
    raw_connect,
    sockaddr,
)

DONE, REFUSED = 0, errno.EPERM
V4, V6, STREAM, DGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
ANYTHING = [ports(0, 65535), ports(0, 65535, protocol=UDP)]
LOCAL = policy(
    connect=[("::ffff:127.0.0.0/104", ANYTHING), ("::1/128", ANYTHING)],
    bind=[("::ffff:127.0.0.0/104", ANYTHING), ("::1/128", ANYTHING)],
)
MARK = b"the last words of the session"


def session_of(cgroup: Governed) -> Session:
    """A session as the worker knows it, as far as its end needs."""
    return Session(
        id=new_id(),
        agent="spiffe://test.example/agent/ending",
        chain=Chain(Principal("user:nobody", 65534), ()),
        user="nobody",
        uid=65534,
        gid=65534,
        profile="by-hand",
        digest="",
        purpose="",
        workspace="/",
        created=time.time(),
        expires=None,
        expires_boottime=0,
        cgroup=str(cgroup.path),
        cgroup_id=cgroup.id,
        policies=cgroup.policy_ids,
        plan=Plan(
            policies=(LOCAL,),
            syscalls=SyscallPlan((), 0),
            view=None,
            environment=EnvironmentPlan((), ()),
            limits=Limits(),
            workspace="/",
            home="/",
        ),
        launcher=0,
        launcher_start=0,
    )


def end(probes: Probes, session: Session, settle: Callable[[], object] = lambda: None) -> Steps:
    steps = Steps()

    async def settled() -> None:
        settle()

    asyncio.run(ending.end(session, probes.tables, settled, steps))
    return steps


@contextmanager
def peer(family: int = V4) -> Iterator[tuple[socket.socket, bytes]]:
    """A listener outside of all sessions, with little room to receive; and its address."""
    address = "::1" if family == V6 else "127.0.0.1"
    with socket.socket(family, STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind((address, 0))
        listener.listen()
        listener.settimeout(10)
        yield listener, sockaddr(address, listener.getsockname()[1])


def read_to_the_end(connection: socket.socket) -> tuple[bytes, int]:
    """Everything the peer gets, and the errno that it ends with (0: it was closed)."""
    connection.settimeout(1)
    data = b""
    while True:
        try:
            part = connection.recv(1 << 16)
        except TimeoutError:
            return data, errno.ETIMEDOUT
        except OSError as error:
            return data, error.errno or -1
        if not part:
            return data, 0
        data += part


# -- what is open is cut --------------------------------------------------------------------------


@pytest.mark.parametrize("family", [V4, V6])
def test_a_cut_resets_the_peer_and_aborts_here(probes: Probes, family: int) -> None:
    """Revocation of a session that lives on: refused, frozen, cut, thawed."""
    with peer(family) as (listener, address), probes.running(LOCAL) as cgroup:
        ready, tell = os.pipe()

        def talk() -> tuple[int | None, ...]:
            with socket.socket(family, STREAM) as tcp, socket.socket(family, DGRAM) as udp:
                assert raw_connect(tcp, address) == DONE
                assert raw_connect(udp, address) == DONE
                os.write(tell, b"x")
                with pytest.raises(OSError) as stream:
                    tcp.recv(1)
                with pytest.raises(OSError) as datagram:
                    udp.recv(1)
                return stream.value.errno, datagram.value.errno, raw_connect(udp, address)

        talking = Inside(cgroup, talk)
        os.read(ready, 1)
        connection = listener.accept()[0]
        steps = Steps()

        async def revoke() -> None:
            session = session_of(cgroup)
            await ending.deny_all(session, probes.tables, steps)
            await ending.freeze(session, steps)
            await ending.cut(session, steps)
            await ending.thaw(session, steps)

        asyncio.run(revoke())
        assert [step.name for step in steps.done] == ["deny", "freeze", "cut", "thaw"]
        assert talking.result() == (errno.ECONNABORTED, errno.ECONNABORTED, REFUSED)
        with connection:
            assert read_to_the_end(connection) == (b"", errno.ECONNRESET)
        os.close(ready)
        os.close(tell)


def test_a_cut_leaves_the_sockets_of_others(probes: Probes) -> None:
    with peer() as (listener, address), probes.running(LOCAL) as one, \
            probes.running(LOCAL) as other, socket.socket(V4, STREAM) as outside:  # fmt: skip
        ready, tell = os.pipe()

        def talk() -> bytes:
            with socket.socket(V4, STREAM) as tcp:
                assert raw_connect(tcp, address) == DONE
                os.write(tell, b"x")
                return tcp.recv(10)

        talking = Inside(other, talk)
        os.read(ready, 1)
        assert raw_connect(outside, address) == DONE
        connections = [listener.accept()[0] for _ in range(2)]
        assert sockdiag.destroy_sockets(one.id) == 0
        for connection in connections:
            connection.sendall(b"hello")
            connection.close()
        assert talking.result() == b"hello"
        assert outside.recv(10) == b"hello"
        os.close(ready)
        os.close(tell)


def test_many_are_cut_in_one_pass(probes: Probes) -> None:
    """More sockets than go into one message, of more than one session."""
    with peer() as (listener, address), probes.running(LOCAL) as one, \
            probes.running(LOCAL) as two, probes.running(LOCAL) as three:  # fmt: skip
        ready, tell = os.pipe()

        def talk() -> int:
            socks = [socket.socket(V4, STREAM) for _ in range(50)]
            for sock in socks:
                assert raw_connect(sock, address) == DONE
            os.write(tell, b"x")
            time.sleep(0.5)
            return sum(bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) for sock in socks)

        listener.listen(256)
        talking = [Inside(each, talk) for each in (one, two, three)]
        waiting = 3
        while waiting:
            waiting -= len(os.read(ready, 3))
        assert sockdiag.destroy_sockets(one.id, three.id) == 100
        assert [each.result() for each in talking] == [50, 0, 50]
        assert sockdiag.destroy_sockets() == 0
        os.close(ready)
        os.close(tell)


# -- what is queued stays -------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed by its owner"])
def test_queued_bytes_do_not_leave_when_a_session_ends(probes: Probes, closed: bool) -> None:
    cgroup = probes.session(LOCAL)
    seen: list[int] = []

    def settle() -> None:
        seen.extend((len(probes.tables.sessions()), len(cgroup.processes())))

    with queued(cgroup, closed) as connection:
        steps = end(probes, session_of(cgroup), settle)
        data, code = read_to_the_end(connection)
    assert MARK not in data
    assert len(data) < 200_000
    assert code == errno.ECONNRESET
    # Its rules are there when its last process is gone.
    assert seen == [1, 0]
    assert [step.name for step in steps.done] == [
        "deny", "freeze", "cut", "kill", "cut", "records", "rules", "cgroup",
    ]  # fmt: skip
    assert not cgroup.path.exists()
    assert probes.tables.sessions() == set()


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed by its owner"])
@pytest.mark.parametrize("authority", [True, False], ids=["in force", "gone"])
def test_queued_bytes_need_authority_to_leave(
    probes: Probes, closed: bool, authority: bool
) -> None:
    """Killed alone, the kernel goes on sending for the dead; not where the session has no row."""
    cgroup = probes.session(LOCAL)
    with queued(cgroup, closed) as connection:
        if not authority:
            probes.tables.remove(cgroup.id)
        cgroup.kill()
        data, code = read_to_the_end(connection)
        if authority:
            assert data.endswith(MARK)
            assert code == 0
        else:
            assert MARK not in data
            assert code == errno.ETIMEDOUT
        sockdiag.destroy_sockets(cgroup.id)
    probes.end(cgroup)


@contextmanager
def queued(cgroup: Governed, closed: bool) -> Iterator[socket.socket]:
    """A connection from a session whose process has queued MARK; it is killed in the meantime."""
    with peer() as (listener, address):
        ready, tell = os.pipe()
        talking = Inside(cgroup, queue(address, tell, closed))
        with listener.accept()[0] as connection:
            os.read(ready, 1)
            yield connection
        assert talking.reap() == signal.SIGKILL
        os.close(ready)
        os.close(tell)


def queue(address: bytes, tell: int, closed: bool) -> Callable[[], None]:
    """Queues more than the peer has room for, with MARK as the last of it."""

    def act() -> None:
        tcp = socket.socket(V4, STREAM)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        assert raw_connect(tcp, address) == DONE
        tcp.setblocking(False)
        assert tcp.send(bytes(300_000)) == 300_000
        assert tcp.send(MARK) == len(MARK)
        if closed:
            tcp.close()
        os.write(tell, b"x")
        signal.pause()

    return act


# -- processes ------------------------------------------------------------------------------------


def crowd(tell: int) -> Callable[[], None]:
    """Forty processes, busy and asleep, that ignore what can be ignored."""

    def act() -> None:
        for number in range(39):
            if os.fork() == 0:
                for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(ignored, signal.SIG_IGN)
                os.write(tell, b"x")
                if number % 2:
                    signal.pause()
                while True:
                    os.getpid()
        os.write(tell, b"x")
        signal.pause()

    return act


@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
def test_every_process_is_frozen_and_killed(probes: Probes, frozen: bool) -> None:
    cgroup = probes.session(LOCAL)
    ready, tell = os.pipe()
    parent = Inside(cgroup, crowd(tell))
    seen = 0
    while seen < 40:
        seen += len(os.read(ready, 100))
    assert len(cgroup.processes()) == 40
    session = session_of(cgroup)
    if frozen:
        asyncio.run(ending.freeze(session, Steps()))
        assert cgroup.frozen()
    steps = end(probes, session)
    took = {step.name: step.milliseconds for step in steps.done}
    # Promised is the order; that it does not take seconds is what a person waits for.
    assert took["freeze"] < 1500
    assert took["kill"] < 5000
    assert not cgroup.path.exists()
    assert parent.reap() == signal.SIGKILL
    os.close(ready)
    os.close(tell)


def test_frozen_processes_do_nothing_and_thawed_ones_go_on(probes: Probes) -> None:
    with probes.running(LOCAL) as cgroup:
        ready, tell = os.pipe()

        def tick() -> None:
            while True:
                os.write(tell, b"x")
                time.sleep(0.002)

        ticking = Inside(cgroup, tick)
        os.read(ready, 1)
        session = session_of(cgroup)
        asyncio.run(ending.freeze(session, Steps()))
        while select.select([ready], [], [], 0)[0]:
            os.read(ready, 1 << 16)
        time.sleep(0.1)
        assert not select.select([ready], [], [], 0)[0]
        asyncio.run(ending.thaw(session, Steps()))
        assert select.select([ready], [], [], 5)[0]
        cgroup.kill()
        assert ticking.reap() == signal.SIGKILL
        os.close(ready)
        os.close(tell)


def test_an_end_can_be_repeated(probes: Probes) -> None:
    cgroup = probes.session(LOCAL)
    session = session_of(cgroup)
    end(probes, session)
    steps = end(probes, session)
    assert [step.name for step in steps.done] == ["deny", "records", "rules"]
    assert set(probes.rows().values()) == {0}


def test_an_end_without_records_keeps_the_rules(probes: Probes) -> None:
    """Where `settle` fails, the processes are gone and the rules are there for the next try."""
    cgroup = probes.session(LOCAL)
    session = session_of(cgroup)
    waiting = Inside(cgroup, signal.pause)
    wait_until(lambda: cgroup.processes() != [])

    def fail() -> None:
        raise OSError(errno.ENOSPC, "the disk is full")

    with pytest.raises(OSError, match="full"):
        end(probes, session, fail)
    assert waiting.reap() == signal.SIGKILL
    assert probes.tables.sessions() == {cgroup.id}
    cgroup.thaw()
    assert inside(cgroup, connect_anywhere) == REFUSED
    end(probes, session)
    assert not cgroup.path.exists()
    assert probes.tables.sessions() == set()


def connect_anywhere() -> int:
    try:
        with socket.socket(V4, DGRAM) as sock:
            return raw_connect(sock, sockaddr("127.0.0.1", 9))
    except PermissionError:
        return REFUSED

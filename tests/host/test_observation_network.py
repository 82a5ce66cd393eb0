# SPDX-License-Identifier: Apache-2.0
"""What the probes tell of sockets, of refused calls that name no path, and of nobody's."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitor.policy.plan import SocketRule
from monitor.policy.syscalls import NUMBERS
from monitor.wire.events import AnyEvent, DenyCause, NetEvent, NetOperation, SyscallEvent
from monitor.wire.layout import SessionFlag
from tests.support.observing import observed
from tests.support.probes import INTERNET, UDP, Probes, attempt, libc, policy, ports

V4, V6, STREAM, DGRAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
TCP = socket.IPPROTO_TCP
MSG_FASTOPEN = 0x20000000  # linux/socket.h

LOOPBACK = [
    ("::ffff:127.0.0.0/104", [ports(1, 65535, rule=1), ports(1, 65535, protocol=UDP, rule=2)]),
    ("::1/128", [ports(1, 65535, rule=3), ports(1, 65535, protocol=UDP, rule=4)]),
]
OWN = [
    ("::ffff:127.0.0.0/104", [ports(0, 65535, rule=5), ports(0, 65535, protocol=UDP, rule=6)]),
    ("::/0", [ports(0, 65535, rule=7), ports(0, 65535, protocol=UDP, rule=8)]),
]
OPEN = policy(
    connect=LOOPBACK, bind=OWN, unix=["@nobody"], sockets=(*INTERNET, SocketRule(1, 1, 0))
)


def net(events: list[AnyEvent]) -> list[NetEvent]:
    return [event for event in events if isinstance(event, NetEvent)]


def told(event: NetEvent) -> tuple[Any, ...]:
    return event.operation, event.family, event.type, event.protocol, event.address, event.port


CONNECT, SEND, BIND = NetOperation.CONNECT, NetOperation.SEND, NetOperation.BIND


def connect(family: int, kind: int, address: str, port: int = 9) -> Callable[[], object]:
    def act() -> int:
        with socket.socket(family, kind) as sock:
            return attempt(lambda: sock.connect((address, port)))

    return act


def send(family: int, address: str, port: int = 9) -> Callable[[], object]:
    def act() -> int:
        with socket.socket(family, DGRAM) as sock:
            return sock.sendto(b"x", (address, port))

    return act


def bind(family: int, kind: int, address: str, port: int = 0) -> Callable[[], object]:
    def act() -> None:
        with socket.socket(family, kind) as sock:
            sock.bind((address, port))

    return act


def fast_open() -> int:
    with socket.socket(V4, STREAM) as sock:
        return attempt(lambda: sock.sendto(b"x", MSG_FASTOPEN, ("127.0.0.1", 9)))


@pytest.mark.parametrize(
    ("act", "expected", "rule"),
    [
        (connect(V4, STREAM, "127.0.0.1"), (CONNECT, V4, STREAM, TCP, "127.0.0.1", 9), 1),
        (connect(V4, DGRAM, "127.1.2.3"), (CONNECT, V4, DGRAM, UDP, "127.1.2.3", 9), 2),
        (connect(V6, STREAM, "::1"), (CONNECT, V6, STREAM, TCP, "::1", 9), 3),
        (connect(V6, DGRAM, "::1", 65535), (CONNECT, V6, DGRAM, UDP, "::1", 65535), 4),
        (connect(V6, STREAM, "::ffff:127.0.0.1"), (CONNECT, V6, STREAM, TCP, "127.0.0.1", 9), 1),
        (connect(V6, DGRAM, "::ffff:127.0.0.1"), (CONNECT, V6, DGRAM, UDP, "127.0.0.1", 9), 2),
        (send(V4, "127.0.0.1"), (SEND, V4, DGRAM, UDP, "127.0.0.1", 9), 2),
        (send(V6, "::1"), (SEND, V6, DGRAM, UDP, "::1", 9), 4),
        (bind(V4, STREAM, "127.0.0.1"), (BIND, V4, STREAM, TCP, "127.0.0.1", 0), 5),
        (bind(V4, DGRAM, "127.0.0.1"), (BIND, V4, DGRAM, UDP, "127.0.0.1", 0), 6),
        (bind(V6, STREAM, "::"), (BIND, V6, STREAM, TCP, "::", 0), 7),
        (bind(V6, DGRAM, "::1"), (BIND, V6, DGRAM, UDP, "::1", 0), 8),
        (fast_open, (CONNECT, V4, STREAM, TCP, "127.0.0.1", 9), 1),
    ],
)  # fmt: skip
def test_what_was_allowed_is_told_with_its_rule(
    probes: Probes, act: Callable[[], object], expected: tuple[Any, ...], rule: int
) -> None:
    _result, events = observed(probes, act, OPEN)
    (event,) = net(events)
    assert told(event) == expected
    assert (event.cause, event.rule, event.observed) == (DenyCause.NONE, rule, False)


def test_a_datagram_to_a_mapped_address(probes: Probes) -> None:
    """It goes through the hook of IPv4, on a socket of IPv6."""
    _result, events = observed(probes, send(V6, "::ffff:127.0.0.1"), OPEN)
    (event,) = net(events)
    assert (event.operation, event.address, event.port, event.rule) == (SEND, "127.0.0.1", 9, 2)


@pytest.mark.parametrize(("family", "address"), [(V4, "127.0.0.1"), (V6, "::1"), (V4, "0.0.0.0")])
def test_listening_is_told_with_the_port_that_the_kernel_chose(
    probes: Probes, family: int, address: str
) -> None:
    def act() -> int:
        with socket.socket(family, STREAM) as sock:
            sock.bind((address, 0))
            sock.listen(1)
            return int(sock.getsockname()[1])

    rules = policy(bind=[*OWN, ("::ffff:0.0.0.0/96", [ports(0, 65535)])])
    port, events = observed(probes, act, rules)
    bound, listening = net(events)
    assert bound.operation is BIND
    assert told(listening) == (NetOperation.LISTEN, family, STREAM, TCP, address, port)
    assert (listening.cause, listening.rule) == (DenyCause.NONE, -1)


def test_listening_without_bind(probes: Probes) -> None:
    def act() -> int:
        with socket.socket(V4, STREAM) as sock:
            sock.listen(1)
            return int(sock.getsockname()[1])

    port, events = observed(probes, act, OPEN)
    (event,) = net(events)
    assert told(event) == (NetOperation.LISTEN, V4, STREAM, TCP, "0.0.0.0", port)


def test_listening_on_a_unix_socket_is_not_told(probes: Probes, tmp_path: Path) -> None:
    def act() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "sock"))
            sock.listen(1)

    _result, events = observed(probes, act, OPEN)
    assert net(events) == []


@pytest.mark.parametrize("observing", [False, True])
def test_what_was_refused(probes: Probes, observing: bool) -> None:
    def act() -> list[int]:
        with socket.socket(V4, STREAM) as tcp, socket.socket(V6, DGRAM) as udp:
            return [
                attempt(lambda: tcp.connect(("127.0.0.1", 9))),
                attempt(lambda: udp.sendto(b"x", ("::1", 9))),
                attempt(lambda: socket.socket(V4, socket.SOCK_RAW, socket.IPPROTO_ICMP)),
            ]

    rules = policy(connect=[("::1/128", [ports(9, protocol=UDP, allow=False, rule=3)])])
    flags = SessionFlag.EVERY | (SessionFlag.OBSERVE if observing else SessionFlag.NONE)
    answers, events = observed(probes, act, rules, flags)
    first, second, third = net(events)
    assert told(first) == (CONNECT, V4, STREAM, TCP, "127.0.0.1", 9)
    assert (first.cause, first.rule) == (DenyCause.UNLISTED, -1)
    assert told(second) == (SEND, V6, DGRAM, UDP, "::1", 9)
    assert (second.cause, second.rule) == (DenyCause.RULE, 3)
    assert told(third) == (
        NetOperation.SOCKET, V4, socket.SOCK_RAW, socket.IPPROTO_ICMP, "", 0,
    )  # fmt: skip
    assert all(event.observed is observing for event in net(events))
    if observing:
        assert answers == [errno.ECONNREFUSED, 0, 0]
    else:
        assert answers == [errno.EPERM] * 3
    # The exit of socket(2) tells nothing that the program has not told.
    assert [event for event in events if isinstance(event, SyscallEvent)] == []


def test_unix_destinations(probes: Probes, tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    names = ["\0nobody", "\0somebody", path, "relative"]

    def act() -> list[int]:
        answers = []
        for name in names:
            with socket.socket(socket.AF_UNIX) as sock:
                answers.append(attempt(lambda sock=sock, name=name: sock.connect(name)))  # type: ignore[misc]
        return answers

    answers, events = observed(probes, act, OPEN)
    assert answers == [errno.ECONNREFUSED, errno.EPERM, errno.EPERM, errno.EPERM]
    assert [(each.address, each.cause, each.rule) for each in net(events)] == [
        ("@nobody", DenyCause.NONE, 0),
        ("@somebody", DenyCause.UNLISTED, -1),
        (path, DenyCause.UNLISTED, -1),
        ("relative", DenyCause.UNLISTED, -1),
    ]
    assert all(each.operation is NetOperation.UNIX for each in net(events))


# -- refused calls ---------------------------------------------------------------------------------


def raw(name: str, *arguments: int) -> tuple[int, int]:
    """(result, errno) of a call with these registers."""
    result = libc.syscall(ctypes.c_long(NUMBERS[name]), *map(ctypes.c_long, arguments))
    return result, ctypes.get_errno()


def test_refused_calls_are_told_with_their_arguments(probes: Probes) -> None:
    def act() -> list[tuple[int, int]]:
        os.setresuid(65534, 65534, 65534)
        return [
            raw("kill", 1, signal.SIGTERM),
            raw("mount", 0, 0, 0, 0, 0),
            raw("setns", -1, 1 << 40 | 5),
            raw("sched_setattr", 1, 0, 0),
            raw("settimeofday", 0, 0x7FFF_FFFF_FFFF),
        ]

    answers, events = observed(probes, act, OPEN)
    calls = [event for event in events if isinstance(event, SyscallEvent)]
    refused = [
        (name, number)
        for name, (result, number) in zip(
            ("kill", "mount", "setns", "sched_setattr", "settimeofday"), answers, strict=True
        )
        if result < 0 and number in (errno.EPERM, errno.EACCES, errno.ENOSYS)
    ]
    assert [(each.number, each.errno) for each in calls] == [
        (NUMBERS[name], number) for name, number in refused
    ]
    (killed,) = [each for each in calls if each.number == NUMBERS["kill"]]
    assert killed.arguments[:2] == (1, signal.SIGTERM)
    assert killed.errno == errno.EPERM


def test_calls_that_succeed_are_not_told(probes: Probes) -> None:
    def act() -> None:
        os.kill(os.getpid(), 0)
        with socket.socket(V4, STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    _result, events = observed(probes, act, OPEN)
    assert [event for event in events if isinstance(event, SyscallEvent)] == []

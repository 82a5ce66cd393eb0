# SPDX-License-Identifier: Apache-2.0
"""What the cgroup programs decide on unix sockets, by the kernel's own copy of their name."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from monitor.daemon.probes import pins
from monitor.wire.events import DenyCause, NetEvent, NetOperation
from monitor.wire.layout import SessionFlag
from tests.support.probes import (
    Probes,
    attempt,
    inside,
    policy,
    raw_bind,
    raw_connect,
    raw_sendto,
    sockaddr_un,
)

DONE, REFUSED = 0, errno.EPERM
STREAM, DGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET


@pytest.fixture(scope="module")
def probes() -> Iterator[Probes]:
    made = Probes()
    try:
        if not pins.unix_hooks(made.instance):
            pytest.skip("this kernel has no unix socket hooks (they need Linux 6.7)")
        yield made
    finally:
        made.clean()


@pytest.fixture
def listening() -> Iterator[Callable[..., None]]:
    """Binds sockets to names, and listens."""
    with ExitStack() as stack:

        def listen(*names: bytes, kind: int = STREAM) -> None:
            for name in names:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
                sock.bind(name)
                if kind != DGRAM:
                    sock.listen(256)

        yield listen


@pytest.fixture
def folder(tmp_path: Path) -> bytes:
    return os.fsencode(tmp_path)


def answers(
    probes: Probes, rules: list[bytes], act: Callable[[], Any]
) -> tuple[Any, Any, list[NetEvent]]:
    """What `act` returns in a session that may reach `rules`, under RI_OBSERVE, and its records."""
    made = policy(unix=[os.fsdecode(rule) for rule in rules])
    with probes.running(made) as session:
        governed = inside(session, act)
        events = [event for event in probes.events(session) if isinstance(event, NetEvent)]
    with probes.running(made, flags=SessionFlag.OBSERVE) as session:
        observed = inside(session, act)
    assert observed == inside(None, act)
    return governed, observed, events


def connect_each(kind: int, names: list[bytes]) -> Callable[[], list[int]]:
    def act() -> list[int]:
        result = []
        for name in names:
            with socket.socket(socket.AF_UNIX, kind) as sock:
                result.append(raw_connect(sock, sockaddr_un(name)))
        return result

    return act


@pytest.mark.parametrize("kind", [STREAM, DGRAM, SEQPACKET])
def test_exact_paths(
    probes: Probes, listening: Callable[..., None], folder: bytes, kind: int
) -> None:
    allowed, longer, shorter = folder + b"/allowed", folder + b"/allowed2", folder + b"/allow"
    listening(allowed, longer, shorter, kind=kind)
    act = connect_each(kind, [allowed, allowed + b"\0", longer, longer + b"\0", shorter])
    governed, observed, events = answers(probes, [allowed], act)
    assert governed == [DONE, DONE, REFUSED, REFUSED, REFUSED]
    assert observed == [DONE] * 5
    denied = [(event.address, event.cause) for event in events if event.cause.value]
    names = [os.fsdecode(name) for name in (longer, longer, shorter)]
    assert denied == [(name, DenyCause.UNLISTED) for name in names]
    assert {event.operation for event in events} == {NetOperation.UNIX}


def test_what_stands_behind_the_length_is_not_part_of_the_name(
    probes: Probes, listening: Callable[..., None], folder: bytes
) -> None:
    """A name without its NUL: what earlier calls left on the kernel's stack is not read."""
    target, allowed = folder + b"/a", folder + b"/allowed"
    listening(target, allowed)

    def act() -> set[tuple[int, int]]:
        result = set()
        for _round in range(20):
            with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
                first = raw_connect(one, sockaddr_un(allowed))
                result.add((first, raw_connect(two, sockaddr_un(target))))
        return result

    governed, observed, events = answers(probes, [allowed], act)
    assert governed == {(DONE, REFUSED)}
    assert observed == {(DONE, DONE)}
    assert {event.address for event in events} == {os.fsdecode(target), os.fsdecode(allowed)}


def test_other_ways_to_write_an_allowed_path_are_refused(
    probes: Probes, listening: Callable[..., None], folder: bytes
) -> None:
    """A path decides as it is written: one that a session could redirect is never resolved."""
    allowed = folder + b"/allowed"
    listening(allowed)
    Path(os.fsdecode(folder), "link").symlink_to(os.fsdecode(allowed))
    forms = [b"allowed", b"./allowed", folder + b"/./allowed", folder + b"//allowed",
             b"/" + allowed, folder + b"/link", b"/proc/self/root" + allowed]  # fmt: skip

    def act() -> list[int]:
        os.chdir(folder)
        return connect_each(STREAM, forms)()

    governed, observed, _events = answers(probes, [allowed], act)
    assert governed == [REFUSED] * len(forms)
    assert observed == [DONE] * len(forms)


def test_a_relative_rule_name_does_not_match_an_absolute_one(
    probes: Probes, listening: Callable[..., None], folder: bytes
) -> None:
    listening(folder + b"/x")
    governed, _observed, _events = answers(probes, [b"x"], connect_each(STREAM, [folder + b"/x"]))
    assert governed == [REFUSED]


def test_abstract_names(probes: Probes, listening: Callable[..., None]) -> None:
    """With NULs behind it, it is another socket; and a path of the same letters yet another."""
    token = secrets.token_hex(8).encode()
    allowed = b"\0" + token
    names = [allowed, allowed + b"\0", allowed + b"2", allowed[:-1], allowed + b"\0" * 20]
    listening(*names)
    rule = b"@" + token
    governed, observed, events = answers(probes, [rule], connect_each(STREAM, names))
    assert governed == [DONE] + [REFUSED] * 4
    assert observed == [DONE] * 5
    allowed_events = [event for event in events if not event.cause.value]
    assert [event.address for event in allowed_events] == [rule.decode()]


def test_an_abstract_name_is_not_a_path(
    probes: Probes, listening: Callable[..., None], folder: bytes
) -> None:
    path = folder + b"/x"
    listening(path, b"\0" + path)
    names = [path, b"\0" + path]
    assert answers(probes, [path], connect_each(STREAM, names))[0] == [DONE, REFUSED]
    assert answers(probes, [b"@" + path], connect_each(STREAM, names))[0] == [REFUSED, DONE]


def test_names_that_fill_sun_path(probes: Probes, listening: Callable[..., None]) -> None:
    """108 bytes have no room for a NUL. Abstract here: Python ends paths itself."""
    stem = b"\0" + secrets.token_hex(50).encode()
    full, other = stem.ljust(108, b"x"), stem.ljust(107, b"x") + b"y"
    listening(full, other)
    rule = b"@" + full[1:]
    governed, observed, _events = answers(probes, [rule], connect_each(STREAM, [full, other]))
    assert governed == [DONE, REFUSED]
    assert observed == [DONE, DONE]


def test_paths_that_fill_sun_path(
    probes: Probes, listening: Callable[..., None], tmp_path: Path
) -> None:
    base = Path("/tmp") / f"ri-{secrets.token_hex(4)}"
    base.mkdir()
    try:
        stem = os.fsencode(base) + b"/"
        full, other = stem.ljust(108, b"x"), stem.ljust(107, b"x") + b"y"
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
            for sock, name in ((one, full), (two, other)):
                assert raw_bind(sock, sockaddr_un(name)) == DONE
                sock.listen(256)
            act = connect_each(STREAM, [full, other, full[:107]])
            with probes.running(policy(unix=[os.fsdecode(full)])) as session:
                assert inside(session, act) == [DONE, REFUSED, REFUSED]
            assert inside(None, act) == [DONE, DONE, errno.ENOENT]
    finally:
        for entry in base.iterdir():
            entry.unlink()
        base.rmdir()


def test_datagrams_by_name(probes: Probes, listening: Callable[..., None], folder: bytes) -> None:
    """On a socket of one's own, on a connected one, and on an end of a socketpair."""
    allowed, denied = folder + b"/allowed", folder + b"/denied"
    listening(allowed, denied, kind=DGRAM)

    def act() -> list[int]:
        one, other = socket.socketpair(socket.AF_UNIX, DGRAM)
        with socket.socket(socket.AF_UNIX, DGRAM) as sock, one, other:
            result = [raw_sendto(sock, sockaddr_un(name)) for name in (allowed, denied)]
            result += [attempt(lambda: sock.sendmsg([b"x"], [], 0, denied))]
            result += [raw_connect(sock, sockaddr_un(allowed)), attempt(lambda: sock.send(b"x"))]
            result += [raw_sendto(sock, sockaddr_un(denied))]
            result += [raw_sendto(one, sockaddr_un(denied)), attempt(lambda: other.send(b"x"))]
            return result

    governed, _observed, events = answers(probes, [allowed], act)
    assert governed == [DONE, REFUSED, REFUSED, DONE, DONE, REFUSED, REFUSED, DONE]
    assert len([event for event in events if event.cause.value]) == 4


def test_a_socketpair_needs_no_rule(probes: Probes) -> None:
    def act() -> list[bytes]:
        result = []
        for kind in (STREAM, DGRAM, SEQPACKET):
            one, other = socket.socketpair(socket.AF_UNIX, kind)
            with one, other:
                one.send(b"x")
                result.append(other.recv(10))
        return result

    assert answers(probes, [], act)[0] == [b"x"] * 3

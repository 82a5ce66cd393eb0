# SPDX-License-Identifier: Apache-2.0
"""Descriptors that a server passes into a session over a unix socket: each file is told of."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from monitor.daemon.probes import pins
from tests.support.daemon import Daemon
from tests.support.sides import Case, area, take

RECEIVE = """
def take(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(path)
    return sock
def numbers(path):
    with take(path) as sock:
        return socket.recv_fds(sock, 10, 64)[1]
"""


@pytest.fixture
def folder(daemon: Daemon) -> Iterator[Path]:
    if not pins.unix_hooks(daemon.instance):
        pytest.skip("this kernel has no unix socket hooks (they need Linux 6.7)")
    with area(daemon.user) as made:
        yield made


@pytest.fixture
def passing(folder: Path) -> Iterator[Callable[[list[int]], Path]]:
    """A server that passes descriptors to whoever connects."""
    with ExitStack() as stack:

        def serve(descriptors: list[int]) -> Path:
            path = folder / f"server{len(descriptors)}"
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(path))
            path.chmod(0o666)
            server.listen(16)

            def answer() -> None:
                with suppress(OSError):
                    while True:
                        peer, _address = server.accept()
                        with peer:
                            socket.send_fds(peer, [b"x"], descriptors)

            threading.Thread(target=answer, daemon=True).start()
            return path

        yield serve


def received(daemon: Daemon, path: Path, code: str) -> tuple[list[dict[str, Any]], Any]:
    text = f"include: [base]\nnetwork:\n  unix: [{path}]\n"
    name = daemon.profile("passing", text)
    run = take(daemon, name, [Case("it", f"{RECEIVE}\npath = {str(path)!r}\n{code}")])
    assert run.answers == {"it": 0}
    return run.matching(verb="file.receive"), run


def test_a_file_that_no_rule_lists(
    daemon: Daemon, folder: Path, passing: Callable[[list[int]], Path]
) -> None:
    secret = folder / "secret"
    secret.write_text("secret")
    with secret.open("rb") as file:
        path = passing([file.fileno()])
        code = "assert os.pread(numbers(path)[0], 9, 0) == b'secret'"
        (record,), _run = received(daemon, path, code)
    assert (record["object"], record["verdict"]) == (str(secret), "allow")
    assert "passed in open" in record["reason"]
    details = daemon.details(record["id"])
    assert details["unlisted"] is True
    assert details["inode"] == secret.stat().st_ino
    assert "write" not in details


def test_what_is_no_file(daemon: Daemon, passing: Callable[[list[int]], Path]) -> None:
    reading, writing = os.pipe()
    with socket.socket() as tcp:
        path = passing([tcp.fileno(), reading])
        records, _run = received(daemon, path, "assert len(numbers(path)) == 2")
    os.close(reading)
    os.close(writing)
    assert {record["object"] for record in records} == {"TCP", "pipe"}


def test_several_at_once_and_more_than_are_told(
    daemon: Daemon, folder: Path, passing: Callable[[list[int]], Path]
) -> None:
    """Eight of one message have records; those behind them count as lost."""
    with ExitStack() as stack:
        files = []
        for number in range(11):
            (folder / f"f{number}").touch()
            files.append(stack.enter_context((folder / f"f{number}").open("r+b")))
        path = passing([file.fileno() for file in files])
        records, run = received(daemon, path, "assert len(numbers(path)) == 11")
    told = {record["object"] for record in records}
    assert told == {str(folder / f"f{number}") for number in range(8)}
    assert all(daemon.details(record["id"])["write"] is True for record in records)
    assert [record["object"] for record in run.matching(verb="session.lost")] == ["3"]


def test_again_and_by_recvmmsg(
    daemon: Daemon, folder: Path, passing: Callable[[list[int]], Path]
) -> None:
    """The same file is one record and a count; the other call is seen as well."""
    one = folder / "one"
    one.touch()
    code = """
def by_recvmmsg(path):
    data = ctypes.create_string_buffer(8)
    vector = struct.pack("=QQ", ctypes.addressof(data), 8)
    vector = ctypes.create_string_buffer(vector, 16)
    control = ctypes.create_string_buffer(64)
    header = struct.pack("=QIxxxxQQQQIxxxxIxxxx", 0, 0, ctypes.addressof(vector), 1,
                         ctypes.addressof(control), 64, 0, 0)
    header = ctypes.create_string_buffer(header, 64)
    with take(path) as sock:
        sock.setblocking(True)
        call(299, sock.fileno(), header, 1, 0, None)
    return struct.unpack_from("=i", control, 16)[0]
for _ in range(3):
    os.close(numbers(path)[0])
os.fstat(by_recvmmsg(path))
"""
    with one.open("rb") as file:
        records, _run = received(daemon, passing([file.fileno()]), code)
    assert {record["object"] for record in records} == {str(one)}
    assert sum(record["count"] for record in records) == 4


def test_a_message_without_any_is_none(
    daemon: Daemon, passing: Callable[[list[int]], Path]
) -> None:
    code = """
one, other = socket.socketpair()
one.sendmsg([b"x"])
assert other.recvmsg(9, 100)[0] == b"x"
assert take(path).recvmsg(9)[0] == b"x"
"""
    records, _run = received(daemon, passing([0]), code)
    assert records == []

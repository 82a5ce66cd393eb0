# SPDX-License-Identifier: Apache-2.0
"""How fast authority ends: many sessions of many processes with open connections, at one word."""

from __future__ import annotations

import http.client
import json
import select
import socket
import statistics
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.corpus import Corpus
from bench.failure import BenchError
from bench.upkeep import UnixConnection
from demo.account import Account
from demo.governed import Daemon

SESSIONS = 50
PROCESSES = 20  # in each session
CONNECTIONS = 4  # of each session
_TOGETHER = 10  # launches at a time
_PORT = 8770
_CLOSED_PORT = 8771
_SLOT = struct.Struct("=q")
_SLOTS = 512  # as in crew.c
_SECONDS = 10.0


@dataclass(slots=True)
class Latencies:
    """Milliseconds of every session and connection in every round.

    `denied` and `cut` count from the order's receipt, as the daemon says; `last_connect` and
    `reset` from before it was sent, as sessions and peers saw it.
    """

    denied: list[float] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    last_connect: list[float] = field(default_factory=list)
    reset: list[float] = field(default_factory=list)


def p99(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[-1]


def measure(
    daemon: Daemon,
    account: Account,
    corpus: Corpus,
    launcher: Sequence[str],
    programs: Path,
    rounds: int,
) -> Latencies:
    """Start the sessions, take all back with one request, and again."""
    found = Latencies()
    for _ in range(rounds):
        with ExitStack() as stack:
            peers = stack.enter_context(_peers())
            file = corpus.workspace / "last-connects"
            file.write_bytes(bytes(_SLOT.size * _SLOTS))
            account.give(file)
            stack.callback(file.unlink)
            argv = [*launcher, str(programs / "crew"), str(_PORT), str(_CLOSED_PORT)]
            argv += [str(PROCESSES), str(CONNECTIONS), str(file)]
            crews: list[subprocess.Popen[str]] = []
            stack.callback(_stop, crews)
            for first in range(0, SESSIONS, _TOGETHER):
                _start(account, corpus, argv, range(first, first + _TOGETHER), crews)
            peers.take(SESSIONS * CONNECTIONS)
            _one_round(daemon, account, file, peers, found)
    return found


def _one_round(
    daemon: Daemon, account: Account, file: Path, peers: _Peers, found: Latencies
) -> None:
    watching = threading.Thread(target=peers.watch)
    watching.start()
    time.sleep(0.5)  # they all go on for a while
    connection = UnixConnection(daemon.socket)
    connection.connect()
    body = json.dumps({"what": f"user:{account.name}", "then": "deny"})
    sent = time.monotonic_ns()
    connection.request("POST", "/v1/revoke", body, {"Content-Type": "application/json"})
    answer = _read(connection)
    watching.join()
    if len(answer["sessions"]) != SESSIONS or answer["problems"]:
        raise BenchError(f"revoked {len(answer['sessions'])} sessions: {answer['problems']}")
    if len(peers.resets) != SESSIONS * CONNECTIONS:
        raise BenchError(f"{len(peers.resets)} of {SESSIONS * CONNECTIONS} connections were cut")
    time.sleep(0.1)
    for number in range(SESSIONS):
        (last,) = _SLOT.unpack_from(file.read_bytes(), number * _SLOT.size)
        if not last:
            raise BenchError(f"session {number} did not connect")
        found.last_connect.append(max(0.0, (last - sent) / 1e6))
    found.reset += [(at - sent) / 1e6 for at in peers.resets]
    for session in answer["sessions"]:
        found.denied.append(session["since_receipt"]["deny"])
        found.cut.append(max(session["since_receipt"]["freeze"], session["since_receipt"]["cut"]))


def _read(connection: http.client.HTTPConnection) -> dict[str, Any]:
    with connection.getresponse() as response:
        answer: dict[str, Any] = json.loads(response.read())
        if response.status != http.client.OK:
            raise BenchError(f"revoke: {answer}")
    connection.close()
    return answer


def _start(
    account: Account,
    corpus: Corpus,
    argv: Sequence[str],
    slots: range,
    crews: list[subprocess.Popen[str]],
) -> None:
    started = [account.start([*argv, str(slot)], cwd=corpus.workspace) for slot in slots]
    crews += started
    for process in started:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line.strip() != "up":
            raise BenchError(f"a session did not start: {line.strip()}")


def _stop(crews: Sequence[subprocess.Popen[str]]) -> None:
    for process in crews:
        process.terminate()
    for process in crews:
        process.communicate()


class _Peers:
    """The other ends of all connections; when each was reset."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._open: dict[int, socket.socket] = {}
        self.resets: list[int] = []

    def take(self, count: int) -> None:
        for _ in range(count):
            connection = self._listener.accept()[0]
            self._open[connection.fileno()] = connection

    def watch(self) -> None:
        """Until all are gone."""
        deadline = time.monotonic() + _SECONDS
        with select.epoll() as waiting:
            for number in self._open:
                waiting.register(number, select.EPOLLIN)
            while self._open and time.monotonic() < deadline:
                for number, event in waiting.poll(0.5):
                    if event & select.EPOLLERR:
                        self.resets.append(time.monotonic_ns())
                    self._open.pop(number).close()

    def close(self) -> None:
        for connection in self._open.values():
            connection.close()


@contextmanager
def _peers() -> Iterator[_Peers]:
    with socket.create_server(("127.0.0.1", _PORT), backlog=SESSIONS * CONNECTIONS) as listener:
        listener.settimeout(_SECONDS)
        peers = _Peers(listener)
        try:
            yield peers
        finally:
            peers.close()

# SPDX-License-Identifier: Apache-2.0
"""What hosts by name cost: connecting by what a name came to, with few addresses and with many."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from monitor.daemon.probes.naming import Naming
from monitor.policy.plan import Policy
from monitor.wire.layout import SessionFlag
from monitor.wire.named import NamedSpan
from tests.support.probes import Governed, Probes, boottime, inside, policy, ports

ADDRESS = "127.68.0.1"
CONNECTS = 1500  # of one series
MANY = 10_000  # addresses that names came to, of all sessions
OF_ONE = 4096  # as many as one session may have
TCP = 6


@dataclass(frozen=True, slots=True)
class Found:
    """Ratios of medians: by name against by address, and with many rows against one."""

    by_name: float
    with_many: float


def measure(rounds: int) -> Found:
    """Rounds of each kind in turn, so that what drifts drops out."""
    probes = Probes()
    naming = Naming(probes.instance)
    naming.open()
    with socket.create_server((ADDRESS, 0), backlog=4096) as server:
        port = server.getsockname()[1]
        threading.Thread(target=_accept, args=[server], daemon=True).start()
        listed = policy(connect=[(f"::ffff:{ADDRESS}/128", [ports(port)])])
        other = policy(connect=[("::ffff:127.68.9.9/128", [ports(1)])])
        try:
            by_address = probes.session(listed)
            by_name = probes.session(other, flags=SessionFlag.NAMES)
            among_many = probes.session(other, flags=SessionFlag.NAMES)
            _admit(naming, by_name, ADDRESS, port)
            _admit(naming, among_many, ADDRESS, port)
            _fill(probes, naming, other, among_many, port)
            ratios: list[tuple[float, float]] = []
            for _round in range(rounds):
                address, name, many = (
                    _nanoseconds(each, port) for each in (by_address, by_name, among_many)
                )
                ratios.append((name / address, many / name))
        finally:
            naming.remove_leftovers(())
            naming.close()
            probes.clean()
    first, second = zip(*ratios, strict=True)
    return Found(statistics.median(first), statistics.median(second))


def _accept(server: socket.socket) -> None:
    """Take connections as they come, until the listener is closed."""
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()


def _admit(naming: Naming, session: Governed, address: str, port: int) -> None:
    span = NamedSpan(TCP, port, port, boottime(3600), (0,), host=True)
    naming.put(session.id, ipaddress.ip_address(address), [span])


def _fill(probes: Probes, naming: Naming, rules: Policy, first: Governed, port: int) -> None:
    """Rows until there are MANY, as many of one session as it may have."""
    chosen = random.Random(1)
    session = first
    while naming.count() < MANY:
        for _row in range(OF_ONE - 1):
            _admit(naming, session, str(ipaddress.IPv4Address(chosen.getrandbits(32))), port)
        session = probes.session(rules, flags=SessionFlag.NAMES)


def _nanoseconds(session: Governed, port: int) -> float:
    return float(inside(session, _connecting(port)))


def _connecting(port: int) -> Callable[[], float]:
    def act() -> float:
        taken = []
        for _connect in range(CONNECTS):
            with _reset() as sock:
                begin = time.perf_counter_ns()
                sock.connect((ADDRESS, port))
                taken.append(time.perf_counter_ns() - begin)
        return statistics.median(taken)

    return act


@contextlib.contextmanager
def _reset() -> Iterator[socket.socket]:
    """A socket that leaves nothing in TIME_WAIT."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    try:
        yield sock
    finally:
        sock.close()

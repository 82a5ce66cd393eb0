# SPDX-License-Identifier: Apache-2.0
"""What packet rules cost: 200 sessions, 10,000 addresses, an element, a connect, a stream.

Bounds are loose where the machine's noise is larger than what is measured; figures are printed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from monitor.daemon.packets.facts import Element
from monitor.daemon.packets.packets import Packets
from monitor.policy.packets import PacketRules, rules
from tests.support.network import ALLOWED4, Network
from tests.support.packets import POLICY, Floor
from tests.support.probes import TCP, inside, policy, ports

SESSIONS = 200
ELEMENTS = 10_000
ROUNDS = 12
LOOPBACK = policy(connect=[("::ffff:127.0.0.1/128", [ports(0, 65535)])])


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def floor(network: Network) -> Iterator[Floor]:
    made = Floor()
    try:
        yield made
    finally:
        made.clean()


def milliseconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def addresses(count: int, first: str = "10.20.0.0") -> list[Element]:
    start = ipaddress.IPv4Address(first)
    return [Element(start + number, TCP, 443, 443, 3600) for number in range(count)]


def test_two_hundred_sessions(floor: Floor) -> None:
    sessions = []
    installs = []
    for _ in range(SESSIONS):
        session = floor.cgroup()
        installs.append(
            milliseconds(partial(floor.packets.install, session.facts, rules([POLICY])))
        )
        sessions.append(session)
    for each in sessions[:: SESSIONS // 8]:
        refused = inside(each, lambda: socket_to("10.9.0.3"))
        assert (inside(each, lambda: socket_to(ALLOWED4)), refused) == (0, 1)
    last = sessions[-1]
    adds = [
        milliseconds(partial(floor.packets.add_elements, last.name, [one])) for one in addresses(50)
    ]
    replaces = [
        milliseconds(lambda: floor.packets.replace(last.facts, rules([POLICY]))) for _ in range(9)
    ]
    counts = milliseconds(lambda: floor.packets.counters(last.name))
    successor = Packets(floor.instance)
    start = milliseconds(successor.prepare)
    sweep = milliseconds(lambda: successor.leftovers([each.name for each in sessions]))
    successor.close()
    one = milliseconds(lambda: floor.packets.remove(last.name))
    rest = milliseconds(lambda: floor.packets.leftovers([]))
    print(
        f"\n{SESSIONS} sessions: install {statistics.median(installs[:20]):.1f} ms at first,"
        f" {statistics.median(installs[-20:]):.1f} at last; element {statistics.median(adds):.2f};"
        f" replace {statistics.median(replaces):.1f}; counters {counts:.1f}; adopt {start:.0f};"
        f" sweep {sweep:.0f}; remove one {one:.1f}, all others {rest:.0f}"
    )
    assert statistics.median(adds) < 2


def socket_to(address: str) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.connect_ex((address, 53)) or _sent(sock)


def _sent(sock: socket.socket) -> int:
    try:
        sock.send(b"x")
    except OSError as error:
        return error.errno or -1
    return 0


def test_an_element_among_ten_thousand(floor: Floor) -> None:
    with floor.running() as session:
        alone = [
            milliseconds(partial(floor.packets.add_elements, session.name, [one]))
            for one in addresses(100, "10.99.0.0")
        ]
        many = milliseconds(lambda: floor.packets.add_elements(session.name, addresses(ELEMENTS)))
        among = [
            milliseconds(partial(floor.packets.add_elements, session.name, [one]))
            for one in addresses(100, "10.98.0.0")
        ]
        print(
            f"\nelement: {statistics.median(alone):.2f} ms alone, {statistics.median(among):.2f}"
            f" among {ELEMENTS} ({max(among):.2f} at most); all of them {many:.0f} ms"
        )
        assert statistics.median(among) < 2


def connects(address: str, port: int) -> float:
    """Microseconds for a connect and a close, the median of many."""
    times = []
    for _ in range(300):
        sock = socket.socket()
        began = time.perf_counter_ns()
        sock.connect((address, port))
        times.append(time.perf_counter_ns() - began)
        sock.close()
    return statistics.median(times) / 1000


def test_connect_with_ten_thousand_elements(network: Network, floor: Floor) -> None:
    """Compared side by side, one after the other, several times: the machine is not quiet."""
    server = network.server(ALLOWED4, 443)
    threading.Thread(target=lambda: take(server), daemon=True).start()
    few, many = floor.session(PacketRules()), floor.session(PacketRules())
    target = Element(ipaddress.ip_address(ALLOWED4), TCP, 443, 443, 3600)
    floor.packets.add_elements(few.name, [target])
    floor.packets.add_elements(many.name, [*addresses(ELEMENTS), target])
    rounds = [
        tuple(inside(each, lambda: connects(ALLOWED4, 443)) for each in (None, few, many))
        for _ in range(ROUNDS)
    ]
    bare, one, full = (min(each) for each in zip(*rounds, strict=True))
    print(
        f"\nconnect: {bare:.1f} us outside, {one:.1f} with one element ({one / bare:.2f}),"
        f" {full:.1f} with {ELEMENTS} ({full / one:.2f} of one)"
    )
    server.close()
    assert full / one < 1.5
    floor.end(few)
    floor.end(many)


def take(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except TimeoutError:
            continue
        except OSError:
            return


def stream(port: int, seconds: float = 0.3) -> float:
    """GiB a second over loopback."""
    block = bytes(1 << 17)
    sent = 0
    with socket.create_connection(("127.0.0.1", port)) as sock:
        began = time.perf_counter()
        while time.perf_counter() < began + seconds:
            sent += sock.send(block)
        return sent / (time.perf_counter() - began) / (1 << 30)


def drain(server: socket.socket) -> None:
    while True:
        try:
            taken, _peer = server.accept()
        except TimeoutError:
            continue
        except OSError:
            return
        threading.Thread(target=swallow, args=(taken,), daemon=True).start()


def swallow(taken: socket.socket) -> None:
    """Until the end, which does not come where the session's rules went before its socket."""
    room = bytearray(1 << 18)
    taken.settimeout(1)
    with taken, contextlib.suppress(TimeoutError, ConnectionResetError):
        while taken.recv_into(room):
            pass


def test_a_stream_over_loopback(network: Network, floor: Floor) -> None:
    server = network.server("127.0.0.1", 0, here=True)
    port = server.getsockname()[1]
    threading.Thread(target=lambda: drain(server), daemon=True).start()
    session = floor.cgroup()
    rounds: dict[str, list[float]] = {"session": [], "outside": [], "no table": []}
    for _ in range(ROUNDS):
        floor.packets.drop()
        rounds["no table"].append(inside(session, partial(stream, port)))
        floor.packets.prepare()
        rounds["outside"].append(inside(None, partial(stream, port)))
        floor.packets.install(session.facts, rules([LOOPBACK]))
        rounds["session"].append(inside(session, partial(stream, port)))
    server.close()
    best = {name: max(each) for name, each in rounds.items()}
    print(
        f"\nstream: {best['no table']:.2f} GiB/s without the table, outside"
        f" {best['outside'] / best['no table']:.3f}, in a session"
        f" {best['session'] / best['no table']:.3f} of it"
    )
    assert best["session"] / best["no table"] > 0.7
    floor.end(session)

# SPDX-License-Identifier: Apache-2.0
"""What a connection to a host by name may begin with, packet by packet on the real kernel."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
import socket
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest

from monitor.daemon.hellos import destroy
from monitor.daemon.probes.naming import Naming
from monitor.wire.events import HelloEvent, HelloFault
from monitor.wire.layout import SessionFlag
from monitor.wire.named import NamedSpan
from tests.support import tls
from tests.support.daemon import wait_until
from tests.support.network import ALLOWED4, ALLOWED6, DENIED4, DENIED6, Network
from tests.support.probes import (
    TCP,
    Governed,
    Inside,
    Probes,
    boottime,
    inside,
    policy,
    ports,
    raw_connect,
)

NAME, OTHER = "api.example.com", "tenant.example.net"
WAIT = 20.0
MSG_ZEROCOPY, SO_ZEROCOPY = 0x4000000, 60  # uapi/linux/socket.h, asm-generic/socket.h
RULE = 3
ADDRESSES = [ALLOWED4, ALLOWED6]


@dataclass
class World:
    """Probes, a peer that listens at port 443 of every address, and sessions that were told."""

    probes: Probes
    network: Network
    naming: Naming
    servers: dict[str, socket.socket]

    def session(self, *, host: bool = True, flags: SessionFlag = SessionFlag.NONE) -> Governed:
        """One that was told ALLOWED* for NAME, and DENIED* for another name."""
        made = self.probes.session(policy(), flags=flags | SessionFlag.NAMES)
        for address in self.servers:
            name = NAME if address in ADDRESSES else "elsewhere.example.com"
            span = NamedSpan(TCP, 1, 65535, boottime(600), (RULE,), host)
            self.naming.tell(made.id, ip_address(address), {name})
            self.naming.put(made.id, ip_address(address), [span])
        return made

    def end(self, session: Governed) -> None:
        self.naming.remove(session.id)
        self.probes.end(session)

    def refused(self, session: Governed) -> list[HelloEvent]:
        return [each for each in self.probes.events(session) if isinstance(each, HelloEvent)]

    def attempt(
        self,
        session: Governed,
        pieces: Sequence[bytes],
        address: str = ALLOWED4,
        send: Callable[[socket.socket, bytes], Any] | None = None,
        segment: int = 0,
    ) -> tuple[bytes, list[HelloEvent]]:
        """What the server got of `pieces`, sent one by one, and what was refused."""
        whole = b"".join(pieces)

        def act() -> None:
            with socket.socket(_family(address)) as client:
                if segment:
                    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.settimeout(WAIT)
                client.connect((address, 443))
                for piece in pieces:
                    (send or socket.socket.sendall)(client, piece)

        inside(session, act)
        connection, _peer = self.servers[address].accept()
        with connection:
            return self.outcome(session, connection, len(whole))

    def outcome(
        self, session: Governed, connection: socket.socket, size: int
    ) -> tuple[bytes, list[HelloEvent]]:
        """What the server got, once that is all, and what was refused, once something is."""
        data, events = b"", []
        deadline = time.monotonic() + WAIT
        while len(data) < size and time.monotonic() < deadline:
            events += self.refused(session)
            cut = not all(each.observed for each in events)
            data += _read(connection, size - len(data), 0.02)
            if cut:
                break
        return data, events + self.refused(session)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _acknowledged(client: socket.socket) -> None:
    """Wait until the peer has all."""
    wait_until(lambda: not any(fcntl.ioctl(client.fileno(), termios.TIOCOUTQ, bytes(4))), WAIT)


def _read(connection: socket.socket, size: int, seconds: float = 0.3) -> bytes:
    """What comes, until there are `size` bytes, an end or a break."""
    data = b""
    connection.settimeout(seconds)
    while len(data) < size:
        try:
            more = connection.recv(1 << 16)
        except OSError:
            break
        if not more:
            break
        data += more
    return data


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Network() as network:
        probes = Probes()
        naming = Naming(probes.instance)
        naming.open()
        # The client may put its first data into the first packet of all, without having asked.
        for setting in ("net.ipv4.tcp_fastopen=0x605", "net.ipv4.tcp_min_snd_mss=48"):
            subprocess.run(["sysctl", "-qw", setting], check=True)
        servers = {}
        with network.peer():
            subprocess.run(["sysctl", "-qw", "net.ipv4.tcp_fastopen=0x602"], check=True)
        for address in (*ADDRESSES, DENIED4, DENIED6):
            servers[address] = network.server(address, 443)
            servers[address].setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 64)
        yield World(probes, network, naming, servers)
        for each in servers.values():
            each.close()
        naming.close()
        probes.clean()


@pytest.fixture
def session(world: World) -> Iterator[Governed]:
    made = world.session()
    yield made
    world.end(made)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("name", [NAME, NAME.upper()])
def test_a_name_that_was_told_passes(
    world: World, session: Governed, address: str, name: str
) -> None:
    data = tls.client_hello(name)
    assert world.attempt(session, [data, b"more"], address) == (data + b"more", [])


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    ("data", "fault", "name"),
    [
        (tls.client_hello(OTHER), HelloFault.OTHER, OTHER),
        (tls.client_hello("elsewhere.example.com"), HelloFault.OTHER, "elsewhere.example.com"),
        (tls.client_hello(None), HelloFault.NAMELESS, ""),
        (tls.hello(), HelloFault.NAMELESS, ""),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", HelloFault.PLAIN, ""),
        (b"x", HelloFault.PLAIN, ""),
        (b"\x16\2", HelloFault.PLAIN, ""),
        (b"\x80\x2e\1\3\1\0\x15\0\0\0\x10", HelloFault.PLAIN, ""),  # SSLv2's
        (b"SSH-2.0-OpenSSH_9.2\r\n", HelloFault.PLAIN, ""),
    ],
)
def test_anything_else_is_cut_and_recorded(
    world: World, session: Governed, address: str, data: bytes, fault: HelloFault, name: str
) -> None:
    got, events = world.attempt(session, [data], address)
    assert got == b""
    (event,) = events
    assert (event.fault, event.name, event.observed) == (fault, name, False)
    assert (event.address, event.port, event.rule) == (address, 443, RULE)
    assert event.comm.startswith("py")
    # The same data where no rule names the host, and where the session is only observed.
    for options in ({"host": False}, {"flags": SessionFlag.OBSERVE}):
        other = world.session(**options)
        try:
            passed, told = world.attempt(other, [data], address)
            assert passed == data
            assert [each.observed for each in told] == ([True] if "flags" in options else [])
        finally:
            world.end(other)


@pytest.mark.parametrize(
    "extensions",
    [
        [tls.names(NAME.encode()), tls.names(OTHER.encode())],
        [tls.names(OTHER.encode()), tls.names(NAME.encode())],
        [tls.names(NAME.encode(), OTHER.encode())],
        [tls.names(NAME.encode(), kind=1)],
        [tls.names(b"")],
        [tls.names(NAME.encode() + b"\0")],
        [tls.names(NAME.encode() + b"\0.example.net")],
        [tls.names(NAME.encode() + b".")],
        [tls.names(b"a" * 254)],
        [tls.names(b"a" * 300)],
        [(0, b"")],
        [(0, b"\0\5\0\0\2a")],
    ],
)
def test_names_that_servers_could_read_otherwise_are_cut(
    world: World, session: Governed, extensions: list[tls.Extension]
) -> None:
    got, events = world.attempt(session, [tls.hello(*extensions)])
    assert got == b""
    assert [each.fault for each in events] in ([HelloFault.BROKEN], [HelloFault.OTHER])


def test_a_hello_over_two_records_is_cut(world: World, session: Governed) -> None:
    whole = tls.message([tls.names(NAME.encode())])
    split = tls.record(whole[:60]) + tls.record(whole[60:])
    assert world.attempt(session, [split])[1][0].fault is HelloFault.BROKEN
    twice = tls.record(whole + whole)
    assert world.attempt(session, [twice])[1][0].fault is HelloFault.BROKEN
    assert world.attempt(session, [tls.record(whole)]) == (tls.record(whole), [])


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("before", [True, False])
def test_a_hello_longer_than_packets_passes(
    world: World, session: Governed, address: str, before: bool
) -> None:
    keys, named = (51, bytes(5000)), tls.names(NAME.encode())
    data = tls.hello(*((keys, named) if before else (named, keys)))
    assert world.attempt(session, [data], address) == (data, [])
    assert world.attempt(session, [data], address, segment=200) == (data, [])
    bad = data.replace(NAME.encode(), b"bad.example.com")
    got, events = world.attempt(session, [bad], address, segment=200)
    assert len(got) < len(bad)
    assert [each.name for each in events] == ["bad.example.com"]


def test_each_place_to_split_a_hello(world: World, session: Governed) -> None:
    good, bad = tls.client_hello(NAME), tls.client_hello("bad.example.com")
    assert world.attempt(session, [good[at : at + 1] for at in range(len(good))]) == (good, [])
    for at in (1, 2, 5, 6, 9, 43, 44, 45, 80, 120, 127, 128, 130, 140, 200, len(good) - 1):
        assert world.attempt(session, [good[:at], good[at:]]) == (good, []), at
        got, events = world.attempt(session, [bad[:at], bad[at:]])
        assert len(got) < len(bad)
        assert len(events) == 1, at


@pytest.mark.parametrize("address", ADDRESSES)
def test_data_in_the_first_packet_counts(world: World, session: Governed, address: str) -> None:
    def attempt(data: bytes) -> tuple[bytes, list[HelloEvent]]:
        def act() -> None:
            with socket.socket(_family(address)) as client:
                client.setblocking(False)  # where it is cut it would wait for minutes
                try:
                    sent = client.sendto(data, socket.MSG_FASTOPEN, (address, 443))
                except BlockingIOError:
                    return
                client.settimeout(WAIT)
                if sent < len(data):
                    client.sendall(data[sent:])

        world.network.arrived(0.0)
        inside(session, act)
        # Where it was cut, no connection came about.
        events = world.refused(session)
        if events:
            assert not select.select([world.servers[address]], [], [], 0.1)[0]
            return b"", events
        connection, _peer = world.servers[address].accept()
        with connection:
            return world.outcome(session, connection, len(data))

    good = tls.client_hello(NAME)
    long = tls.hello((51, bytes(3000)), tls.names(NAME.encode()))
    assert attempt(good) == (good, [])
    # It really was in the first packet: that is not what the case is about otherwise.
    syn = [each for each in world.network.arrived() if good[:20] in each.packet]
    assert any(_tcp_flags(each.packet, address) & 2 for each in syn)
    assert attempt(long) == (long, [])
    for data, fault in (
        (tls.client_hello(OTHER), HelloFault.OTHER),
        (b"plain", HelloFault.PLAIN),
        (tls.client_hello(None), HelloFault.NAMELESS),
    ):
        got, events = attempt(data)
        assert got == b""
        assert [each.fault for each in events] == [fault]
        assert not any(data[:5] in each.packet[40:] for each in world.network.arrived())


def _tcp_flags(packet: bytes, address: str) -> int:
    return packet[(40 if ":" in address else 20) + 13]


def test_urgent_data_is_cut_before_and_after_the_hello(world: World, session: Governed) -> None:
    good = tls.client_hello(NAME)

    def urgent(client: socket.socket, data: bytes) -> int:
        return client.send(data, socket.MSG_OOB)

    got, events = world.attempt(session, [good], send=urgent)
    assert (got, [each.fault for each in events]) == (b"", [HelloFault.URGENT])

    def last_urgent(client: socket.socket, data: bytes) -> None:
        if data == b"!":
            urgent(client, data)
        else:
            client.sendall(data)

    got, events = world.attempt(session, [good, b"!"], send=last_urgent)
    assert (got, [each.fault for each in events]) == (good, [HelloFault.URGENT])
    # A byte that is urgent lies outside of what a server reads: this one hides a letter.
    at = good.index(NAME.encode())
    got, events = world.attempt(session, [good[:at] + b"x", good[at:]], send=urgent)
    assert got == b""


def test_bytes_that_can_still_change_are_cut(world: World, session: Governed) -> None:
    good = tls.client_hello(NAME)

    def from_file(client: socket.socket, data: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            os.sendfile(client.fileno(), file.fileno(), 0, len(data))

    def without_copy(client: socket.socket, data: bytes) -> None:
        client.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
        client.send(data, MSG_ZEROCOPY)

    def piped(client: socket.socket, data: bytes) -> None:
        read, write = os.pipe()
        os.write(write, data)
        os.splice(read, client.fileno(), len(data)) if hasattr(os, "splice") else None
        os.close(read)
        os.close(write)

    for send in (from_file, without_copy, piped):
        got, events = world.attempt(session, [good], send=send)
        if send is piped and got == good:
            continue  # a pipe's pages are the kernel's own, and may be given away whole
        assert (got, [each.fault for each in events]) == (b"", [HelloFault.SHARED]), send

    # Afterwards it is the server's and the client's matter.
    def then_file(client: socket.socket, data: bytes) -> None:
        (client.sendall if data == good else lambda rest: from_file(client, rest))(data)

    body = bytes(5000)
    assert world.attempt(session, [good, body], send=then_file) == (good + body, [])


def test_what_was_lost_is_sent_again(world: World, session: Governed) -> None:
    good = tls.client_hello(NAME)

    def act() -> None:
        with socket.create_connection((ALLOWED4, 443), WAIT) as client:
            subprocess.run(["ip", "link", "set", "out0", "down"], check=True)
            client.sendall(good[:100])
            client.sendall(good[100:])
            subprocess.run(["ip", "link", "set", "out0", "up"], check=True)
            _acknowledged(client)

    inside(session, act)
    connection, _peer = world.servers[ALLOWED4].accept()
    with connection:
        assert _read(connection, len(good)) == good
    assert world.refused(session) == []
    # The kernel took the address of the other family with the link.
    subprocess.run(["ip", "addr", "replace", "fd09::1/64", "dev", "out0", "nodad"], check=True)


def test_a_socket_that_is_connected_again_begins_again(world: World, session: Governed) -> None:
    good = tls.client_hello(NAME)
    plain = world.network.server(ALLOWED4, 8443)
    unconnected = struct.pack("=H14x", socket.AF_UNSPEC)

    def act() -> list[int]:
        said = []
        with socket.socket() as client:
            client.settimeout(WAIT)
            client.connect((ALLOWED4, 443))
            client.sendall(good)
            _acknowledged(client)
            said.append(raw_connect(client, unconnected))
            client.connect((ALLOWED4, 8443))
            client.sendall(b"plain")
            _acknowledged(client)
            said.append(raw_connect(client, unconnected))
            client.connect((ALLOWED4, 443))
            client.sendall(b"plain")
        return said

    assert inside(session, act) == [0, 0]
    got = []
    for server, size in ((world.servers[ALLOWED4], 999), (plain, 5), (world.servers[ALLOWED4], 5)):
        connection, _peer = server.accept()
        with connection:
            got.append(_read(connection, size))
    assert got == [good, b"plain", b""]
    assert [each.fault for each in world.refused(session)] == [HelloFault.PLAIN]
    plain.close()


def test_what_was_cut_is_destroyed(world: World, session: Governed) -> None:
    read, write = os.pipe()

    def act() -> list[int]:
        with socket.create_connection((ALLOWED4, 443), WAIT) as client:
            client.sendall(tls.client_hello(OTHER))
            os.write(write, b"x")
            client.settimeout(WAIT)
            try:
                client.recv(1)
            except OSError as error:
                return [error.errno or 0]
            return []

    running = Inside(session, act)
    assert os.read(read, 1) == b"x"
    events: list[HelloEvent] = []

    def told() -> bool:
        events.extend(world.refused(session))
        return bool(events)

    wait_until(told, WAIT)
    assert destroy(events) == 1
    assert destroy(events) == 0
    assert running.result() in ([errno.ECONNABORTED], [errno.EPIPE])
    connection, _peer = world.servers[ALLOWED4].accept()
    with connection:
        connection.settimeout(WAIT)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    for fd in (read, write):
        os.close(fd)


def test_names_come_and_go(world: World, session: Governed) -> None:
    address = ip_address(ALLOWED4)
    data = tls.client_hello(OTHER)
    assert world.attempt(session, [data])[0] == b""
    world.naming.tell(session.id, address, {NAME, OTHER})
    assert world.attempt(session, [data]) == (data, [])
    world.naming.tell(session.id, address, {NAME})
    assert world.attempt(session, [data])[0] == b""
    again = Naming(world.probes.instance)
    again.open()
    assert again.told(session.id)[address] == {NAME}
    again.close()


def test_the_kernel_reads_hellos_as_the_reference_does(world: World, session: Governed) -> None:
    chance = random.Random(1)
    good = tls.client_hello(NAME)
    passed = 0
    for _number in range(120):
        data = _changed(chance, good)
        try:
            allowed = (tls.name_of(data) or b"").lower() == NAME.encode()
        except tls.Broken:
            allowed = False
        cuts = sorted(chance.sample(range(1, len(data)), chance.randrange(3)))
        edges = [0, *cuts, len(data)]
        pieces = [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]
        got, events = world.attempt(session, pieces)
        assert (got == data and not events) == allowed, data.hex()
        passed += allowed
    assert passed > 10  # the changes are not all fatal, or nothing would be compared


def _changed(chance: random.Random, good: bytes) -> bytes:
    """A hello with something wrong in it, or not; its record is as long as it says."""
    data = bytearray(good)
    kind = chance.randrange(5)
    if kind == 0:
        data[chance.randrange(len(data))] = chance.randrange(256)
    elif kind == 1:
        at = data.index(NAME.encode()) - 9 + chance.randrange(9 + len(NAME))
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 2:
        every = [tls.names(NAME.encode()), (51, chance.randbytes(chance.randrange(900)))]
        every += [(chance.randrange(1, 60), b"") for _ in range(chance.randrange(60))]
        chance.shuffle(every)
        data = bytearray(tls.hello(*every, session=chance.randbytes(chance.choice((0, 32, 33)))))
    elif kind == 3:
        data[9 + 34] = chance.randrange(40)
    data[3:5] = struct.pack(">H", len(data) - 5)
    if chance.random() < 0.9:
        data[6:9] = (len(data) - 9).to_bytes(3, "big")
    return bytes(data)


def test_rows_go_with_their_session(world: World) -> None:
    made = world.session()
    identity = made.id
    assert world.naming.told(identity)
    world.end(made)
    assert not world.naming.told(identity)


def test_a_policy_that_lists_the_address_asks_for_no_name(world: World) -> None:
    listed = policy(connect=[(f"::ffff:{ALLOWED4}/128", [ports(443)])])
    made = world.probes.session(listed, flags=SessionFlag.NAMES)
    try:
        assert world.attempt(made, [b"plain"]) == (b"plain", [])
    finally:
        world.probes.end(made)

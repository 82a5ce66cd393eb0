# SPDX-License-Identifier: Apache-2.0
"""Every way out of a session by IP, stopped by nftables alone: no cgroup program, no filter.

Each case runs under the rules and with them off, and what reaches the peer's cable decides.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from monitor.policy.packets import EVERYTHING, rules
from tests.support.network import (
    ALLOWED4,
    ALLOWED6,
    DENIED4,
    DENIED6,
    HERE4,
    HERE6,
    Frame,
    Network,
)
from tests.support.packets import POLICY, Floor
from tests.support.probes import (
    Inside,
    attempt,
    inside,
    policy,
    raw_sendmmsg,
    raw_sendto,
    sockaddr,
)

V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM, DGRAM, RAW = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW
REFUSED, CLOSED = errno.EPERM, errno.ECONNREFUSED
MARK = b"LEAK" * 8
# uapi/linux/in.h, linux/socket.h, uapi/linux/tcp.h, uapi/linux/in6.h, uapi/linux/udp.h
IPPROTO_DCCP, IPPROTO_SCTP, IPPROTO_UDPLITE, IPPROTO_MPTCP = 33, 132, 136, 262
MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN_CONNECT = 30
IPV6_HDRINCL = 36
UDP_SEGMENT = 103


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647")
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3")
        for name in ("all", "out0", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/seg6_enabled").write_text("1")
        yield made


@pytest.fixture(scope="module")
def floor(network: Network) -> Iterator[Floor]:
    made = Floor()
    try:
        yield made
    finally:
        made.clean()


def leaks(frames: list[Frame]) -> list[Frame]:
    """What no rule allows: packets for the denied peer, and marked bytes to whomever."""
    return [
        frame
        for frame in frames
        if MARK[:4] in frame.packet or frame.destination in (DENIED4, DENIED6)
    ]


# -- ways out --------------------------------------------------------------------------------------


def connect(address: str, protocol: int = 0) -> Callable[[], int]:
    def act() -> int:
        family = V6 if ":" in address else V4
        with socket.socket(family, STREAM, protocol) as sock:
            sock.settimeout(2)
            return attempt(lambda: sock.connect((address, 443)))

    return act


def send(address: str, port: int = 53, kind: int = DGRAM, protocol: int = 0) -> Callable[[], int]:
    def act() -> int:
        family = V6 if ":" in address else V4
        with socket.socket(family, kind, protocol) as sock:
            return attempt(lambda: sock.sendto(MARK, (address, port)))

    return act


def connected_send(address: str, protocol: int = 0) -> Callable[[], int]:
    """Without an address in the call: no hook on addresses sees it."""

    def act() -> int:
        family = V6 if ":" in address else V4
        with socket.socket(family, DGRAM, protocol) as sock:
            sock.connect((address, 53))
            return attempt(lambda: sock.send(MARK))

    return act


def fast_open(address: str, how: str) -> Callable[[], int]:
    def act() -> int:
        family = V6 if ":" in address else V4
        with socket.socket(family, STREAM) as sock:
            if how == "sendto":
                return attempt(lambda: sock.sendto(MARK, MSG_FASTOPEN, (address, 443)))
            if how == "sendmsg":
                return attempt(lambda: sock.sendmsg([MARK], [], MSG_FASTOPEN, (address, 443)))
            sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            return attempt(lambda: sock.connect((address, 443))) or attempt(lambda: sock.send(MARK))

    return act


def corked() -> int:
    with socket.socket(V4, DGRAM) as sock:
        first = raw_sendto(sock, sockaddr(DENIED4, 53), MARK, socket.MSG_MORE)
        return first or raw_sendto(sock, sockaddr(DENIED4, 53), MARK)


def many() -> int:
    with socket.socket(V4, DGRAM) as sock:
        return raw_sendmmsg(sock, [sockaddr(DENIED4, 53)])[1]


def segmented() -> int:
    with socket.socket(V4, DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 16)
        return attempt(lambda: sock.sendto(MARK * 4, (DENIED4, 53)))


def header4(protocol: int, destination: str, payload: bytes, offset: int = 0) -> bytes:
    """An IPv4 header of one's own; the kernel fills in the checksum."""
    packed = [socket.inet_pton(V4, each) for each in (HERE4, destination)]
    return (
        struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, offset, 64, protocol, 0, *packed
        )
        + payload
    )


def header6(protocol: int, destination: str, payload: bytes) -> bytes:
    packed = [socket.inet_pton(V6, each) for each in (HERE6, destination)]
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, *packed) + payload


def tcp_segment(flags: int, source: int = 7000, destination: int = 443) -> bytes:
    return struct.pack("!HHIIBBHHH", source, destination, 1, 1, 5 << 4, flags, 512, 0, 0) + MARK


def udp_datagram(port: int) -> bytes:
    return struct.pack("!HHHH", 7000, port, 8 + len(MARK), 0) + MARK


def crafted4(destination: str, protocol: int, payload: bytes, offset: int = 0) -> Callable[[], int]:
    def act() -> int:
        with socket.socket(V4, RAW, socket.IPPROTO_RAW) as sock:
            packet = header4(protocol, destination, payload, offset)
            return attempt(lambda: sock.sendto(packet, (destination, 0)))

    return act


def crafted6(destination: str, protocol: int, payload: bytes) -> Callable[[], int]:
    def act() -> int:
        with socket.socket(V6, RAW, socket.IPPROTO_RAW) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_HDRINCL, 1)
            packet = header6(protocol, destination, payload)
            return attempt(lambda: sock.sendto(packet, (destination, 0)))

    return act


def ping(address: str, kind: int) -> Callable[[], int]:
    def act() -> int:
        family = V6 if ":" in address else V4
        protocol = socket.IPPROTO_ICMPV6 if family == V6 else socket.IPPROTO_ICMP
        echo = struct.pack("!BBHHH", 128 if family == V6 else 8, 0, 0, 1, 1) + MARK
        with socket.socket(family, kind, protocol) as sock:
            return attempt(lambda: sock.sendto(echo, (address, 0)))

    return act


def segment_routed(first: str, last: str) -> Callable[[], int]:
    """The caller names `last`; the packet goes to `first`, which is asked to pass it on."""

    def act() -> int:
        segments = b"".join(socket.inet_pton(V6, each) for each in (last, first))
        header = struct.pack("!BBBBBBH", 0, 4, 4, 1, 1, 0, 0) + segments
        with socket.socket(V6, DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, header)
            return attempt(lambda: sock.sendto(MARK, (last, 53)))

    return act


def source_routed() -> int:
    route = struct.pack("!BBB4sx", 131, 7, 4, socket.inet_pton(V4, ALLOWED4))
    with socket.socket(V4, DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)
        return attempt(lambda: sock.sendto(MARK, (DENIED4, 53)))


def source_routed_by_allowed() -> int:
    """The first hop is the allowed peer: only the options tell."""
    route = struct.pack("!BBB4sx", 131, 7, 4, socket.inet_pton(V4, ALLOWED4))
    with socket.socket(V4, DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)
        return attempt(lambda: sock.sendto(MARK, (ALLOWED4, 53)))


def with_destination_options() -> int:
    with socket.socket(V6, DGRAM) as sock:
        sock.setsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, struct.pack("!BBBB4x", 0, 0, 1, 4)
        )
        return attempt(lambda: sock.sendto(MARK, (ALLOWED6, 53)))


def broadcast() -> int:
    with socket.socket(V4, DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return attempt(lambda: sock.sendto(MARK, ("10.9.0.255", 53)))


def multicast(address: str) -> Callable[[], int]:
    def act() -> int:
        with socket.socket(V6 if ":" in address else V4, DGRAM) as sock:
            index = socket.if_nametoindex("out0")
            if ":" in address:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            else:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(HERE4))
            return attempt(lambda: sock.sendto(MARK, (address, 53)))

    return act


ACK, SYN, RST = 0x10, 0x02, 0x04
WAYS: dict[str, tuple[Callable[[], int], int]] = {
    "tcp": (connect(DENIED4), CLOSED),
    "tcp6": (connect(DENIED6), CLOSED),
    "tcp mapped": (connect(f"::ffff:{DENIED4}"), CLOSED),
    "mptcp": (connect(DENIED4, IPPROTO_MPTCP), CLOSED),
    "mptcp6": (connect(DENIED6, IPPROTO_MPTCP), CLOSED),
    "fast open sendto": (fast_open(DENIED4, "sendto"), CLOSED),
    "fast open sendmsg": (fast_open(DENIED6, "sendmsg"), CLOSED),
    "fast open mapped": (fast_open(f"::ffff:{DENIED4}", "sendto"), CLOSED),
    "fast open connect": (fast_open(DENIED4, "connect"), CLOSED),
    "udp": (send(DENIED4), REFUSED),
    "udp6": (send(DENIED6), REFUSED),
    "udp mapped": (send(f"::ffff:{DENIED4}"), REFUSED),
    "udp other port": (send(ALLOWED4, 54), REFUSED),
    "udp6 other port": (send(ALLOWED6, 54), REFUSED),
    "udp connected": (connected_send(DENIED4), REFUSED),
    "udp6 connected": (connected_send(DENIED6), REFUSED),
    "udp corked": (corked, REFUSED),
    "udp sendmmsg": (many, REFUSED),
    "udp segments": (segmented, REFUSED),
    "udp-lite": (send(DENIED4, 53, DGRAM, IPPROTO_UDPLITE), REFUSED),
    "udp-lite connected": (connected_send(DENIED6, IPPROTO_UDPLITE), REFUSED),
    "udp-lite to allowed": (connected_send(ALLOWED4, IPPROTO_UDPLITE), REFUSED),
    "broadcast": (broadcast, REFUSED),
    "multicast": (multicast("224.0.0.251"), REFUSED),
    "multicast6": (multicast("ff02::fb"), REFUSED),
    "icmp raw": (ping(DENIED4, RAW), REFUSED),
    "icmp ping": (ping(ALLOWED4, DGRAM), REFUSED),
    "icmp6 raw": (ping(DENIED6, RAW), REFUSED),
    "icmp6 ping": (ping(ALLOWED6, DGRAM), 0),  # the kernel keeps the refusal from the caller
    "sctp": (crafted4(ALLOWED4, IPPROTO_SCTP, udp_datagram(443)), REFUSED),
    "sctp6": (crafted6(ALLOWED6, IPPROTO_SCTP, udp_datagram(443)), REFUSED),
    "dccp": (crafted4(ALLOWED4, IPPROTO_DCCP, udp_datagram(443)), REFUSED),
    "gre": (crafted4(ALLOWED4, 47, udp_datagram(443)), REFUSED),
    "raw tcp": (crafted4(DENIED4, socket.IPPROTO_TCP, tcp_segment(ACK, 9)), REFUSED),
    "raw tcp reset with data": (
        crafted4(DENIED4, socket.IPPROTO_TCP, tcp_segment(RST, 9)),
        REFUSED,
    ),
    "raw tcp from own port": (crafted4(DENIED4, socket.IPPROTO_TCP, tcp_segment(SYN)), REFUSED),
    "raw udp": (crafted4(DENIED4, socket.IPPROTO_UDP, udp_datagram(53)), REFUSED),
    "raw udp from own port": (crafted4(DENIED4, socket.IPPROTO_UDP, udp_datagram(9)), REFUSED),
    "raw udp6": (crafted6(DENIED6, socket.IPPROTO_UDP, udp_datagram(53)), REFUSED),
    "raw fragment": (crafted4(ALLOWED4, socket.IPPROTO_UDP, udp_datagram(53), 64), REFUSED),
    "raw fragment6": (
        crafted6(ALLOWED6, 44, struct.pack("!BBHI", 17, 0, 64 << 3, 7) + MARK),
        REFUSED,
    ),
    "segment routing": (segment_routed(DENIED6, ALLOWED6), REFUSED),
    "segment routing by allowed": (segment_routed(ALLOWED6, DENIED6), REFUSED),
    "source route": (source_routed, REFUSED),
    "source route by allowed": (source_routed_by_allowed, REFUSED),
    "destination options": (with_destination_options, REFUSED),
    "hop by hop options": (
        crafted6(ALLOWED6, 0, struct.pack("!BBBB4x", 17, 0, 1, 4) + udp_datagram(53)),
        REFUSED,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_way_out(network: Network, floor: Floor, way: str) -> None:
    act, answer = WAYS[way]
    with floor.running() as session:
        network.arrived(0)
        began = time.monotonic()
        result = inside(session, act)
        assert time.monotonic() - began < 1.5, "programs fail at once"
        assert leaks(network.arrived()) == []
        assert result == answer
        assert floor.packets.counters(session.name).refused.packets
        floor.packets.replace(session.facts, EVERYTHING)
        inside(session, act)
        assert leaks(network.arrived())


def test_what_is_allowed_goes_out(network: Network, floor: Floor) -> None:
    servers = [network.server(ALLOWED4, 443), network.server(ALLOWED6, 443)]

    def act() -> list[int]:
        ends = (ALLOWED4, ALLOWED6, f"::ffff:{ALLOWED4}")
        return [
            *(connect(each)() for each in ends),
            *(send(each)() for each in ends),
            *(connected_send(each)() for each in ends),
            *(connect(each, IPPROTO_MPTCP)() for each in ends),
            fast_open(ALLOWED4, "sendto")(),
        ]

    with floor.running() as session:
        assert set(inside(session, act)) == {0}
    for each in servers:
        each.close()


# -- sockets that change hands ---------------------------------------------------------------------


def test_a_sessions_socket_is_held_wherever_it_is_used(network: Network, floor: Floor) -> None:
    """Handed to a process outside, it stays the session's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, DGRAM)

    def hand_over() -> None:
        with socket.socket(V4, DGRAM) as sock:
            fds = array.array("i", [sock.fileno()]).tobytes()
            theirs.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])

    for everything in (False, True):
        with floor.running(EVERYTHING if everything else None) as session:
            inside(session, hand_over)
            _data, ancillary, _flags, _sender = ours.recvmsg(1, socket.CMSG_SPACE(4))
            (number,) = struct.unpack("i", ancillary[0][2])
            network.arrived(0)
            with socket.socket(fileno=number) as taken:
                answer = raw_sendto(taken, sockaddr(DENIED4, 53), MARK)
            assert (answer, bool(leaks(network.arrived()))) == (
                (0, True) if everything else (REFUSED, False)
            )
    ours.close()
    theirs.close()


def test_an_accepted_connection_is_the_sessions(network: Network, floor: Floor) -> None:
    """It is answered while its port may be bound, and falls silent when the rules say so."""
    with floor.running() as session:
        ready, go = os.pipe()
        running = Inside(session, lambda: serve(go))
        os.read(ready, 1)
        with network.peer():
            peer = socket.create_connection((HERE4, 7000), timeout=2)
        peer.sendall(b"hello")
        assert peer.recv(16) == b"HELLO"
        floor.packets.replace(session.facts, rules([policy()]))
        network.arrived(0)
        peer.sendall(b"again")
        assert not [each for each in network.arrived() if b"AGAIN" in each.packet]
        peer.close()
        assert running.result() in (0, errno.ECONNRESET)


def serve(go: int) -> int:
    with socket.create_server(("0.0.0.0", 7000)) as server:
        os.write(go, b"x")
        server.settimeout(5)
        taken, _peer = server.accept()
        taken.settimeout(1)

        def answer() -> None:
            while data := taken.recv(16):
                taken.sendall(data.upper())

        found = attempt(answer)
        return 0 if found == errno.ETIMEDOUT else found


# -- ways in ---------------------------------------------------------------------------------------


def listen_without_bind(report: int) -> object:
    with socket.socket(V4, STREAM) as sock:
        sock.listen(1)
        os.write(report, struct.pack("H", sock.getsockname()[1]))
        sock.settimeout(0.6)
        return attempt(sock.accept)


def test_nobody_gets_in_where_nothing_was_bound(network: Network, floor: Floor) -> None:
    for everything in (False, True):
        with floor.running(EVERYTHING if everything else None) as session:
            said, report = os.pipe()
            running = Inside(session, partial(listen_without_bind, report))
            (port,) = struct.unpack("H", os.read(said, 2))
            answers = [reach(network, port, here=here) for here in (False, True)]
            accepted = running.result()
            if everything:
                assert answers[0] == 0
                assert accepted == 0
            else:
                assert answers == [CLOSED, CLOSED]
                assert accepted == errno.ETIMEDOUT


def reach(network: Network, port: int, address: str = HERE4, *, here: bool = False) -> int:
    family = V6 if ":" in address else V4
    if here:
        sock = socket.socket(family, STREAM)
    else:
        with network.peer():
            sock = socket.socket(family, STREAM)
    with sock:
        sock.settimeout(1)
        return attempt(lambda: sock.connect((address, port)))


def receive_after_refused_send(report: int) -> object:
    with socket.socket(V4, DGRAM) as sock:
        attempt(lambda: sock.sendto(b"x", (DENIED4, 53)))  # refused or not, it is bound now
        os.write(report, struct.pack("H", sock.getsockname()[1]))
        sock.settimeout(0.6)
        return attempt(lambda: sock.recv(16))


def test_a_refused_send_opens_no_way_in(network: Network, floor: Floor) -> None:
    for everything in (False, True):
        with floor.running(EVERYTHING if everything else None) as session:
            said, report = os.pipe()
            running = Inside(session, partial(receive_after_refused_send, report))
            (port,) = struct.unpack("H", os.read(said, 2))
            with network.server(ALLOWED4, 0, DGRAM) as peer:
                peer.sendto(b"in", (HERE4, port))
            assert running.result() == (0 if everything else errno.ETIMEDOUT)


def test_only_what_is_exposed_is_reached_from_outside(network: Network, floor: Floor) -> None:
    held = rules([POLICY], exposed=[()])
    with floor.running(held) as session:
        ready, go = os.pipe()
        running = Inside(session, lambda: serve(go))
        os.read(ready, 1)
        assert reach(network, 7000) == CLOSED
        assert floor.packets.counters(session.name).turned.packets == 1
        assert reach(network, 7000, here=True) == 0
        running.result()
    with floor.running() as session:
        running = Inside(session, lambda: serve(go))
        os.read(ready, 1)
        assert reach(network, 7000) == 0
        running.result()


def echo(address: str, port: int, go: int) -> int:
    with socket.socket(V6 if ":" in address else V4, DGRAM) as sock:
        sock.bind((address, port))
        os.write(go, b"x")
        sock.settimeout(1)
        data, peer = sock.recvfrom(16)
        return attempt(lambda: sock.sendto(data.upper(), peer))


@pytest.mark.parametrize(
    ("bound", "port", "here", "there"),
    [("0.0.0.0", 7000, HERE4, DENIED4), ("::", 7006, HERE6, DENIED6)],
)
def test_a_peer_of_a_bound_port_is_answered(
    network: Network, floor: Floor, bound: str, port: int, here: str, there: str
) -> None:
    """Whoever sent first, and only that one port of it; nobody else is sent to from there."""
    with floor.running() as session:
        ready, go = os.pipe()
        running = Inside(session, lambda: echo(bound, port, go))
        os.read(ready, 1)
        with network.server(there, 5555, DGRAM) as peer:
            peer.sendto(b"hello", (here, port))
            assert peer.recv(16) == b"HELLO"
        assert running.result() == 0

        def elsewhere() -> int:
            with socket.socket(V6 if ":" in bound else V4, DGRAM) as sock:
                sock.bind((bound, port))
                return attempt(lambda: sock.sendto(MARK, (there, 5556)))

        assert inside(session, elsewhere) == REFUSED


def ask(address: str) -> bytes:
    with socket.socket(V6 if ":" in address else V4, DGRAM) as sock:
        sock.settimeout(1)
        sock.sendto(b"question", (address, 53))
        return sock.recv(16)


@pytest.mark.parametrize("address", [ALLOWED4, ALLOWED6])
def test_an_allowed_peer_answers_a_datagram(network: Network, floor: Floor, address: str) -> None:
    with network.server(address, 53, DGRAM) as server, floor.running() as session:
        running = Inside(session, lambda: ask(address))
        _question, sender = server.recvfrom(16)
        server.sendto(b"answer", sender)
        assert running.result() == b"answer"


def test_an_error_from_the_network_reaches_the_program(network: Network, floor: Floor) -> None:
    """ICMP about the session's own packets comes in: nobody is at the allowed port.

    Several tries, as a kernel sends only so many ICMP errors a second, of all tests together.
    """

    def act() -> int:
        with socket.socket(V4, DGRAM) as sock:
            sock.connect((ALLOWED4, 53))
            sock.settimeout(1)
            for _ in range(10):
                sock.send(b"x")
                if (found := attempt(lambda: sock.recv(16))) != errno.ETIMEDOUT:
                    break
            return found

    with floor.running() as session:
        assert inside(session, act) == CLOSED

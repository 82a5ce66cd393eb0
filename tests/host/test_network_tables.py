# SPDX-License-Identifier: Apache-2.0
"""What the cgroup programs decide on internet sockets, with policies made by hand.

Each case runs three times: in a session, in one with the same policy under RI_OBSERVE, and outside.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from monitor.policy.plan import Policy, SocketRule
from monitor.wire.events import DenyCause, NetEvent, NetOperation
from monitor.wire.layout import SessionFlag
from tests.support.probes import (
    INTERNET,
    TCP,
    UDP,
    Governed,
    Inside,
    Probes,
    attempt,
    enter_network,
    inside,
    policy,
    ports,
    raw_bind,
    raw_connect,
    raw_sendmmsg,
    raw_sendto,
    sockaddr,
)

DONE, REFUSED, CLOSED = 0, errno.EPERM, errno.ECONNREFUSED
# linux/socket.h, uapi/linux/in.h, uapi/linux/tcp.h
MSG_FASTOPEN = 0x20000000
TCP_FASTOPEN_CONNECT = 30
IPPROTO_SCTP, IPPROTO_UDPLITE, IPPROTO_MPTCP = 132, 136, 262


def net_events(probes: Probes, session: Governed) -> list[NetEvent]:
    return [event for event in probes.events(session) if isinstance(event, NetEvent)]


def three_ways(
    probes: Probes, rules: Policy, action: Callable[[], object]
) -> tuple[object, object, object]:
    """What `action` returns in a session, under RI_OBSERVE, and outside."""
    with probes.running(rules) as session:
        governed = inside(session, action)
        denials = [event for event in net_events(probes, session) if event.cause.value]
        assert not any(event.observed for event in denials)
        refused = len(denials)
    with probes.running(rules, flags=SessionFlag.OBSERVE) as session:
        observed = inside(session, action)
        denials = [event for event in net_events(probes, session) if event.cause.value]
        assert all(event.observed for event in denials)
        assert len(denials) >= refused
    return governed, observed, inside(None, action)


# -- where to -------------------------------------------------------------------------------------

EVERYTHING = [ports(0, 65535), ports(0, 65535, protocol=UDP)]
OUTSIDE_WORLD = policy(
    connect=[
        ("::ffff:10.1.0.0/112", [ports(443), ports(8000, 8999), ports(53, protocol=UDP)]),
        ("::ffff:10.1.2.3/128", [ports(22), ports(443, allow=False)]),
        ("fd00:1::/32", [ports(443), ports(53, protocol=UDP)]),
    ],
    bind=[
        ("::ffff:10.1.0.0/112", [ports(7000), ports(7000, protocol=UDP)]),
        ("::/128", [ports(7001)]),
        ("::ffff:0.0.0.0/128", [ports(7002)]),
    ],
)


def connects(family: int, kind: int, address: bytes) -> Callable[[], int]:
    def act() -> int:
        enter_network()
        with socket.socket(family, kind) as sock:
            return raw_connect(sock, address)

    return act


def sends(family: int, address: bytes) -> Callable[[], tuple[int, int]]:
    """sendto on an unconnected socket, and on one that is connected elsewhere."""

    def act() -> tuple[int, int]:
        enter_network()
        allowed = "fd00:1::1" if family == socket.AF_INET6 else "10.1.0.1"
        with socket.socket(family, socket.SOCK_DGRAM) as first, \
                socket.socket(family, socket.SOCK_DGRAM) as second:  # fmt: skip
            assert raw_connect(second, sockaddr(allowed, 53)) == DONE
            return raw_sendto(first, address), raw_sendto(second, address)

    return act


V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.mark.parametrize(
    ("family", "kind", "address", "port", "allowed"),
    [
        pytest.param(V4, STREAM, "10.1.0.1", 443, True, id="port"),
        pytest.param(V4, STREAM, "10.1.0.1", 442, False, id="port below"),
        pytest.param(V4, STREAM, "10.1.0.1", 444, False, id="port above"),
        pytest.param(V4, STREAM, "10.1.0.1", 8000, True, id="range first"),
        pytest.param(V4, STREAM, "10.1.0.1", 8511, True, id="range middle"),
        pytest.param(V4, STREAM, "10.1.0.1", 8999, True, id="range last"),
        pytest.param(V4, STREAM, "10.1.0.1", 7999, False, id="range below"),
        pytest.param(V4, STREAM, "10.1.0.1", 9000, False, id="range above"),
        pytest.param(V4, STREAM, "10.1.0.1", 0, False, id="port 0"),
        pytest.param(V4, STREAM, "10.1.255.255", 443, True, id="prefix last"),
        pytest.param(V4, STREAM, "10.2.0.0", 443, False, id="prefix above"),
        pytest.param(V4, STREAM, "10.0.255.255", 443, False, id="prefix below"),
        pytest.param(V4, STREAM, "10.1.0.1", 53, False, id="other protocol"),
        pytest.param(V4, DGRAM, "10.1.0.1", 53, True, id="udp"),
        pytest.param(V4, DGRAM, "10.1.0.1", 443, False, id="udp other protocol"),
        pytest.param(V4, STREAM, "10.1.2.3", 22, True, id="longer prefix allows"),
        pytest.param(V4, STREAM, "10.1.2.3", 443, False, id="longer prefix denies"),
        pytest.param(V4, STREAM, "10.1.2.3", 8000, False, id="longer prefix is the whole verdict"),
        pytest.param(V4, STREAM, "10.1.2.4", 22, False, id="longer prefix's neighbour"),
        pytest.param(V6, STREAM, "fd00:1::5", 443, True, id="ipv6"),
        pytest.param(V6, STREAM, "fd00:2::5", 443, False, id="ipv6 other network"),
        pytest.param(V6, DGRAM, "fd00:1::5", 53, True, id="ipv6 udp"),
        pytest.param(V6, DGRAM, "fd00:1::5", 54, False, id="ipv6 udp other port"),
        pytest.param(V6, STREAM, "::ffff:10.1.0.1", 443, True, id="mapped"),
        pytest.param(V6, STREAM, "::ffff:10.2.0.1", 443, False, id="mapped other network"),
        pytest.param(V6, DGRAM, "::ffff:10.1.0.1", 53, True, id="mapped udp"),
        pytest.param(V6, DGRAM, "::ffff:10.2.0.1", 53, False, id="mapped udp other network"),
        pytest.param(V6, STREAM, "::1", 443, False, id="ipv6 loopback"),
        pytest.param(V4, STREAM, "127.0.0.1", 443, False, id="loopback"),
        pytest.param(V4, STREAM, "0.0.0.0", 443, False, id="any address"),
        pytest.param(V6, STREAM, "::", 443, False, id="ipv6 any address"),
    ],
)
def test_connect(
    probes: Probes, family: int, kind: int, address: str, port: int, allowed: bool
) -> None:
    to = sockaddr(address, port)
    governed, observed, outside = three_ways(probes, OUTSIDE_WORLD, connects(family, kind, to))
    # Nobody listens: a stream that may go out is answered by a reset.
    reached = CLOSED if kind == STREAM else DONE
    assert governed == (reached if allowed else REFUSED)
    assert observed == outside == reached


@pytest.mark.parametrize(
    ("family", "address", "port", "allowed"),
    [
        pytest.param(V4, "10.1.0.1", 53, True, id="listed"),
        pytest.param(V4, "10.1.0.1", 54, False, id="other port"),
        pytest.param(V4, "10.2.0.1", 53, False, id="other network"),
        pytest.param(V6, "fd00:1::5", 53, True, id="ipv6"),
        pytest.param(V6, "fd00:2::5", 53, False, id="ipv6 other network"),
    ],
)
def test_sendto(probes: Probes, family: int, address: str, port: int, allowed: bool) -> None:
    action = sends(family, sockaddr(address, port))
    governed, observed, outside = three_ways(probes, OUTSIDE_WORLD, action)
    assert governed == ((DONE, DONE) if allowed else (REFUSED, REFUSED))
    assert observed == outside == (DONE, DONE)


def send_forms() -> dict[str, int]:
    """Ways by which a datagram goes to 10.2.0.1, which no rule lists."""
    enter_network()
    address, mapped = sockaddr("10.2.0.1", 53), sockaddr("::ffff:10.2.0.1", 53)
    with socket.socket(V4, DGRAM) as four, socket.socket(V6, DGRAM) as six:
        return {
            "sendmsg": attempt(lambda: four.sendmsg([b"x"], [], 0, ("10.2.0.1", 53))),
            "sendmmsg": raw_sendmmsg(four, [address])[1],
            # Taken for AF_INET, as it was in the beginning.
            "family 0": raw_sendto(four, sockaddr("10.2.0.1", 53, family=0)),
            "mapped": raw_sendto(six, mapped),
            "IPv4 address, IPv6 socket": raw_sendto(six, address),
            "connect by IPv4 address": raw_connect(six, address),
            "corked": raw_sendto(four, address, flags=socket.MSG_MORE),
        }


def test_no_form_of_sending_is_missed(probes: Probes) -> None:
    governed, observed, outside = three_ways(probes, OUTSIDE_WORLD, send_forms)
    assert isinstance(governed, dict)
    assert set(governed.values()) == {REFUSED}
    assert observed == outside == dict.fromkeys(governed, DONE)


def test_sendmmsg_stops_at_the_first_refused(probes: Probes) -> None:
    allowed, denied = sockaddr("10.1.0.1", 53), sockaddr("10.2.0.1", 53)

    def act() -> list[tuple[int, int]]:
        enter_network()
        with socket.socket(V4, DGRAM) as sock:
            return [raw_sendmmsg(sock, [allowed, denied, allowed]), raw_sendmmsg(sock, [denied])]

    governed, observed, outside = three_ways(probes, OUTSIDE_WORLD, act)
    assert governed == [(1, DONE), (0, REFUSED)]
    assert observed == outside == [(3, DONE), (1, DONE)]


def test_connecting_anew_is_judged_anew(probes: Probes) -> None:
    def act() -> list[int]:
        enter_network()
        with socket.socket(V4, DGRAM) as sock:
            answers = [raw_connect(sock, sockaddr("10.1.0.1", 53))]
            answers.append(raw_connect(sock, sockaddr("0.0.0.0", 0, family=socket.AF_UNSPEC)))
            answers.append(raw_connect(sock, sockaddr("10.2.0.1", 53)))
            return answers

    governed, observed, outside = three_ways(probes, OUTSIDE_WORLD, act)
    assert governed == [DONE, DONE, REFUSED]
    assert observed == outside == [DONE, DONE, DONE]


@pytest.mark.parametrize(
    ("family", "kind", "address", "port", "allowed"),
    [
        pytest.param(V4, STREAM, "10.1.0.1", 7000, True, id="listed"),
        pytest.param(V4, DGRAM, "10.1.0.1", 7000, True, id="udp"),
        pytest.param(V4, STREAM, "10.1.0.1", 7003, False, id="other port"),
        pytest.param(V4, STREAM, "10.1.0.1", 0, False, id="the kernel's choice"),
        pytest.param(V4, STREAM, "10.1.0.1", 443, False, id="listed for connect only"),
        pytest.param(V4, STREAM, "0.0.0.0", 7002, True, id="any address"),
        pytest.param(V4, STREAM, "0.0.0.0", 7001, False, id="any address of the other family"),
        pytest.param(V6, STREAM, "::", 7001, True, id="ipv6 any address"),
        pytest.param(V6, STREAM, "::", 7002, False, id="ipv6 any, listed for ipv4"),
        pytest.param(V6, STREAM, "fd00:1::1", 7000, False, id="ipv6 unlisted"),
        pytest.param(V6, STREAM, "::ffff:10.1.0.1", 7000, True, id="mapped"),
        pytest.param(V6, STREAM, "::ffff:10.1.0.1", 7003, False, id="mapped other port"),
        pytest.param(V6, DGRAM, "::ffff:10.1.0.1", 7003, False, id="mapped udp other port"),
    ],
)
def test_bind(
    probes: Probes, family: int, kind: int, address: str, port: int, allowed: bool
) -> None:
    def act() -> int:
        enter_network()
        with socket.socket(family, kind) as sock:
            return raw_bind(sock, sockaddr(address, port))

    governed, observed, outside = three_ways(probes, OUTSIDE_WORLD, act)
    assert governed == (DONE if allowed else REFUSED)
    assert observed == outside == DONE


def test_bind_with_no_family_is_judged(probes: Probes) -> None:
    def act() -> list[int]:
        enter_network()
        with socket.socket(V4, STREAM) as first, socket.socket(V4, STREAM) as second:
            any_address = (sockaddr("0.0.0.0", port, socket.AF_UNSPEC) for port in (7002, 7009))
            return [raw_bind(*pair) for pair in zip((first, second), any_address, strict=True)]

    governed, observed, outside = three_ways(probes, OUTSIDE_WORLD, act)
    assert governed == [DONE, REFUSED]
    assert observed == outside == [DONE, DONE]


@pytest.mark.parametrize("address", ["10.2.0.1", "fd00:2::1", "::ffff:10.2.0.1"])
@pytest.mark.parametrize("option", [False, True], ids=["MSG_FASTOPEN", "TCP_FASTOPEN_CONNECT"])
def test_fast_open_is_a_connect(probes: Probes, address: str, option: bool) -> None:
    family = V6 if ":" in address else V4

    def act() -> tuple[int, bytes]:
        enter_network()
        # A client may ask for it in every network; a server only where this says so.
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1")
        with socket.socket(V6, STREAM) as listener, socket.socket(family, STREAM) as sock:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            # The listener must stand in a session as well; a rule lets it.
            assert raw_bind(listener, sockaddr("::", 7001)) == DONE
            listener.listen()
            listener.settimeout(0.2)
            to = sockaddr(address, 7001)
            if option:
                sock.setsockopt(TCP, TCP_FASTOPEN_CONNECT, 1)
                answer = raw_connect(sock, to) or attempt(lambda: sock.send(b"data"))
            else:
                answer = raw_sendto(sock, to, b"data", MSG_FASTOPEN)
            try:
                with listener.accept()[0] as peer:
                    return answer, peer.recv(10)
            except TimeoutError:
                return answer, b""

    governed, observed, outside = three_ways(probes, OUTSIDE_WORLD, act)
    assert governed == (REFUSED, b"")
    assert observed == outside == (DONE, b"data")


# -- which way -----------------------------------------------------------------------------------

# A source route to 10.1.0.1 and fd00:1::1 by way of another address (RFC 791, RFC 8754).
IPV6_RTHDR = 57  # uapi/linux/in6.h
ROUTE4 = bytes([131, 7, 4]) + socket.inet_pton(V4, "10.2.0.66") + bytes(1)
ROUTE6 = bytes([0, 4, 4, 1, 1, 0, 0, 0]) + b"".join(
    socket.inet_pton(V6, each) for each in ("fd00:1::1", "fd00:2::66")
)
ETH_P_ALL, PACKET_OUTGOING = 3, 4  # uapi/linux/if_ether.h, if_packet.h


def sent_to(packets: socket.socket) -> set[str]:
    """Where datagrams that say b"secret" left for, by their own header."""
    found = set()
    try:
        while True:
            data, source = packets.recvfrom(2000)
            if source[2] == PACKET_OUTGOING and data.endswith(b"secret") and len(data) < 100:
                six = data[0] >> 4 == 6
                address = data[24:40] if six else data[16:20]
                found.add(socket.inet_ntop(V6 if six else V4, address))
    except TimeoutError:
        return found


@pytest.mark.parametrize(
    ("family", "address", "option", "value", "detour"),
    [
        pytest.param(V4, "10.1.0.1", (0, socket.IP_OPTIONS), ROUTE4, "10.2.0.66", id="ipv4"),
        pytest.param(V6, "fd00:1::1", (41, IPV6_RTHDR), ROUTE6, "fd00:2::66", id="ipv6"),
    ],
)
@pytest.mark.once
def test_no_packet_leaves_by_a_route_of_its_own(
    probes: Probes, family: int, address: str, option: tuple[int, int], value: bytes, detour: str
) -> None:
    """The program for sendto sees the address that is listed; the packet would go to another."""

    def act() -> tuple[set[str], set[str]]:
        enter_network()
        packets = socket.socket(socket.AF_PACKET, DGRAM, socket.htons(ETH_P_ALL))
        with packets, socket.socket(family, DGRAM) as sock:
            packets.bind(("lo", 0))
            packets.settimeout(0.1)
            sock.sendto(b"secret", (address, 53))
            straight = sent_to(packets)
            sock.setsockopt(*option, value)
            attempt(lambda: sock.sendto(b"secret", (address, 53)))
            return straight, sent_to(packets)

    with probes.running(OUTSIDE_WORLD) as session:
        assert inside(session, act) == ({address}, set())
        denied = [event for event in net_events(probes, session) if event.cause.value]
    assert [(event.cause, event.address) for event in denied] == [(DenyCause.ROUTED, detour)]
    assert inside(None, act) == ({address}, {detour})


# -- who comes in ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def free() -> list[int]:
    """Ports of this host that nobody has."""
    found = []
    for _ in range(4):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            found.append(sock.getsockname()[1])
    return found


def comes_in(session: Governed | None, family: int, bind: tuple[str, int] | None, to: str) -> bool:
    """Whether a peer outside gets through to a listener of the session."""
    ready, tell = os.pipe()

    def act() -> bool:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if bind is not None:
                assert raw_bind(listener, sockaddr(*bind)) == DONE
            listener.listen()
            listener.settimeout(0.4)
            os.write(tell, str(listener.getsockname()[1]).encode())
            try:
                listener.accept()[0].close()
            except TimeoutError:
                return False
            return True

    listening = Inside(session, act)
    os.close(tell)
    said = os.read(ready, 10)
    port = int(said or listening.result())
    with socket.socket(V6 if ":" in to else V4) as peer:
        peer.settimeout(0.3)
        reached = attempt(lambda: peer.connect((to, port))) == DONE
    os.close(ready)
    assert listening.result() is reached
    return bool(reached)


@pytest.mark.parametrize(
    ("family", "bind", "to", "allowed"),
    [
        pytest.param(V4, ("127.0.0.1", 0), "127.0.0.1", True, id="bound"),
        pytest.param(V4, ("0.0.0.0", 1), "127.0.0.1", True, id="bound to any"),
        pytest.param(V6, ("::", 2), "127.0.0.1", True, id="bound to any, by IPv4"),
        pytest.param(V6, ("::", 2), "::1", True, id="bound to any, by IPv6"),
        pytest.param(V6, ("::1", None), "::1", True, id="a port of the kernel's choosing"),
        pytest.param(V4, None, "127.0.0.1", False, id="not bound"),
        pytest.param(V4, None, "127.0.0.2", False, id="not bound, another address"),
        pytest.param(V6, None, "::1", False, id="not bound, IPv6"),
        pytest.param(V6, None, "127.0.0.1", False, id="not bound, IPv6 by IPv4"),
    ],
)
def test_nobody_comes_in_where_the_session_may_not_bind(
    probes: Probes,
    free: list[int],
    family: int,
    bind: tuple[str, int | None] | None,
    to: str,
    allowed: bool,
) -> None:
    """listen(2) without bind(2) runs no program; the answer to a peer does."""
    rules = policy(
        bind=[
            ("::ffff:127.0.0.1/128", [ports(free[0])]),
            ("::ffff:0.0.0.0/128", [ports(free[1])]),
            ("::/128", [ports(free[2])]),
            ("::1/128", [ports(0)]),
        ]
    )
    where = None
    if bind is not None:
        where = (bind[0], 0 if bind[1] is None else free[bind[1]])
    with probes.running(rules) as session:
        assert comes_in(session, family, where, to) is allowed
        denied = [event for event in net_events(probes, session) if event.cause.value]
        assert {(event.operation, event.cause, event.pid) for event in denied} == (
            set() if allowed else {(NetOperation.BIND, DenyCause.UNLISTED, 0)}
        )
    with probes.running(rules, flags=SessionFlag.OBSERVE) as session:
        assert comes_in(session, family, where, to)
        observed = [event for event in net_events(probes, session) if event.observed]
        assert bool(observed) is not allowed
    assert comes_in(None, family, where, to)


@pytest.mark.parametrize("narrow", [0, 1])
def test_every_link_must_let_in(probes: Probes, narrow: int) -> None:
    """Where nobody bound, one link that lists the port 0 is enough for itself only."""
    chosen = policy(bind=[("::ffff:0.0.0.0/128", [ports(0)])])
    everywhere = policy(bind=[("::/0", EVERYTHING)])
    with probes.running(chosen, everywhere) as session:
        assert comes_in(session, V4, None, "127.0.0.1")
    links = [chosen, everywhere]
    links[narrow] = policy(bind=[("::ffff:127.0.0.1/128", EVERYTHING)])
    with probes.running(*links) as session:
        assert not comes_in(session, V4, None, "127.0.0.1")
        denied = {event.policy for event in net_events(probes, session) if event.cause.value}
        assert denied == {session.policy_ids[narrow]}


# -- which sockets --------------------------------------------------------------------------------


def prepare_sockets() -> None:
    enter_network()
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "allowed"),
    [
        pytest.param(V4, STREAM, 0, True, id="tcp by default"),
        pytest.param(V4, STREAM, TCP, True, id="tcp"),
        pytest.param(V6, STREAM, TCP, True, id="tcp6"),
        pytest.param(V4, DGRAM, 0, True, id="udp by default"),
        pytest.param(V6, DGRAM, UDP, True, id="udp6"),
        pytest.param(V4, DGRAM, IPPROTO_UDPLITE, False, id="udp-lite"),
        pytest.param(V6, DGRAM, IPPROTO_UDPLITE, False, id="udp-lite6"),
        pytest.param(V4, STREAM, IPPROTO_MPTCP, False, id="mptcp"),
        pytest.param(V6, STREAM, IPPROTO_MPTCP, False, id="mptcp6"),
        pytest.param(V4, STREAM, IPPROTO_SCTP, False, id="sctp stream"),
        pytest.param(V4, socket.SOCK_SEQPACKET, IPPROTO_SCTP, False, id="sctp"),
        pytest.param(V4, DGRAM, socket.IPPROTO_ICMP, False, id="icmp"),
        pytest.param(V6, DGRAM, socket.IPPROTO_ICMPV6, False, id="icmp6"),
        pytest.param(V4, socket.SOCK_RAW, socket.IPPROTO_ICMP, False, id="raw icmp"),
        pytest.param(V4, socket.SOCK_RAW, socket.IPPROTO_RAW, False, id="raw"),
        pytest.param(V6, socket.SOCK_RAW, TCP, False, id="raw6"),
    ],
)
def test_socket(probes: Probes, family: int, kind: int, protocol: int, allowed: bool) -> None:
    def act() -> int:
        prepare_sockets()
        return attempt(lambda: socket.socket(family, kind, protocol).close())

    governed, observed, outside = three_ways(probes, policy(), act)
    if outside in {errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT}:
        # This kernel has no such protocol, and says so before the program is asked.
        assert governed == outside
        return
    assert observed == outside == DONE
    assert governed == (DONE if allowed else REFUSED)


@pytest.mark.parametrize(
    ("rule", "allowed"),
    [
        pytest.param(SocketRule(V4, DGRAM, IPPROTO_UDPLITE), True, id="named"),
        pytest.param(SocketRule(V4, DGRAM, -1), True, id="any protocol"),
        pytest.param(SocketRule(V4, STREAM, -1), False, id="any protocol of another type"),
        pytest.param(SocketRule(V6, DGRAM, -1), False, id="any protocol of another family"),
        pytest.param(SocketRule(V4, DGRAM, 0), False, id="the default protocol only"),
    ],
)
def test_socket_rules_are_exact(probes: Probes, rule: SocketRule, allowed: bool) -> None:
    with probes.running(policy(sockets=[rule])) as session:
        answer = inside(
            session, lambda: attempt(lambda: socket.socket(V4, DGRAM, IPPROTO_UDPLITE).close())
        )
    assert answer == (DONE if allowed else REFUSED)


def make_each() -> list[int]:
    return [make(rule) for rule in INTERNET]


def make(rule: SocketRule) -> int:
    return attempt(lambda: socket.socket(rule.family, rule.type, rule.protocol).close())


def test_no_rules_refuse_every_socket(probes: Probes) -> None:
    governed, observed, outside = three_ways(probes, policy(sockets=()), make_each)
    assert governed == [REFUSED] * len(INTERNET)
    assert observed == outside == [DONE] * len(INTERNET)


# -- several links --------------------------------------------------------------------------------

ANYWHERE = (("::/0", EVERYTHING),)


@pytest.mark.parametrize("narrow", range(8))
def test_each_of_eight_links_narrows_alone(probes: Probes, narrow: int) -> None:
    wide = policy(connect=ANYWHERE, bind=ANYWHERE, unix=["/run/one", "/run/two"])
    thin = policy(
        connect=[("::ffff:127.0.0.1/128", [ports(9), ports(10, allow=False, rule=5)])],
        sockets=[rule for rule in INTERNET if rule.family == V4],
        unix=["/run/one"],
    )
    chain = [wide] * 8
    chain[narrow] = thin

    def act() -> list[int]:
        with socket.socket(V4, STREAM) as sock, socket.socket(socket.AF_UNIX) as unix:
            return [
                raw_connect(sock, sockaddr("127.0.0.1", 9)),
                raw_connect(sock, sockaddr("127.0.0.1", 10)),
                raw_bind(sock, sockaddr("127.0.0.1", 0)),
                attempt(lambda: socket.socket(V6, STREAM).close()),
                attempt(lambda: unix.connect("/run/one")),
                attempt(lambda: unix.connect("/run/two")),
            ]

    missing = errno.ENOENT
    with probes.running(*chain) as session:
        answers = inside(session, act)
        denied = [event for event in net_events(probes, session) if event.cause.value]
    assert answers == [CLOSED, REFUSED, REFUSED, REFUSED, missing, REFUSED]
    assert {event.policy for event in denied} == {session.policy_ids[narrow]}
    assert [(event.operation, event.cause, event.rule) for event in denied] == [
        (NetOperation.CONNECT, DenyCause.RULE, 5),
        (NetOperation.BIND, DenyCause.UNLISTED, -1),
        (NetOperation.SOCKET, DenyCause.UNLISTED, -1),
        (NetOperation.UNIX, DenyCause.UNLISTED, -1),
    ]
    with probes.running(*[wide] * 8) as session:
        assert inside(session, act) == [CLOSED, CLOSED, DONE, DONE, missing, missing]


def test_refusals_are_recorded_with_what_was_asked(probes: Probes) -> None:
    rules = policy(
        connect=[("::ffff:10.0.0.0/104", [ports(443, rule=3), ports(25, allow=False, rule=4)])]
    )

    def act() -> int:
        enter_network()
        for port in (443, 25, 26):
            with socket.socket(V6, STREAM) as sock:
                raw_connect(sock, sockaddr("::ffff:10.9.8.7", port))
        return 0

    with probes.running(rules) as session:
        inside(session, act)
        events = net_events(probes, session)
    assert [(e.operation, e.address, e.port, e.cause, e.rule, e.family, e.type, e.protocol)
            for e in events] == [
        (NetOperation.CONNECT, "10.9.8.7", 443, DenyCause.NONE, 3, V6, STREAM, TCP),
        (NetOperation.CONNECT, "10.9.8.7", 25, DenyCause.RULE, 4, V6, STREAM, TCP),
        (NetOperation.CONNECT, "10.9.8.7", 26, DenyCause.UNLISTED, -1, V6, STREAM, TCP),
    ]  # fmt: skip


def test_policies_do_not_see_each_others_rows(probes: Probes) -> None:
    """The policy's number is part of every key: neighbours in the tables decide nothing here."""
    action = connects(V4, STREAM, sockaddr("10.3.0.1", 443))
    with (
        probes.running(policy(connect=[("::ffff:10.3.0.1/128", EVERYTHING)])) as one,
        probes.running(policy(connect=[("::ffff:10.4.0.1/128", EVERYTHING)])) as other,
    ):
        assert inside(one, action) == CLOSED
        assert inside(other, action) == REFUSED

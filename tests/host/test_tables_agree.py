# SPDX-License-Identifier: Apache-2.0
"""Random policies, written into the kernel, answer as the reference decide() does."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.policy.action import NetAction, SocketAction, UnixAction, Verb, Verdict
from monitor.policy.decide import decide
from monitor.policy.plan import (
    EnvironmentPlan,
    Limits,
    NetPrefix,
    Plan,
    Policy,
    PortRange,
    SocketRule,
    SyscallPlan,
    UnixRule,
)
from tests.support.probes import (
    INTERNET,
    TCP,
    UDP,
    Probes,
    attempt,
    enter_network,
    inside,
    policy,
    raw_bind,
    raw_connect,
    raw_sendto,
    sockaddr,
    sockaddr_un,
)

REFUSED = errno.EPERM
STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
KINDS = {TCP: STREAM, UDP: DGRAM}

# Few values, close to each other, so that rules and actions meet; all local, so that nothing waits.
ADDRESSES = st.sampled_from(
    [f"{net}.{third}.{last}" for net in ("127.0", "127.1", "10.0") for third in (0, 1, 128)
     for last in (1, 2, 254)] + ["::1", "fd00::1", "fd00::2", "fd00:0:0:1::1", "fd80::1"]
)  # fmt: skip
PORTS = st.sampled_from([1, 2, 3, 4, 7, 8, 9, 255, 256, 257, 32767, 32768, 65534, 65535])
FAMILIES = st.sampled_from([socket.AF_INET, socket.AF_INET6])
PROTOCOLS = st.sampled_from([TCP, UDP])
NAMES = st.sampled_from(["/run/a", "/run/ab", "/run/a/b", "@a", "@ab", "@run/a"])
# As they are compiled: what asks for a protocol as 0 is listed next to what names it.
USUAL = tuple((SocketRule(each.family, each.type, 0), each) for each in INTERNET)
SOCKETS = st.sampled_from(
    [
        *USUAL,
        (SocketRule(socket.AF_INET, DGRAM, 136),),
        (SocketRule(socket.AF_INET6, DGRAM, -1),),
    ]
)


EDGES = st.lists(PORTS, min_size=4, max_size=8, unique=True)
# More that allows than that denies, or several links together would refuse nearly everything.
VERDICTS = st.sampled_from([*[Verdict.ALLOW] * 3, Verdict.DENY])


@st.composite
def networks(draw: st.DrawFn) -> str:
    address = ipaddress.ip_address(draw(ADDRESSES))
    if address.version == 4:
        bits = draw(st.sampled_from([0, 0, 1, 8, 8, 9, 16, 17, 24, 31, 32]))
        inner = ipaddress.ip_network((address, bits), strict=False)
        return f"::ffff:{inner.network_address}/{96 + bits}"
    bits = draw(st.sampled_from([0, 0, 8, 9, 48, 64, 127, 128]))
    return str(ipaddress.IPv6Network((address, bits), strict=False))


@st.composite
def ranges(draw: st.DrawFn) -> tuple[PortRange, ...]:
    """Disjoint and sorted, as NetPrefix promises."""
    found = []
    for protocol in (TCP, UDP):
        edges = sorted(draw(st.one_of(st.just([0, 65535]), EDGES)))
        for first, last in zip(edges[::2], edges[1::2], strict=False):
            rule = draw(st.integers(0, 63))
            found.append(PortRange(protocol, first, last, draw(VERDICTS), rule))
    return tuple(found)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    def table() -> tuple[NetPrefix, ...]:
        chosen = draw(st.lists(networks(), max_size=8, unique=True))
        return tuple(NetPrefix(network, draw(ranges())) for network in chosen)

    some = st.lists(SOCKETS, max_size=5, unique=True)
    groups = draw(st.one_of(st.just(USUAL), st.just(USUAL), some))
    made = policy(sockets=[rule for group in groups for rule in group])
    names = draw(st.lists(NAMES, max_size=6, unique=True))
    return Policy(
        made.profile, made.digest, (), (), table(), table(),
        tuple(UnixRule(name, number) for number, name in enumerate(names)),
        made.sockets, made.rules,
    )  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """An action, and whether an IPv4 address is given to an IPv6 socket."""

    action: NetAction | SocketAction | UnixAction
    mapped: bool = False


@st.composite
def net_attempts(draw: st.DrawFn) -> Attempt:
    verb = draw(st.sampled_from([Verb.NET_CONNECT, Verb.NET_SEND, Verb.NET_BIND]))
    protocol = UDP if verb is Verb.NET_SEND else draw(PROTOCOLS)
    address = ipaddress.ip_address(draw(ADDRESSES))
    return Attempt(NetAction(verb, address, draw(PORTS), protocol), draw(st.booleans()))


ATTEMPTS = st.lists(
    st.one_of(
        net_attempts(),
        net_attempts(),
        net_attempts(),
        st.builds(Attempt, st.builds(UnixAction, NAMES)),
        st.builds(
            Attempt, st.builds(SocketAction, FAMILIES, st.just(STREAM), st.sampled_from([0, TCP]))
        ),
        st.builds(
            Attempt,
            st.builds(SocketAction, FAMILIES, st.just(DGRAM), st.sampled_from([0, UDP, 136])),
        ),
    ),
    min_size=20,
    max_size=40,
)


def plan_of(links: list[Policy]) -> Plan:
    return Plan(
        policies=tuple(links),
        syscalls=SyscallPlan((), first_unknown=1 << 16),
        view=None,
        environment=EnvironmentPlan((), ()),
        limits=Limits(),
        workspace="/",
        home="/",
    )


def socket_of(attempt: Attempt) -> SocketAction | None:
    """The socket that an action on the network is taken with."""
    action = attempt.action
    if not isinstance(action, NetAction):
        return None
    six = attempt.mapped or action.address.version == 6
    family = socket.AF_INET6 if six else socket.AF_INET
    return SocketAction(family, KINDS[action.protocol], action.protocol)


def take(attempts: list[Attempt]) -> list[bool]:
    """Whether each was refused, in a process that is governed."""
    enter_network()
    return [_take(each) == REFUSED for each in attempts]


def _take(given: Attempt) -> int:
    action = given.action
    if isinstance(action, SocketAction):
        return attempt(lambda: socket.socket(action.family, action.type, action.protocol).close())
    if isinstance(action, UnixAction):
        with socket.socket(socket.AF_UNIX) as sock:
            name = os.fsencode(action.path)
            return raw_connect(sock, sockaddr_un(name.replace(b"@", b"\0", 1)))
    made = socket_of(given)
    assert made is not None
    text = str(action.address)
    if given.mapped and action.address.version == 4:
        text = f"::ffff:{text}"
    calls = {Verb.NET_CONNECT: raw_connect, Verb.NET_SEND: raw_sendto, Verb.NET_BIND: raw_bind}
    try:
        sock = socket.socket(made.family, made.type, made.protocol)
    except PermissionError:
        return REFUSED
    with sock:
        return calls[action.verb](sock, sockaddr(text, action.port))


@pytest.mark.once
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(links=st.lists(policies(), min_size=1, max_size=3), attempts=ATTEMPTS)
def test_the_kernel_answers_as_the_reference_does(
    probes: Probes, links: list[Policy], attempts: list[Attempt]
) -> None:
    plan = plan_of(links)

    def refuses(action: NetAction | SocketAction | UnixAction | None) -> bool:
        return action is not None and decide(plan, action).verdict is not Verdict.ALLOW

    expected = [refuses(socket_of(each)) or refuses(each.action) for each in attempts]
    with probes.running(*links) as session:
        found = inside(session, lambda: take(attempts))
    wrong = [
        (each, "refused" if kernel else "let out")
        for each, reference, kernel in zip(attempts, expected, found, strict=True)
        if kernel is not reference
    ]
    assert not wrong

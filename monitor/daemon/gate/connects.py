# SPDX-License-Identifier: Apache-2.0
"""connect(2) to destinations that a rule asks about: held here, decided on in the kernel.

The address that is read here may be another one when the call goes on; then the cgroup programs
find no approval for it, and refuse. So this only raises the ask and waits. Unix sockets are those
of `unix_connects`.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from functools import partial

from monitor.audit import objects
from monitor.daemon.gate import unix_connects
from monitor.daemon.gate.calls import Call, Calls
from monitor.daemon.gate.desk import Question
from monitor.daemon.gate.facts import Facts
from monitor.kernel.pidfd import copy_descriptor
from monitor.policy.action import IPAddress, Verb, Verdict
from monitor.policy.decide_network import port_range
from monitor.policy.plan import Policy, PortRange

# linux/in.h, linux/in6.h: sockaddr_in without its padding, sockaddr_in6 without the scope.
SIZES = {socket.AF_INET: 8, socket.AF_INET6: 24}
PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)


def handle(calls: Calls, call: Call) -> None:
    """Hold a connection that some link asks about, and let every other go on."""
    facts = call.known.facts
    if _family(call) == socket.AF_UNIX:
        every = _policies(facts, calls.office.earned(facts))
        unix_connects.handle(calls, call, [policy for _link, _number, policy in every])
        return
    found = _destination(call)
    if found is None or calls.office.shut(facts):
        calls.go_on(call)  # the kernel's own answer
        return
    address, port = found
    policies = list(_policies(facts, calls.office.earned(facts)))
    if not any(
        (ports := port_range(policy.connect, address, port, protocol)) is not None
        and ports.verdict is Verdict.ASK
        for _link, _number, policy in policies
        for protocol in PROTOCOLS
    ):
        calls.go_on(call)
        return
    protocol = _protocol(call)
    asking: list[tuple[int, int, Policy, PortRange]] = []
    for link, number, policy in policies:
        ports = port_range(policy.connect, address, port, protocol)
        if ports is None or ports.verdict is Verdict.DENY:
            calls.go_on(call)  # no answer would help
            return
        if ports.verdict is Verdict.ASK:
            asking.append((link, number, policy, ports))
    if not asking:
        calls.go_on(call)
    elif calls.is_waiting(call):
        _ask(calls, call, address, port, protocol, asking)
    else:
        calls.drop(call)


def _ask(
    calls: Calls,
    call: Call,
    address: IPAddress,
    port: int,
    protocol: int,
    asking: list[tuple[int, int, Policy, PortRange]],
) -> None:
    shown = objects.endpoint(str(address), port, protocol)
    folder, exe = call.task.folder, call.task.program
    questions = []
    for link, _number, policy, ports in asking:
        rule = policy.rules[ports.rule]
        text = str(rule)
        questions.append(
            Question(
                link, Verb.NET_CONNECT, shown, (), folder, text, rule.why, call.task.group, exe,
                f"{shown} {text}",
            )
        )  # fmt: skip
    details = {
        "cgroup": call.known.facts.cgroup_id,
        "address": str(address),
        "port": port,
        "protocol": protocol,
        "numbers": [number for _link, number, _policy, _ports in asking],
    }
    calls.hold(call, questions, partial(_answered, calls, call), lambda: None, details)


def _answered(calls: Calls, call: Call, allow: bool, _reason: str) -> None:
    """The worker has written the approval before it answered."""
    if allow:
        calls.go_on(call)
    else:
        calls.refuse(call, errno.EPERM)


def _family(call: Call) -> int:
    """The address family that the call names; AF_UNSPEC where it cannot be read."""
    try:
        return int.from_bytes(call.task.bytes_at(call.notification.arguments[1], 2), "little")
    except OSError:
        return socket.AF_UNSPEC


def _destination(call: Call) -> tuple[IPAddress, int] | None:
    """Where to; None: not to an internet address, or to none at all."""
    _descriptor, at, size, *_rest = call.notification.arguments
    size &= 0xFFFFFFFF
    try:
        family = int.from_bytes(call.task.bytes_at(at, 2), "little")
        needed = SIZES.get(socket.AddressFamily(family), 0)
        if not needed or size < needed:
            return None
        data = call.task.bytes_at(at, needed)
    except (OSError, ValueError):
        return None
    port = int.from_bytes(data[2:4], "big")
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(data[4:8]), port
    address = ipaddress.IPv6Address(data[8:24])
    return address.ipv4_mapped or address, port


def _protocol(call: Call) -> int:
    """The protocol of the socket. OSError."""
    number = call.notification.arguments[0] & 0xFFFFFFFF
    copy = copy_descriptor(call.task.thread, call.task.group, number)
    with socket.socket(fileno=copy) as taken:
        return taken.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)


def _policies(facts: Facts, earned: frozenset[int]) -> Iterator[tuple[int, int, Policy]]:
    """(link, the kernel's id, policy) of each that must allow; labels that count bring some."""
    yield from zip(range(len(facts.policies)), facts.numbers, facts.policies, strict=False)
    index = 0
    for link, policy in enumerate(facts.policies):
        for label in policy.labels:
            if index in earned and label.policy is not None:
                yield link, facts.labels[index], label.policy
            index += 1

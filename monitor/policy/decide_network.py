# SPDX-License-Identifier: Apache-2.0
"""Decisions on destinations, own addresses and unix names, as the cgroup programs take them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from functools import cache

from monitor.policy import verdicts
from monitor.policy.action import (
    Decision,
    IPAddress,
    Mechanism,
    NetAction,
    UnixAction,
    Verb,
    Verdict,
)
from monitor.policy.compile_network import is_reserved
from monitor.policy.floor import AF_UNIX, BUILT_IN
from monitor.policy.plan import NetPrefix, Plan, Policy, PortRange
from monitor.profile.network import PROTOCOLS

PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
TCP = PROTOCOLS["tcp"]


def decide(plan: Plan, action: NetAction, earned: frozenset[int] = frozenset()) -> Decision:
    """The longest prefix of each policy's table decides, by port; no row denies.

    Labels in `earned` (indices into all labels of all policies) bring a policy each.
    """
    decision: Decision | None = None
    asked: Decision | None = None
    for link, policy in _policies(plan, earned):
        table = policy.bind if action.verb is Verb.NET_BIND else policy.connect
        found = port_range(table, action.address, action.port, action.protocol)
        if found is None:
            return verdicts.unlisted(
                Mechanism.CGROUP_BPF, link, policy, _described(action), _remedy(action)
            )
        rule = policy.rules[found.rule]
        if found.verdict is Verdict.DENY:
            remedy = "" if rule.source == BUILT_IN else verdicts.remove(rule)
            return verdicts.refused(
                Mechanism.CGROUP_BPF, rule, _described(action), link=link, remedy=remedy
            )
        if found.verdict is Verdict.ASK:
            asked = asked or verdicts.asked(
                Mechanism.CGROUP_BPF, rule, _described(action), link=link
            )
        decision = verdicts.allowed(rule, link)
    assert decision is not None, "a plan has a policy"
    return asked or decision


def _policies(plan: Plan, earned: frozenset[int]) -> Iterator[tuple[int, Policy]]:
    """Every policy that must allow, with its link: those of the links, then those of labels."""
    yield from enumerate(plan.policies)
    index = 0
    for link, policy in enumerate(plan.policies):
        for label in policy.labels:
            if index in earned and label.policy is not None:
                yield link, label.policy
            index += 1


def decide_unix(plan: Plan, action: UnixAction) -> Decision:
    """Exact names, as the program passes them to the kernel."""
    decision = None
    for link, policy in enumerate(plan.policies):
        number = next((each.rule for each in policy.unix if each.path == action.path), None)
        if number is None:
            what = f"the unix socket {verdicts.shown(action.path)}"
            remedy = verdicts.add("network.unix", action.path)
            return verdicts.unlisted(_unix_mechanism(policy), link, policy, what, remedy)
        decision = verdicts.allowed(policy.rules[number], link)
    assert decision is not None, "a plan has a policy"
    return decision


def port_range(
    table: Sequence[NetPrefix], address: IPAddress, port: int, protocol: int
) -> PortRange | None:
    """What the tables say of a destination; None where they have no row for it."""
    longest: tuple[int, NetPrefix] | None = None
    key = int(_mapped(address))
    for prefix in table:
        network, mask, bits = _numbers(prefix.network)
        if key & mask == network and (longest is None or bits > longest[0]):
            longest = bits, prefix
    if longest is None:
        return None
    for each in longest[1].ports:
        if each.protocol == protocol and each.first <= port <= each.last:
            return each
    return None


@cache
def _numbers(text: str) -> tuple[int, int, int]:
    network = ipaddress.IPv6Network(text)
    return int(network.network_address), int(network.netmask), network.prefixlen


def _mapped(address: IPAddress) -> ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv6Address(f"::ffff:{address}")
    return address


def _unix_mechanism(policy: Policy) -> Mechanism:
    listed = any(each.family == AF_UNIX for each in policy.sockets)
    return Mechanism.CGROUP_BPF if listed else Mechanism.SECCOMP


def _destination(action: NetAction) -> str:
    """The destination as a rule writes it."""
    address = action.address
    if isinstance(address, ipaddress.IPv6Address):
        # A zone names an interface of this host; rules know none.
        return f"[{ipaddress.IPv6Address(address.packed)}]:{action.port}"
    return f"{address}:{action.port}"


def _described(action: NetAction) -> str:
    verb = {Verb.NET_BIND: "binding", Verb.NET_SEND: "sending to"}.get(action.verb, "connecting to")
    name = PROTOCOL_NAMES.get(action.protocol, f"protocol {action.protocol}")
    return f"{verb} {_destination(action)} ({name})"


def _remedy(action: NetAction) -> str:
    name = PROTOCOL_NAMES.get(action.protocol)
    binds = action.verb is Verb.NET_BIND
    if name is None or (not binds and is_reserved(action.address)):
        return ""
    section = "network.bind" if binds else "network.connect"
    suffix = "" if action.protocol == TCP else f"/{name}"
    return verdicts.add(section, _destination(action) + suffix)

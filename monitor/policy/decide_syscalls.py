# SPDX-License-Identifier: Apache-2.0
"""Decisions of the seccomp filter, and on the making of sockets."""

from __future__ import annotations

from dataclasses import replace

from monitor.policy import floor, verdicts
from monitor.policy.action import Decision, Mechanism, SocketAction, SyscallAction, Verdict
from monitor.policy.compile_network import AF_INET, AF_INET6, SOCK_STREAM, TCP, UDP
from monitor.policy.floor import ANY_PROTOCOL, SOCK_DGRAM
from monitor.policy.floor_rules import STANDARD
from monitor.policy.floor_terms import SYSV_IPC
from monitor.policy.plan import Plan, Policy, SyscallRule
from monitor.policy.syscalls import NUMBERS

_SYSV_IPC_NUMBERS = frozenset(
    rule.number for each in STANDARD if each.group == SYSV_IPC for rule in each.rules()
)


def decide(plan: Plan, action: SyscallAction) -> Decision:
    """What the filter answers; the floor holds under --observe too."""
    rule = floor.matching_rule(plan.syscalls, action.number, action.arguments)
    if rule is None:
        return verdicts.allowed(reason=f"the floor lets {floor.name_of(action.number)} pass")
    return _refused(rule, _remedy(rule, action))


def decide_socket(plan: Plan, action: SocketAction) -> Decision:
    """Every policy must list the socket, and the filter must let it be made."""
    arguments = (action.family, action.type, action.protocol)
    rule = floor.matching_rule(plan.syscalls, NUMBERS["socket"], arguments)
    for link, policy in enumerate(plan.policies):
        if _lists(policy, action):
            continue
        what = f"a socket of family {action.family}, type {action.type}"
        what += f", protocol {action.protocol}" if action.protocol else ""
        remedy = _socket_remedy(*arguments)
        decision = verdicts.unlisted(Mechanism.SECCOMP, link, policy, what, remedy)
        if plan.observe and rule is None:
            # Only the cgroup program sees it, which reports and lets it pass.
            return replace(decision, verdict=Verdict.WOULD_DENY, mechanism=Mechanism.CGROUP_BPF)
        return decision
    if rule is not None:
        return _refused(rule, _remedy(rule, SyscallAction(rule.number, arguments)))
    return verdicts.allowed(reason="the network rules need such sockets")


def _lists(policy: Policy, action: SocketAction) -> bool:
    return any(
        (each.family, each.type) == (action.family, action.type)
        and each.protocol in {ANY_PROTOCOL, action.protocol}
        for each in policy.sockets
    )


def _refused(rule: SyscallRule, remedy: str) -> Decision:
    reason = f"{rule.name} is refused: {rule.why}"
    origin = floor.origin(rule)
    return Decision(Verdict.DENY, reason, Mechanism.SECCOMP, None, origin, remedy)


def _remedy(rule: SyscallRule, action: SyscallAction) -> str:
    """Only what a profile may open by itself; nothing lifts the floor."""
    if rule.origin is not None:
        return verdicts.remove(rule.origin)
    if rule.number in _SYSV_IPC_NUMBERS:
        return verdicts.add("syscalls.allow", SYSV_IPC)
    if rule.number == NUMBERS["listen"]:
        return verdicts.add("network.bind", "ADDRESS:PORT")
    if rule.number == NUMBERS["socket"]:
        family, kind, protocol = (*action.arguments, 0, 0, 0)[:3]
        return _socket_remedy(family, kind & floor.SOCK_TYPE_MASK, protocol)
    return ""


def _socket_remedy(family: int, kind: int, protocol: int) -> str:
    if family not in {AF_INET, AF_INET6}:
        return ""
    if kind == SOCK_STREAM and protocol in {0, TCP}:
        return verdicts.add("network.connect", "ADDRESS:PORT")
    if kind == SOCK_DGRAM and protocol in {0, UDP}:
        return verdicts.add("network.connect", "ADDRESS:PORT/udp")
    return ""

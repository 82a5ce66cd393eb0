# SPDX-License-Identifier: Apache-2.0
"""Findings on sockets. The kernel says by which rule it decided; the reference adds the remedy."""

from __future__ import annotations

from typing import Any

from monitor.audit import objects
from monitor.audit.subject import Finding, Subject, because, on, on_address, on_unix, text_of
from monitor.policy.action import Decision, Mechanism, SocketAction, Verb, Verdict
from monitor.wire.events import DenyCause, NetEvent, NetOperation

VERBS = {
    NetOperation.SOCKET: Verb.NET_SOCKET,
    NetOperation.CONNECT: Verb.NET_CONNECT,
    NetOperation.SEND: Verb.NET_SEND,
    NetOperation.BIND: Verb.NET_BIND,
    NetOperation.LISTEN: Verb.NET_LISTEN,
    NetOperation.UNIX: Verb.NET_UNIX,
}
# What no rule has a say in: no change to them helps.
STANDING = {
    DenyCause.EXPIRED: "the session's authority has expired",
    DenyCause.DENY_ALL: "the session's authority was revoked",
    DenyCause.ROUTED: "the packet has a route of its own, which no rule was asked about",
}


def find(subject: Subject, event: NetEvent) -> Finding:
    """The finding on a socket action, as a cgroup program decided it."""
    verb, what = VERBS[event.operation], _object(event)
    details: dict[str, Any] = {}
    if event.operation is not NetOperation.UNIX:
        details["family"] = objects.family_name(event.family)
        details["type"] = objects.type_name(event.type)
    if subject.plan is None:
        allowed = event.cause is DenyCause.NONE or event.observed
        verdict = Verdict.ALLOW if allowed else Verdict.DENY
        return Finding(verb, what, verdict, subject.stranger, "", Mechanism.CGROUP_BPF, details)
    if event.operation is NetOperation.LISTEN:
        return _listening(subject, event, what, details)
    link = subject.link_of(event.policy)
    rule = subject.rule_of(link, event.rule)
    decision = _reference(subject, event)
    if event.cause is DenyCause.NONE:
        agreed = decision is not None and decision.verdict is Verdict.ALLOW
        reason = decision.reason if decision and agreed else "the profile allows it"
        return Finding(
            verb, what, Verdict.ALLOW, reason, text_of(rule), Mechanism.CGROUP_BPF, details
        )
    verdict = Verdict.WOULD_DENY if event.observed else Verdict.DENY
    if event.cause in STANDING:
        reason = STANDING[event.cause]
        return Finding(verb, what, verdict, reason, "", Mechanism.CGROUP_BPF, details)
    if link is not None:
        details["link"] = link
    if decision is not None and decision.verdict is not Verdict.ALLOW:
        details |= because(decision)
        rule = rule or decision.rule
        reason = decision.reason
    elif event.cause is DenyCause.RULE:
        reason = "a rule denies it"
    else:
        profile = (
            f"profile {subject.plan.policies[link].profile}" if link is not None else "the profile"
        )
        reason = f"{profile} does not list it"
    return Finding(verb, what, verdict, reason, text_of(rule), Mechanism.CGROUP_BPF, details)


def _object(event: NetEvent) -> str:
    if event.operation is NetOperation.UNIX:
        return objects.unix_name(event.address)
    if event.operation is NetOperation.SOCKET:
        return objects.new_socket(event.family, event.type, event.protocol)
    if event.cause is DenyCause.ROUTED:
        return event.address  # of a packet; its ports are not read
    return objects.endpoint(event.address, event.port, event.protocol)


def _reference(subject: Subject, event: NetEvent) -> Decision | None:
    if event.operation is NetOperation.UNIX:
        return on_unix(subject, event.address)
    if event.operation is NetOperation.SOCKET:
        return on(subject, SocketAction(event.family, event.type, event.protocol))
    verb = VERBS[event.operation]
    return on_address(subject, verb, event.address, event.port, event.protocol)


def _listening(subject: Subject, event: NetEvent, what: str, details: dict[str, Any]) -> Finding:
    """listen(2) that succeeded: the floor refuses it without bind rules, else nobody decides."""
    decision = on_address(subject, Verb.NET_BIND, event.address, event.port, event.protocol)
    if decision is not None and decision.verdict is Verdict.ALLOW:
        reason, rule = decision.reason, text_of(decision.rule)
        return Finding(Verb.NET_LISTEN, what, Verdict.ALLOW, reason, rule, Mechanism.NONE, details)
    if subject.observe and decision is not None:
        details |= because(decision)
        verdict, reason, rule = Verdict.WOULD_DENY, decision.reason, text_of(decision.rule)
        return Finding(Verb.NET_LISTEN, what, verdict, reason, rule, decision.mechanism, details)
    reason = "the profile has bind rules; this port is of the kernel's choosing"
    return Finding(Verb.NET_LISTEN, what, Verdict.ALLOW, reason, "", Mechanism.NONE, details)

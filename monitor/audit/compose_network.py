# SPDX-License-Identifier: Apache-2.0
"""Findings on sockets. The kernel says by which rule it decided; the reference adds the remedy."""

from __future__ import annotations

from typing import Any, NamedTuple

from monitor.audit import budgets, objects
from monitor.audit.subject import Finding, Subject, because, on, on_address, on_unix, text_of
from monitor.policy.action import (
    Decision,
    Mechanism,
    Origin,
    SocketAction,
    Verb,
    Verdict,
)
from monitor.policy.plan import Label
from monitor.wire.events import DenyCause, LabelEvent, NetEvent, NetOperation

VERBS = {
    NetOperation.SOCKET: Verb.NET_SOCKET,
    NetOperation.CONNECT: Verb.NET_CONNECT,
    NetOperation.SEND: Verb.NET_SEND,
    NetOperation.BIND: Verb.NET_BIND,
    NetOperation.LISTEN: Verb.NET_LISTEN,
    NetOperation.UNIX: Verb.NET_UNIX,
}
WAIT = "none in a profile: it goes on by itself when all holds that must"
ANSWER = "a person's word: rictl asks lists what waits for it"
CONNECT = "connect(2) first: then the gate makes the connection, to the socket that is meant"
# What no rule has a say in: no change to them helps.
STANDING = {
    DenyCause.EXPIRED: "the session's authority has expired",
    DenyCause.DENY_ALL: "the session's authority was revoked",
    DenyCause.CONDITION: "something that must hold for the session does not hold now",
    DenyCause.ROUTED: "the packet has a route of its own, which no rule was asked about",
}


def find(subject: Subject, event: NetEvent) -> Finding:
    """The finding on a socket action, as a cgroup program decided it."""
    name = _name(subject, event)
    verb, what = VERBS[event.operation], _object(event, name)
    details: dict[str, Any] = {"name": name} if name else {}
    if event.operation is not NetOperation.UNIX:
        details["family"] = objects.family_name(event.family)
        details["type"] = objects.type_name(event.type)
    if subject.plan is None:
        allowed = event.cause is DenyCause.NONE or event.observed
        verdict = Verdict.ALLOW if allowed else Verdict.DENY
        return Finding(verb, what, verdict, subject.stranger, "", Mechanism.CGROUP_BPF, details)
    if event.operation is NetOperation.LISTEN:
        return _listening(subject, event, what, details)
    link, label = subject.link_of(event.policy), None
    if link is None:
        link, label = subject.label_of(event.policy)
    rule = subject.rule_of(link, event.rule, label)
    decision = _reference(subject, event)
    if event.cause is DenyCause.NONE:
        agreed = decision is not None and decision.verdict is Verdict.ALLOW
        reason = decision.reason if decision and agreed else "the profile allows it"
        if name and not agreed and rule is not None:
            reason = f"{rule.section} lists {rule.text}, which came to this address"
        if decision is not None and decision.verdict is Verdict.ASK:
            reason = "a rule asks about it, and it was approved"
        return Finding(
            verb, what, Verdict.ALLOW, reason, text_of(rule), Mechanism.CGROUP_BPF, details
        )
    refusal = _refusal(subject, event, link, label)
    if refusal is None:
        refusal = _by_rules(subject, event, link, rule, decision)
    reason, place, mechanism, more = refusal
    verdict = Verdict.WOULD_DENY if event.observed else Verdict.DENY
    if link is not None and event.cause not in STANDING:
        details["link"] = link
    return Finding(verb, what, verdict, reason, text_of(place), mechanism, details | more)


class _Refusal(NamedTuple):
    """Why an action was refused: the part of a finding that tells."""

    reason: str
    rule: Origin | None
    mechanism: Mechanism
    details: dict[str, Any]


def _refusal(
    subject: Subject, event: NetEvent, link: int | None, label: Label | None
) -> _Refusal | None:
    """What is no matter of a link's rules; None: it is."""
    assert subject.plan is not None
    if event.cause in STANDING:
        details = {"remedy": WAIT} if event.cause is DenyCause.CONDITION else {}
        return _Refusal(STANDING[event.cause], None, Mechanism.CGROUP_BPF, details)
    if event.cause is DenyCause.OVER_BUDGET:
        kind = budgets.named(event.rule)
        limits = None if link is None else subject.plan.policies[link].budgets
        return _Refusal(budgets.spent(kind, limits), None, Mechanism.BUDGET, budgets.details(kind))
    rule = subject.rule_of(link, event.rule, label)
    if label is not None:
        reason = f"the session has the label {label.name}, which takes it away"
        if event.cause is DenyCause.UNANSWERED:
            reason = f"the session has the label {label.name}: it needs an approval, and has none"
        remedy = f"an administrator's word: rictl label remove {subject.id} {label.name} --why TEXT"
        details = {"label": label.name, "remedy": remedy}
        return _Refusal(reason, rule, Mechanism.CGROUP_BPF, details)
    if event.cause is DenyCause.UNHELD:
        reason = "the session may write where this name is, and could lead it elsewhere"
        return _Refusal(reason, rule, Mechanism.CGROUP_BPF, {"remedy": CONNECT})
    if event.cause is DenyCause.UNANSWERED:
        reason = "a rule asks about it, and nobody has approved it"
        return _Refusal(reason, rule, Mechanism.CGROUP_BPF, {"remedy": ANSWER})
    return None


def _by_rules(
    subject: Subject,
    event: NetEvent,
    link: int | None,
    rule: Origin | None,
    decision: Decision | None,
) -> _Refusal:
    """What the rules of a link refuse."""
    assert subject.plan is not None
    if decision is not None and decision.verdict is not Verdict.ALLOW:
        reason = decision.reason
        if event.cause is DenyCause.UNLISTED and _looks_up(subject, event):
            reason += ", and no name that it looked up came to this port there"
        return _Refusal(reason, rule or decision.rule, Mechanism.CGROUP_BPF, because(decision))
    if event.cause is DenyCause.RULE:
        return _Refusal("a rule denies it", rule, Mechanism.CGROUP_BPF, {})
    profile = "the profile"
    if link is not None:
        profile = f"profile {subject.plan.policies[link].profile}"
    return _Refusal(f"{profile} does not list it", rule, Mechanism.CGROUP_BPF, {})


def _looks_up(subject: Subject, event: NetEvent) -> bool:
    assert subject.plan is not None
    connecting = event.operation in {NetOperation.CONNECT, NetOperation.SEND}
    return connecting and any(policy.names for policy in subject.plan.policies)


def find_label(subject: Subject, event: LabelEvent) -> Finding:
    """A label that a connection or a message earned, before it returned."""
    link, label = subject.label_of(event.policy)
    name = label.name if label is not None else f"of policy {event.policy}"
    what = objects.endpoint(event.address, event.port, event.protocol)
    details: dict[str, Any] = {"verb": VERBS[event.operation].value, "object": what}
    if link is not None:
        details["link"] = link
    rule = text_of(label.origin if label is not None else None)
    reason = f"{VERBS[event.operation].value} {what}"
    return Finding(
        Verb.LABEL_EARN, name, Verdict.ALLOW, reason, rule, Mechanism.CGROUP_BPF, details
    )


def _name(subject: Subject, event: NetEvent) -> str:
    """The name that the destination was looked up by; "": none."""
    if event.operation not in {NetOperation.CONNECT, NetOperation.SEND}:
        return ""
    return subject.name(event.address)


def _object(event: NetEvent, name: str) -> str:
    if event.operation is NetOperation.UNIX:
        return objects.unix_name(event.address)
    if event.operation is NetOperation.SOCKET:
        return objects.new_socket(event.family, event.type, event.protocol)
    if event.cause is DenyCause.ROUTED:
        return event.address  # of a packet; its ports are not read
    return objects.endpoint(event.address, event.port, event.protocol, name)


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

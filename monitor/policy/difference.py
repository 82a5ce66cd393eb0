# SPDX-License-Identifier: Apache-2.0
"""What one plan adds and takes away against another, rule by rule, for people and for records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from monitor.policy import difference_session
from monitor.policy.action import Origin, Verdict
from monitor.policy.changes import Change, Difference, Effect, Rules, named, number, sets
from monitor.policy.floor import BUILT_IN
from monitor.policy.patterns import is_within
from monitor.policy.plan import (
    Budgets,
    ExecRule,
    FileAccess,
    Label,
    MaskKind,
    Plan,
    Policy,
    SyscallPlan,
)
from monitor.profile.network import PROTOCOLS, names_host, parse

__all__ = ["difference", "policy_difference"]

FILES = {
    FileAccess.READ: "files.read",
    FileAccess.WRITE: "files.write",
    FileAccess.EXECUTE: "files.execute",
}
MASKS = {
    MaskKind.HIDE: "files.deny",
    MaskKind.READ_ONLY: "files.read_only",
    MaskKind.NO_EXEC: "exec.deny",
}
EXEC = {Verdict.DENY: "exec.deny", Verdict.ASK: "exec.ask", Verdict.ALLOW: "exec"}
RUN = "/run"
# linux/net.h
FAMILIES = (2, 10)  # linux/socket.h: AF_INET, AF_INET6
SOCKET_TYPES = {PROTOCOLS["tcp"]: 1, PROTOCOLS["udp"]: 2}


def difference(old: Plan, new: Plan) -> Difference:
    """What `new` adds and takes away against `old`."""
    found = list(_policies(old, new))
    found += difference_session.differences(old, new)
    return Difference(tuple(dict.fromkeys(found)))


def policy_difference(old: Policy, new: Policy, plan: Plan) -> Difference:
    """The same for one policy of `plan` and what takes its place."""
    return Difference(tuple(dict.fromkeys(_policy(old, new, plan))))


# -- policies -------------------------------------------------------------------------------------


def _policies(old: Plan, new: Plan) -> Iterator[Change]:
    before = {policy.profile: policy for policy in old.policies}
    after = {policy.profile: policy for policy in new.policies}
    for name, policy in after.items():
        if name in before:
            yield from _policy(before[name], policy, old)
        else:
            yield Change(Effect.TAKES, name, "extends", f"{name} must allow as well")
    for name in before:
        if name not in after:
            yield Change(Effect.ADDS, name, "extends", f"{name} need not allow any more")


def _policy(old: Policy, new: Policy, plan: Plan) -> Iterator[Change]:
    name = new.profile
    yield from sets(name, _files(old), _files(new), Effect.ADDS, _narrows)
    yield from sets(name, _masks(old), _masks(new), Effect.TAKES, _narrows)
    yield from _network(old, new, plan)
    before, after = (named("files.ask", [each.pattern for each in it.asks]) for it in (old, new))
    yield from sets(name, before, after, Effect.TAKES)
    yield from sets(name, _exec("", old.exec), _exec("", new.exec), Effect.TAKES)
    yield from _budgets(name, old.budgets, new.budgets)
    yield from _labels(name, old, new)


def _files(policy: Policy) -> Rules:
    return {
        (section, f"{rule.path}{'/**' if rule.tree else ''}"): rule.origin.text
        for rule in policy.files
        for access, section in FILES.items()
        if access in rule.access
    }


def _narrows(effect: Effect, _meaning: str) -> bool:
    # Neither Landlock nor the view ever gives back.
    return effect is Effect.TAKES


def _masks(policy: Policy) -> Rules:
    return {(MASKS[each.kind], each.pattern): each.origin.text for each in policy.masks}


def _network(old: Policy, new: Policy, plan: Plan) -> Iterator[Change]:
    effects = dict.fromkeys(("connect", "bind", "expose", "unix"), Effect.ADDS)
    effects |= {"deny": Effect.TAKES, "ask": Effect.CHANGES}
    before, after = _rules(old.rules), _rules(new.rules)
    for kind, effect in effects.items():
        section = f"network.{kind}"
        pair = [
            {key: text for key, text in it.items() if key[0] == section} for it in (before, after)
        ]

        def live(effect: Effect, text: str, kind: str = kind) -> bool:
            return effect is not Effect.ADDS or kind == "deny" or _floor_lets(plan, kind, text)

        yield from sets(new.profile, pair[0], pair[1], effect, live)


def _rules(rules: tuple[Origin, ...]) -> Rules:
    return {
        (each.section, each.text): each.text
        for each in rules
        if each.source != BUILT_IN and each.section.startswith("network.")
    }


def _floor_lets(plan: Plan, kind: str, text: str) -> bool:
    """Whether the filter and the view that a session started with leave room for this rule."""
    if kind == "unix":
        hidden = plan.view is not None and plan.view.hide_run and is_within(text, RUN)
        return not hidden or (plan.view is not None and text in plan.view.sockets)
    to = text.partition(", ")[0]
    # Names are asked for by both.
    protocols = list(SOCKET_TYPES) if names_host(to) else [parse(to).protocol]
    wanted = {SOCKET_TYPES[protocol] for protocol in protocols}
    if not all(
        wanted <= {each.type for each in policy.sockets if each.family in FAMILIES}
        for policy in plan.policies
    ):
        return False
    listens = kind == "bind" and wanted == {SOCKET_TYPES[PROTOCOLS["tcp"]]}
    return not listens or not _refuses(plan.syscalls, "listen")


def _refuses(plan: SyscallPlan, name: str) -> bool:
    return any(rule.name == name and not rule.tests for rule in plan.rules)


def _exec(prefix: str, rules: tuple[ExecRule, ...]) -> Rules:
    found = {}
    for rule in rules:
        parts = [rule.pattern]
        if rule.arguments is not None:
            parts += [f"args {' '.join(rule.arguments) or '(none)'}"]
        if rule.outside is not None:
            parts += [f"outside {rule.outside}"]
        if rule.content:
            parts += ["by content"]
        text = ", ".join(parts)
        found[f"{prefix}{EXEC[rule.verdict]}", text] = text
    return found


def _budgets(profile: str, old: Budgets, new: Budgets) -> Iterator[Change]:
    names = {
        "connects": "connects_per_minute",
        "destinations": "destinations",
        "egress": "egress_bytes",
        "execs": "execs_per_minute",
        "deletes": "deletes_per_minute",
    }
    for field, name in names.items():
        yield from number(profile, f"limits.{name}", getattr(old, field), getattr(new, field))


def _labels(profile: str, old: Policy, new: Policy) -> Iterator[Change]:
    before = {each.name: each for each in old.labels}
    after = {each.name: each for each in new.labels}
    for name, label in after.items():
        known = before.get(name)
        section = f"labels.{name}"
        if known is None:
            yield Change(Effect.TAKES, profile, section, "a new label")
        elif _plain(known) != _plain(label) or _earns(old, name) != _earns(new, name):
            yield Change(Effect.CHANGES, profile, section, "what earns it or what follows")
    for name in before:
        if name not in after:
            yield Change(Effect.ADDS, profile, f"labels.{name}", "is gone, where it is not earned")


def _plain(label: Label) -> Label:
    """The label without the places of its rules, which may move in a file."""
    policy = None if label.policy is None else replace(label.policy, rules=(), digest="")
    return replace(
        label,
        policy=policy,
        exec=tuple(replace(each, origin=_nowhere) for each in label.exec),
        rules=tuple(replace(each, origin=_nowhere) for each in label.rules),
        origin=_nowhere,
    )


_nowhere = Origin("", "", "", "", 0)


def _earns(policy: Policy, name: str) -> frozenset[tuple[str, int, int, int]]:
    """Destinations that earn a label."""
    number = next(i for i, each in enumerate(policy.labels) if each.name == name)
    return frozenset(
        (prefix.network, each.protocol, each.first, each.last)
        for prefix in policy.connect
        for each in prefix.ports
        if each.label == number
    )

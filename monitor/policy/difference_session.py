# SPDX-License-Identifier: Apache-2.0
"""What one plan adds and takes away against another in all that is no single profile's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from monitor.policy import windows
from monitor.policy.action import Verdict
from monitor.policy.changes import Change, Effect, named, number, ordered, sets
from monitor.policy.plan import (
    Conditions,
    Limits,
    OnExpiry,
    Plan,
    Reaction,
    Reactions,
    RecordChoice,
    SyscallPlan,
)

# Calls whose built-in rules follow from those for the network, which are told themselves.
FOLLOWING = ("socket", "socketpair", "listen")


def differences(old: Plan, new: Plan) -> Iterator[Change]:
    yield from _limits(old.limits, new.limits)
    yield from ordered("limits.on_budget", old.on_budget, new.on_budget, list(Reaction))
    yield from _filter(old.syscalls, new.syscalls)
    if old.environment != new.environment:
        yield Change(Effect.CHANGES, "", "environment", "variables of the command", live=False)
    if old.run_as_root != new.run_as_root:
        effect = Effect.ADDS if new.run_as_root else Effect.TAKES
        yield Change(effect, "", "run_as", "root" if new.run_as_root else "user", live=False)
    records = [RecordChoice.FIRST, RecordChoice.EVERY]
    yield from ordered("audit.records", old.records, new.records, records)
    if old.audit_required != new.audit_required:
        effect = Effect.TAKES if new.audit_required else Effect.ADDS
        yield Change(effect, "", "audit.required", str(new.audit_required).lower())
    if old.approval != new.approval:
        stricter = Effect.TAKES if new.approval.fallback is Verdict.DENY else Effect.CHANGES
        same = old.approval.fallback is new.approval.fallback
        effect = Effect.CHANGES if same else stricter
        yield Change(effect, "", "ask", "timeout, rate or fallback of asks")
    yield from _conditions(old.conditions, new.conditions)
    yield from _reactions(old.reactions, new.reactions)


def _limits(old: Limits, new: Limits) -> Iterator[Change]:
    yield from number("", "limits.ttl", old.ttl, new.ttl, narrows_only=True)
    yield from number("", "limits.processes", old.processes, new.processes)
    yield from number("", "limits.memory", old.memory, new.memory)
    for change in number("", "limits.open_files", old.files, new.files):
        yield replace(change, live=False)
    yield from ordered("limits.on_expiry", old.on_expiry, new.on_expiry, list(OnExpiry))


def _filter(old: SyscallPlan, new: SyscallPlan) -> Iterator[Change]:
    before = {(rule.name, rule.verdict, rule.tests): rule for rule in old.rules}
    after = {(rule.name, rule.verdict, rule.tests): rule for rule in new.rules}
    for effect, here, there in ((Effect.TAKES, after, before), (Effect.ADDS, before, after)):
        names = dict.fromkeys(
            rule.name
            for key, rule in here.items()
            if key not in there and (rule.origin or rule.name not in FOLLOWING)
        )
        for name in names:
            yield Change(effect, "", "syscalls", name, live=False)
    if not set(new.notified) <= set(old.notified):
        held = "program starts, opens or removals are held for a decision"
        yield Change(Effect.TAKES, "", "syscalls", held, live=False)


def _conditions(old: Conditions, new: Conditions) -> Iterator[Change]:
    before, after = (
        named("conditions.time", [" or ".join(map(windows.text, group)) for group in it.windows])
        for it in (old, new)
    )
    yield from sets("", before, after, Effect.TAKES)
    yield from number("", "conditions.load_below", old.load, new.load)
    if old.memory != new.memory:
        more = (new.memory or 0) > (old.memory or 0)
        effect = Effect.TAKES if more else Effect.ADDS
        text = f"{old.memory or 0} -> {new.memory or 0}"
        yield Change(effect, "", "conditions.memory_available", text)
    yield from ordered("conditions.otherwise", old.otherwise, new.otherwise, list(Reaction))


def _reactions(old: Reactions, new: Reactions) -> Iterator[Change]:
    order = list(Reaction)
    yield from ordered("signals.session_revoked", old.revoked, new.revoked, order)
    yield from ordered("signals.assurance_level_change", old.assurance, new.assurance, order)
    before, after = (
        named("signals.risk_score", [f"from {each.least}: {each.then.value}" for each in it.risk])
        for it in (old, new)
    )
    yield from sets("", before, after, Effect.TAKES)

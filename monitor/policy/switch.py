# SPDX-License-Identifier: Apache-2.0
"""What a running session can go over to when its profile has changed.

The tables of the kernel, the gates, limits and reactions take every change. What a session has put
on at its start only ever narrows: of the system call filter, Landlock and the environment the plan
in force keeps what is worn, so that decisions on paper stay those of the kernel; what a view can
take away later is told apart (`masks`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from monitor.policy import held_names
from monitor.policy.action import Verdict
from monitor.policy.difference import policy_difference
from monitor.policy.patterns import escape, is_within
from monitor.policy.plan import (
    Approval,
    Budgets,
    Conditions,
    FileAccess,
    FileRule,
    Limits,
    MaskKind,
    MaskRule,
    NetPrefix,
    OnExpiry,
    Plan,
    Policy,
    Reaction,
    Reactions,
    RecordChoice,
    RiskStep,
)
from monitor.policy.syscalls import NUMBERS

MOST_POLICIES, MOST_LABELS = 8, 8  # probes/include/maps.h
READ, WRITE, EXECUTE = FileAccess.READ, FileAccess.WRITE, FileAccess.EXECUTE

Number = TypeVar("Number", int, float)
# Names of labels that a session has, by the profile that they are of.
Earned = Mapping[str, Collection[str]]


class CannotSwitch(ValueError):
    """No plan for the running session comes of the new one; the old one stays in force."""


@dataclass(frozen=True, slots=True)
class InForce:
    """`plan` as the session is held to it from now on.

    `masks` are to be taken away in its view first. `pending`: what the new profile takes away and
    this session keeps, a line each.
    """

    plan: Plan
    masks: tuple[MaskRule, ...] = ()
    pending: tuple[str, ...] = ()


def in_force(
    old: Plan, new: Plan, earned: Earned | None = None, *, pinned: bool, view: bool
) -> InForce:
    """What a session under `old` goes over to. CannotSwitch.

    `earned`: labels that it has. `pinned`: somebody delegated the old plan and no more, so that
    both must allow. `view`: whether more can be taken away in the session's view.
    """
    masks: list[MaskRule] = []
    pending: list[str] = []
    policies = list(old.policies) if pinned else []
    for policy in new.policies:
        known = [each for each in old.policies if each.profile == policy.profile]
        had = frozenset((earned or {}).get(policy.profile, ()))
        worn = _Worn(old, known[-1] if known else None, view, had)
        adapted = worn.adapt(policy, masks, pending)
        if not pinned:
            policies.append(adapted)
        elif adapted not in policies:
            narrowed = [each for each in known if not policy_difference(each, policy, old).widens]
            if narrowed:
                policies[policies.index(narrowed[-1])] = adapted
            else:
                policies.append(adapted)
    if not pinned:
        names = frozenset(policy.profile for policy in policies)
        gone = [each for each in old.policies if each.profile not in names]
        policies = [*(_worn_only(each, policies[-1]) for each in gone), *policies]
    if len(policies) > MOST_POLICIES:
        raise CannotSwitch(
            f"{len(policies)} rule sets would have to allow; the kernel holds {MOST_POLICIES}:"
            " start the session again"
        )
    if sum(len(policy.labels) for policy in policies) > MOST_LABELS:
        raise CannotSwitch(f"more than {MOST_LABELS} labels with those that it has: start it again")
    if not old.observe:
        policies = held_names.marked(policies)
        if NUMBERS["connect"] not in old.syscalls.notified:
            pending += [
                f"{policy.profile}: network.unix: {rule.path}"
                for policy in policies
                for rule in policy.unix
                if rule.held
            ]
    plan = _with(old, new, tuple(policies))
    return InForce(_strictest(old, plan) if pinned else plan, tuple(masks), tuple(pending))


@dataclass(frozen=True, slots=True)
class _Worn:
    """What one link of a session has put on: `policy` None where the link is new."""

    plan: Plan
    policy: Policy | None
    view: bool
    earned: frozenset[str]

    def adapt(self, new: Policy, masks: list[MaskRule], pending: list[str]) -> Policy:
        """`new` with what is worn; adds to `masks` and `pending`."""
        files = self.policy.files if self.policy else self.plan.policies[-1].files
        worn = self.policy.masks if self.policy else ()
        wanted = [each for each in new.masks if _unknown(each, worn)]
        lost, kept = _lost(files, new.files)
        wanted += lost
        pending += [f"{new.profile}: {text}" for text in kept]
        if not self.view:
            pending += [
                f"{new.profile}: {each.origin.section}: {each.origin.text}" for each in wanted
            ]
            wanted = []
        masks += wanted
        return replace(
            new,
            files=files,
            masks=(*worn, *wanted),
            **self._gated(new, pending),
        )

    def _gated(self, new: Policy, pending: list[str]) -> dict[str, Any]:
        """Rules and labels of `new`, less what only gates hold that this session has not got."""
        labels = new.labels
        known = {each.name for each in labels}
        if self.policy is not None:
            # One that was earned only comes off by a person.
            labels += tuple(
                each
                for each in self.policy.labels
                if each.name in self.earned and each.name not in known
            )
        exec_rules, asks, budgets = new.exec, new.asks, new.budgets
        if not self._notified("execve"):
            if exec_rules or any(each.exec or each.rules for each in labels):
                pending.append(f"{new.profile}: exec: rules on arguments and asks")
            exec_rules = ()
            labels = tuple(replace(each, exec=(), rules=()) for each in labels)
            if budgets.execs is not None:
                pending.append(f"{new.profile}: limits.execs_per_minute")
                budgets = replace(budgets, execs=None)
        if budgets.deletes is not None and not self._notified("unlink"):
            pending.append(f"{new.profile}: limits.deletes_per_minute")
            budgets = replace(budgets, deletes=None)
        if not self.view and not self._opens():
            if asks or any(each.files for each in labels):
                pending.append(f"{new.profile}: files: asks and labels by files")
            asks = ()
            labels = tuple(replace(each, files=()) for each in labels)
        return {"exec": exec_rules, "asks": asks, "labels": labels, "budgets": budgets}

    def _notified(self, name: str) -> bool:
        return NUMBERS[name] in self.plan.syscalls.notified

    def _opens(self) -> bool:
        """Whether opens of this session are looked at: that is set up at its start."""
        return any(
            policy.asks or any(label.files for label in policy.labels)
            for policy in self.plan.policies
        )


def _worn_only(gone: Policy, other: Policy) -> Policy:
    """A link that need not allow any more: what it has put on stays; in all else it is `other`."""
    return replace(
        other,
        profile=gone.profile,
        digest=gone.digest,
        files=gone.files,
        masks=gone.masks,
        asks=(),
        exec=(),
        labels=(),
        budgets=Budgets(),
        connect=_unlabelled(other.connect),
    )


def _unlabelled(table: tuple[NetPrefix, ...]) -> tuple[NetPrefix, ...]:
    return tuple(
        replace(each, ports=tuple(replace(ports, label=-1) for ports in each.ports))
        for each in table
    )


# -- files ----------------------------------------------------------------------------------------


def _unknown(mask: MaskRule, worn: Iterable[MaskRule]) -> bool:
    return all((mask.pattern, mask.kind) != (each.pattern, each.kind) for each in worn)


def _lost(old: Sequence[FileRule], new: Sequence[FileRule]) -> tuple[list[MaskRule], list[str]]:
    """Masks that take away what rules granted that are gone, and those that none can express."""
    masks: dict[tuple[str, MaskKind], MaskRule] = {}
    kept: list[str] = []
    for rule in old:
        had, left = _granted(rule, old), _granted(rule, new)
        if not rule.access & ~left:
            continue
        kind = _mask(had, left)
        origin = replace(rule.origin, text=f"{rule.origin.text} is gone")
        inside = rule.tree and any(
            each.path != rule.path and is_within(each.path, rule.path) for each in new
        )
        if kind is None or inside or rule.path == "/":
            kept.append(f"{origin.section}: {origin.text}")
        else:
            mask = MaskRule(escape(rule.path), kind, origin)
            masks.setdefault((rule.path, kind), mask)
    return list(masks.values()), kept


def _granted(rule: FileRule, rules: Iterable[FileRule]) -> FileAccess:
    """What `rules` grant on all that `rule` is about."""
    access = FileAccess(0)
    for each in rules:
        covers = is_within(rule.path, each.path) if each.tree else rule.path == each.path
        if covers and (each.tree or not rule.tree):
            access |= each.access
    return access


def _mask(had: FileAccess, left: FileAccess) -> MaskKind | None:
    """What takes away just the difference; None: nothing does."""
    if not left:
        return MaskKind.HIDE
    lost = had & ~left
    if READ in lost:
        return None  # a mask that hides takes everything
    if EXECUTE in lost:
        return None if WRITE in left else MaskKind.NO_EXEC
    return MaskKind.READ_ONLY


# -- the rest -------------------------------------------------------------------------------------


def _with(old: Plan, new: Plan, policies: tuple[Policy, ...]) -> Plan:
    return replace(
        new,
        policies=policies,
        syscalls=old.syscalls,
        view=old.view,
        environment=old.environment,
        limits=replace(
            new.limits, ttl=_least(old.limits.ttl, new.limits.ttl), files=old.limits.files
        ),
        workspace=old.workspace,
        home=old.home,
        run_as_root=old.run_as_root,
        observe=old.observe,
        missing=old.missing,
    )


def _strictest(old: Plan, new: Plan) -> Plan:
    """`new`, in everything that is one value not milder than `old`."""
    return replace(
        new,
        limits=Limits(
            ttl=new.limits.ttl,
            processes=_least(old.limits.processes, new.limits.processes),
            files=new.limits.files,
            memory=_least(old.limits.memory, new.limits.memory),
            on_expiry=max(old.limits.on_expiry, new.limits.on_expiry, key=list(OnExpiry).index),
        ),
        records=RecordChoice.EVERY
        if RecordChoice.EVERY in {old.records, new.records}
        else RecordChoice.FIRST,
        audit_required=old.audit_required or new.audit_required,
        approval=Approval(
            timeout=min(old.approval.timeout, new.approval.timeout),
            fallback=Verdict.DENY
            if Verdict.DENY in {old.approval.fallback, new.approval.fallback}
            else Verdict.ALLOW,
            per_minute=min(old.approval.per_minute, new.approval.per_minute),
        ),
        on_budget=_stricter(old.on_budget, new.on_budget),
        conditions=_conditions(old.conditions, new.conditions),
        reactions=Reactions(
            revoked=_stricter(old.reactions.revoked, new.reactions.revoked),
            assurance=_stricter(old.reactions.assurance, new.reactions.assurance),
            risk=tuple(_risk(old.reactions.risk, new.reactions.risk)),
        ),
    )


def _conditions(old: Conditions, new: Conditions) -> Conditions:
    return Conditions(
        windows=tuple(dict.fromkeys((*old.windows, *new.windows))),
        load=_least(old.load, new.load),
        memory=max(filter(None, (old.memory, new.memory)), default=None),
        otherwise=_stricter(old.otherwise, new.otherwise),
    )


def _risk(*steps: Sequence[RiskStep]) -> Iterator[RiskStep]:
    """Steps of all lists, each with the strictest of what follows from there on."""
    then = Reaction.NOTHING
    for step in sorted((each for some in steps for each in some), key=lambda each: each.least):
        then = _stricter(then, step.then)
        yield RiskStep(step.least, then)


def _stricter(one: Reaction, other: Reaction) -> Reaction:
    return max(one, other, key=list(Reaction).index)


def _least(*values: Number | None) -> Number | None:
    return min((value for value in values if value is not None), default=None)

# SPDX-License-Identifier: Apache-2.0
"""Decisions on files and programs, as Landlock and the view take them.

Landlock grants by rules that go down the tree; making, removing and renaming a name is a matter of
the folder that it is in. The view takes away what masks cover, and keeps the folders above a mask
where they are; what no rule lets be written is read-only in it, for modes and attributes as well.
A path that names a masked object by another name is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from monitor.policy import verdicts
from monitor.policy.action import Decision, ExecAction, FileAction, Mechanism, Verb, Verdict
from monitor.policy.compile_files import granting, needs_view, wants_view
from monitor.policy.patterns import is_within, parent, pattern
from monitor.policy.plan import FileAccess, FileRule, MaskKind, MaskRule, Plan, Policy

READ, WRITE, EXECUTE = FileAccess.READ, FileAccess.WRITE, FileAccess.EXECUTE
NOTHING = FileAccess(0)

SECTIONS = {READ: "files.read", WRITE: "files.write", EXECUTE: "files.execute"}
GERUNDS = {READ: "reading", WRITE: "writing", EXECUTE: "executing"}
# Which masks stand against a use of what they cover: all of them are read-only mounts.
AGAINST = {
    READ: {MaskKind.HIDE},
    WRITE: {MaskKind.HIDE, MaskKind.READ_ONLY, MaskKind.NO_EXEC},
    EXECUTE: {MaskKind.HIDE, MaskKind.NO_EXEC},
}
# Verbs that make or take away names, and whose right is in the folder.
NAMING = {Verb.FILE_UNLINK, Verb.FILE_MKDIR, Verb.FILE_RENAME, Verb.FILE_LINK}
# Verbs that stand for open(2): those `files.ask` is about.
OPENING = {Verb.FILE_OPEN, Verb.FILE_WRITE}
# Verbs that move a name away or put another in its place.
MOVING = {Verb.FILE_UNLINK, Verb.FILE_RENAME}


def decide(plan: Plan, action: FileAction) -> Decision:
    """Masks first, because deny beats allow; then what each policy grants."""
    uses = READ if action.verb is Verb.FILE_OPEN else WRITE
    names = [action.path] if action.target is None else [action.path, action.target]
    for name in names:
        refusal = _masked(plan, name, uses)
        if refusal is not None:
            return refusal
    if action.verb is Verb.FILE_CHMOD:
        return _attributes(plan, action.path)
    if action.verb not in NAMING:
        decision = _granted(plan, action.path, uses)
        if decision.verdict is Verdict.ALLOW and action.verb in OPENING:
            return _asked(plan, action.path, uses) or decision
        return decision
    decision = _naming(plan, action, names)
    if decision.verdict is Verdict.ALLOW and action.verb in MOVING:
        held = (_above_a_mask(plan, name) for name in names)
        return next(filter(None, held), decision)
    return decision


def _asked(plan: Plan, path: str, uses: FileAccess) -> Decision | None:
    for link, policy in enumerate(plan.policies):
        for ask in policy.asks:
            if pattern(ask.pattern).covers(path):
                what = f"{GERUNDS[uses]} {verdicts.shown(path)}"
                return verdicts.asked(Mechanism.FANOTIFY, ask.origin, what, link=link)
    return None


def decide_exec(plan: Plan, action: ExecAction) -> Decision:
    """The kernel reads a program as it starts it: both rights are needed."""
    refusal = _masked(plan, action.path, EXECUTE)
    return refusal or _granted(plan, action.path, READ | EXECUTE)


# -- the view -------------------------------------------------------------------------------------


def _masks(plan: Plan) -> Iterator[tuple[int, MaskRule]]:
    for link, policy in enumerate(plan.policies):
        for mask in policy.masks:
            yield link, mask


def _masked(plan: Plan, path: str, uses: FileAccess) -> Decision | None:
    for link, mask in _masks(plan):
        if mask.kind in AGAINST[uses] and pattern(mask.pattern).covers(path):
            what = f"{GERUNDS[uses]} {verdicts.shown(path)}"
            return verdicts.refused(
                _mechanism(plan, mask),
                mask.origin,
                what,
                link=link,
                remedy=verdicts.remove(mask.origin),
            )
    return None


def _above_a_mask(plan: Plan, path: str) -> Decision | None:
    """Whether a mask holds `path` in place, which lies above it and is a mount point."""
    for link, mask in _masks(plan):
        found = pattern(mask.pattern)
        if is_within(found.start, path) and not (found.is_literal and found.start == path):
            if _mechanism(plan, mask) is not Mechanism.VIEW:
                continue
            what = f"moving {verdicts.shown(path)}, which holds what a rule protects"
            return verdicts.refused(
                Mechanism.VIEW, mask.origin, what, link=link, remedy=verdicts.remove(mask.origin)
            )
    return None


def _mechanism(plan: Plan, mask: MaskRule) -> Mechanism:
    """The view where something is granted under the mask; else Landlock grants nothing there."""
    granted = [policy.files for policy in plan.policies]
    return Mechanism.VIEW if needs_view(mask, granted) else Mechanism.LANDLOCK


def _attributes(plan: Plan, path: str) -> Decision:
    """Modes, owners, times, extended attributes: Landlock leaves them alone, the view does not."""
    if _rest_is_read_only(plan):
        for link, policy in enumerate(plan.policies):
            if _rule(policy, path, WRITE) is None:
                what = f"changing the mode or attributes of {verdicts.shown(path)}"
                remedy = verdicts.add(SECTIONS[WRITE], path)
                return verdicts.unlisted(Mechanism.VIEW, link, policy, what, remedy)
    return verdicts.allowed(reason="modes and attributes are left to the host's permissions")


def _rest_is_read_only(plan: Plan) -> bool:
    """Where rules only observe there is no view: then whether it would be made."""
    if plan.observe:
        return _wants_view(plan.policies)
    return plan.view is not None and plan.view.read_only_rest


@lru_cache(64)
def _wants_view(policies: tuple[Policy, ...]) -> bool:
    return wants_view(policies)


# -- Landlock -------------------------------------------------------------------------------------


def _granted(plan: Plan, path: str, uses: FileAccess) -> Decision:
    decision = None
    for link, policy in enumerate(plan.policies):
        for access in uses:
            rule = _rule(policy, path, access)
            if rule is None:
                return _unlisted(plan, link, policy, access, path, path)
            decision = verdicts.allowed(rule.origin, link)
    assert decision is not None, "a plan has a policy"
    return decision


def _naming(plan: Plan, action: FileAction, names: list[str]) -> Decision:
    """Names made or taken away: writing is granted in the folder of each, by a tree."""
    moves = len(names) == 2 and parent(names[0]) != parent(names[1])
    # A link leaves its first name as it is; only one in another folder takes the file there.
    needed = names[1:] if action.verb is Verb.FILE_LINK and not moves else names
    needed = needed or names
    decision = None
    for link, policy in enumerate(plan.policies):
        for name in needed:
            folder = parent(name)
            rule = _rule(policy, folder, WRITE, trees=True)
            if rule is None:
                tree = f"{folder.rstrip('/')}/**"
                return _unlisted(plan, link, policy, WRITE, name, tree)
            decision = verdicts.allowed(rule.origin, link)
        if moves:
            gained = _access(policy, names[1], trees=True) & ~_access(policy, names[0])
            if gained:
                return _gaining(link, policy, names, gained)
    assert decision is not None, "a plan has a policy"
    return decision


def _gaining(link: int, policy: Policy, names: list[str], gained: FileAccess) -> Decision:
    """Landlock lets no file get rights by being moved (EXDEV, at which programs copy)."""
    rights = " and ".join(GERUNDS[access] for access in gained)
    what = f"moving {verdicts.shown(names[0])} to where {rights} it is allowed; copy it"
    return verdicts.unlisted(Mechanism.LANDLOCK, link, policy, what)


def _rule(policy: Policy, path: str, access: FileAccess, trees: bool = False) -> FileRule | None:
    """A rule that grants `access`; with `trees` only such as go down from a folder."""
    for rule in granting(policy.files, path):
        if access & rule.access and (rule.tree or not trees):
            return rule
    return None


def _access(policy: Policy, path: str, trees: bool = False) -> FileAccess:
    found = NOTHING
    for rule in granting(policy.files, path):
        if rule.tree or not trees:
            found |= rule.access
    return found


def _unlisted(
    plan: Plan, link: int, policy: Policy, access: FileAccess, path: str, add: str
) -> Decision:
    """A read-only mount is asked before Landlock, which would refuse as well.

    Device nodes and the session's own /proc are Landlock's alone; that is not known by the name.
    """
    first = access is WRITE and _rest_is_read_only(plan)
    what = f"{GERUNDS[access]} {verdicts.shown(path)}"
    remedy = verdicts.add(SECTIONS[access], add)
    mechanism = Mechanism.VIEW if first else Mechanism.LANDLOCK
    return verdicts.unlisted(mechanism, link, policy, what, remedy)

# SPDX-License-Identifier: Apache-2.0
"""Plans of sessions that others run in, and of those that run in one.

A session that may have sub-agents reaches the launch socket and the launcher. One that runs in
another shares its view: what it takes away inside granted trees has to be taken away there already.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from monitor.policy import gates, held_names, origins, shared_view
from monitor.policy.action import Verdict
from monitor.policy.compile_files import granting
from monitor.policy.compile_network import SOCK_SEQPACKET
from monitor.policy.floor import AF_UNIX, ANY_PROTOCOL
from monitor.policy.gates import Gates
from monitor.policy.origins import CompileError
from monitor.policy.plan import (
    Approval,
    Conditions,
    EnvironmentPlan,
    FileAccess,
    FileRule,
    Plan,
    Policy,
    Reaction,
    Reactions,
    RecordChoice,
    RiskStep,
    SocketRule,
    SyscallRule,
    SyscallVerdict,
    UnixRule,
)
from monitor.policy.syscalls import NUMBERS

VIEW = "view"
# The kernel holds so many policies for a session; struct ri_session.
MOST_POLICIES = 8
MOST_LABELS = 8
SECTION = "sub-agents"
SOCKET_VARIABLE = "RI_SOCKET"
# What changes a file that may not be written: a view's read-only mounts refuse it, Landlock does
# not. Later calls of the kind are refused by the floor.
_MODES = (
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"),
    *("utime", "utimes", "futimesat", "utimensat"),
    *("setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"),
)
_MODES_WHY = (
    "changes modes, owners or times, and this profile lets fewer files be written than the session"
    " that it runs in"
)


@dataclass(frozen=True, slots=True)
class Launcher:
    """How a session's processes get to `ri-exec`.

    `socket` is the launch socket and `api` the one that RI_SOCKET names. `programs` are files that
    it needs to execute, `files` to read, `devices` to write as well; `trees` are folders to read.
    All are free of links.
    """

    api: str
    socket: str
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    trees: tuple[str, ...] = ()


def opened(policy: Policy, launcher: Launcher) -> Policy:
    """The policy of a link below which there may be others: it also grants the way to them."""
    origin = origins.built_in(SECTION, launcher.socket)
    read, execute = FileAccess.READ, FileAccess.READ | FileAccess.EXECUTE
    files = [
        FileRule(path, tree, access, origins.built_in(SECTION, path))
        for paths, tree, access in (
            (launcher.programs, False, execute),
            (launcher.files, False, read),
            (launcher.devices, False, FileAccess.READ | FileAccess.WRITE),
            (launcher.trees, True, read),
        )
        for path in paths
        if not _granted(policy.files, path, access)
    ]
    socket = SocketRule(AF_UNIX, SOCK_SEQPACKET, ANY_PROTOCOL)
    named = any(rule.path == launcher.socket for rule in policy.unix)
    return replace(
        policy,
        files=tuple(sorted((*policy.files, *files), key=lambda rule: (rule.path, rule.tree))),
        unix=policy.unix if named else _with(policy, launcher.socket),
        sockets=policy.sockets if socket in policy.sockets else (*policy.sockets, socket),
        rules=policy.rules if named else (*policy.rules, origin),
    )


def _with(policy: Policy, socket: str) -> tuple[UnixRule, ...]:
    rule = UnixRule(socket, len(policy.rules))
    return tuple(sorted((*policy.unix, rule), key=lambda each: each.path))


def _granted(rules: Sequence[FileRule], path: str, access: FileAccess) -> bool:
    held = FileAccess(0)
    for rule in granting(rules, path):
        held |= rule.access
    return access in held


def told(environment: EnvironmentPlan, launcher: Launcher | None) -> EnvironmentPlan:
    """The environment of a session that may have sub-agents: it says where the daemon is."""
    if launcher is None:
        return environment
    others = tuple(pair for pair in environment.set if pair[0] != SOCKET_VARIABLE)
    return replace(environment, set=(*others, (SOCKET_VARIABLE, launcher.api)))


def is_gated(plan: Plan) -> bool:
    """Whether program starts of sessions under the plan wait for the gate."""
    return NUMBERS["execve"] in plan.syscalls.notified


def beneath(plan: Plan, above: Plan, viewless: Collection[str] = ()) -> Plan:
    """What `plan` is for a session inside another, whose whole plan is `above`.

    `viewless` names the profiles that agree to go without a view. CompileError: the session above
    does not hold what this one needs.
    """
    # One that must allow already would add nothing.
    own = tuple(each for each in plan.policies if each not in above.policies)
    own = own or plan.policies[-1:]
    count = len(above.policies) + len(own)
    if count > MOST_POLICIES:
        raise CompileError(
            f"{count} profiles would have to allow each action, those of the sessions above among"
            f" them; the kernel holds {MOST_POLICIES}"
        )
    labels = sum(len(each.labels) for each in (*above.policies, *own))
    if labels > MOST_LABELS:
        raise CompileError(
            f"{labels} labels, those of the sessions above among them; the kernel holds"
            f" {MOST_LABELS}"
        )
    # What it alone may write says little of who may redirect a name in there.
    own = tuple(held_names.marked(own, above.policies))
    if not _waiting(plan) <= set(above.syscalls.notified):
        raise CompileError(
            "it asks about actions, or limits them, in a way that the session above was not"
            " started for: only the outermost session can have its calls held"
        )
    missing = list(plan.missing)
    for lost in shared_view.unheld(plan.policies, above, gated=is_gated(above)):
        if lost.profile not in viewless:
            raise lost.error
        own = tuple(
            replace(each, masks=tuple(mask for mask in each.masks if mask != lost.mask))
            for each in own
        )
        if VIEW not in missing:
            missing.append(VIEW)
    rules = plan.syscalls.rules
    # Above without a view, nothing keeps them.
    if plan.view is not None and (
        above.view is None or not shared_view.writes_all(own, above.policies)
    ):
        known = {rule.number for rule in rules if not rule.tests}
        rules += tuple(
            SyscallRule(name, NUMBERS[name], SyscallVerdict.EPERM, _MODES_WHY)
            for name in _MODES
            if NUMBERS[name] not in known
        )
    return replace(
        plan,
        policies=own,
        syscalls=replace(plan.syscalls, rules=rules, notified=()),
        view=None,
        records=RecordChoice.EVERY
        if RecordChoice.EVERY in (plan.records, above.records)
        else plan.records,
        audit_required=plan.audit_required or above.audit_required,
        approval=_approval(plan.approval, above.approval),
        on_budget=_stricter(plan.on_budget, above.on_budget),
        conditions=_conditions(plan.conditions, above.conditions),
        reactions=_reactions(plan.reactions, above.reactions),
        missing=tuple(missing),
    )


def _waiting(plan: Plan) -> set[int]:
    """Numbers of the calls that must wait for the gate; a held name is refused where it cannot."""
    found = set(plan.syscalls.notified)
    cleared = tuple(held_names.cleared(plan.policies))
    if cleared != plan.policies and Gates.CONNECT not in gates.gates_of(cleared):
        found.discard(NUMBERS["connect"])
    return found


# -- what holds above holds beneath ----------------------------------------------------------------


def _stricter(*reactions: Reaction) -> Reaction:
    return max(reactions, key=list(Reaction).index)


def _approval(one: Approval, other: Approval) -> Approval:
    denies = Verdict.DENY in (one.fallback, other.fallback)
    return Approval(
        timeout=min(one.timeout, other.timeout),
        fallback=Verdict.DENY if denies else one.fallback,
        per_minute=min(one.per_minute, other.per_minute),
    )


def _conditions(one: Conditions, other: Conditions) -> Conditions:
    loads = [each for each in (one.load, other.load) if each is not None]
    memories = [each for each in (one.memory, other.memory) if each is not None]
    return replace(
        one,
        windows=tuple(dict.fromkeys((*other.windows, *one.windows))),
        load=min(loads, default=None),
        memory=max(memories, default=None),
        otherwise=_stricter(one.otherwise, other.otherwise),
    )


def _reactions(one: Reactions, other: Reactions) -> Reactions:
    steps = sorted({step.least for step in (*one.risk, *other.risk)})
    return Reactions(
        revoked=_stricter(one.revoked, other.revoked),
        assurance=_stricter(one.assurance, other.assurance),
        risk=tuple(
            RiskStep(least, _stricter(*(_at(each.risk, least) for each in (one, other))))
            for least in steps
        ),
    )


def _at(steps: Sequence[RiskStep], score: int) -> Reaction:
    """What follows at this score."""
    reached = [step.then for step in steps if step.least <= score]
    return reached[-1] if reached else Reaction.NOTHING

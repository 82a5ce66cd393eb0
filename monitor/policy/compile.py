# SPDX-License-Identifier: Apache-2.0
"""Profiles, context and host features to a Plan: the one object that everything is driven by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from monitor.policy import (
    compile_context,
    compile_files,
    compile_labels,
    compile_network,
    gates,
    held_names,
    origins,
    sub_agents,
)
from monitor.policy.action import Origin
from monitor.policy.compile_network import TCP, UDP
from monitor.policy.environment import environment_plan
from monitor.policy.floor import syscall_plan
from monitor.policy.origins import CompileError, Rules
from monitor.policy.patterns import is_within
from monitor.policy.plan import (
    FileRule,
    HostFeatures,
    Limits,
    MaskRule,
    OnExpiry,
    Plan,
    Policy,
    RecordChoice,
    SocketRule,
    SyscallPlan,
    ViewPlan,
)
from monitor.policy.sub_agents import Launcher
from monitor.policy.syscalls import NUMBERS
from monitor.profile import durations
from monitor.profile.check import MOST_LABELS
from monitor.profile.model import AuditSection, LimitsSection, Profile, SyscallsSection
from monitor.profile.resolve import digest
from monitor.profile.variables import Variables

__all__ = ["CompileError", "Context", "compile_plan"]

# uapi/linux/landlock.h: the first ABI that holds truncate(2).
LANDLOCK_ABI_TRUNCATE = 3
VIEW, UNIX = "view", "unix"
# Sockets under it are hidden by the view unless a rule names them.
RUN = "/run"


@dataclass(frozen=True, slots=True)
class Context:
    """What the profiles' variables and the request say. `ttl` is in seconds.

    `resolve` makes a path absolute and free of symbolic links, as far as those may be trusted.
    `launcher`: the session may have sub-agents, and this is how it gets to them. `gated`: program
    starts wait for the gate, whatever the rules say.
    """

    workspace: str
    home: str
    session: str
    uid: int
    ttl: int | None
    observe: bool
    resolve: Callable[[str], str]
    launcher: Launcher | None = None
    gated: bool = False


def compile_plan(profiles: tuple[Profile, ...], context: Context, host: HostFeatures) -> Plan:
    """The plan of a conjunction of profiles, outermost first.

    CompileError names what this host cannot hold, or a rule that cannot be meant; ProfileError an
    unknown variable.
    """
    if not profiles:
        raise CompileError("a plan needs at least one profile")
    _check_host(profiles, host, observe=context.observe)
    variables = Variables(context.workspace, context.home, context.session, context.uid)
    gated = context.gated or any(map(compile_labels.is_gated, profiles))
    policies = [_policy(profile, variables, context, host, gated=gated) for profile in profiles]
    if context.launcher is not None:
        policies = [sub_agents.opened(policy, context.launcher) for policy in policies]
    if not context.observe:
        policies = held_names.marked(policies)
    masked = compile_files.masks_in_view(policies)
    terminals = compile_files.terminal_rules(policies)
    missing: tuple[str, ...] = ()
    view = None
    if not context.observe:
        visible = _left_to_view(profiles, host)
        if host.view and (visible or compile_files.wants_view(policies)):
            view = _view(policies, own_terminals=bool(terminals), hide_sockets=visible)
            missing = (UNIX,) if visible else ()
        elif masked or terminals:
            policies = _without(profiles, policies, masked, terminals)
            missing = (VIEW,)
    audits = [profile.audit or AuditSection() for profile in profiles]
    every = any(audit.records == "every" for audit in audits)
    _check_labels(profiles)
    plan = Plan(
        policies=tuple(policies),
        syscalls=_syscalls(profiles, policies, observe=context.observe),
        view=view,
        environment=sub_agents.told(environment_plan(profiles, variables), context.launcher),
        limits=_limits(profiles, context.ttl),
        workspace=context.workspace,
        home=context.home,
        run_as_root=all(profile.run_as == "root" for profile in profiles),
        observe=context.observe,
        records=RecordChoice.EVERY if every else RecordChoice.FIRST,
        audit_required=any(audit.required for audit in audits),
        approval=compile_context.approval(profiles),
        on_budget=compile_context.on_budget(profiles),
        conditions=compile_context.conditions(profiles),
        reactions=compile_context.reactions(profiles),
        missing=missing,
    )
    waiting = gates.notified(gates.gates(plan, sub_agents=context.gated))
    return replace(plan, syscalls=replace(plan.syscalls, notified=waiting))


def _check_labels(profiles: Iterable[Profile]) -> None:
    count = sum(len(profile.labels) for profile in profiles)
    if count > MOST_LABELS:
        raise CompileError(
            f"{count} labels in all profiles together; the kernel holds {MOST_LABELS}"
        )


def _check_host(profiles: Iterable[Profile], host: HostFeatures, *, observe: bool) -> None:
    if observe:
        return
    if host.landlock_abi < LANDLOCK_ABI_TRUNCATE:
        raise CompileError(
            f"file rules need Landlock ABI {LANDLOCK_ABI_TRUNCATE}"
            f" and this kernel has {host.landlock_abi}"
        )
    for profile in profiles:
        for rule in profile.network.unix if profile.network else ():
            if host.unix_hooks or (UNIX in profile.may_lack and host.view):
                continue
            origin = origins.make(profile, "network.unix", rule.path, rule.position)
            raise origins.error(
                origin,
                "this kernel cannot decide on the names of unix sockets (6.7 and later can)"
                + ("; `may_lack: [unix]` leaves it to what the view hides" if host.view else ""),
            )


def _left_to_view(profiles: Iterable[Profile], host: HostFeatures) -> bool:
    """Whether unix sockets are reached by what is visible: the kernel decides on no names."""
    return not host.unix_hooks and any(map(_lists_sockets, profiles))


def _lists_sockets(profile: Profile) -> bool:
    return profile.network is not None and bool(profile.network.unix)


def _policy(
    profile: Profile, variables: Variables, context: Context, host: HostFeatures, *, gated: bool
) -> Policy:
    rules, resolve = Rules(), context.resolve
    policy = Policy(
        profile=profile.name,
        digest=digest((profile,)),
        files=compile_files.file_rules(profile, variables, context.resolve),
        masks=compile_files.mask_rules(profile, variables, context.resolve),
        connect=compile_network.connect_table(profile, rules),
        bind=compile_network.bind_table(profile, rules),
        unix=compile_network.unix_rules(profile, variables, context.resolve, rules),
        sockets=compile_network.socket_rules(
            profile,
            unix=host.unix_hooks or (UNIX in profile.may_lack and _lists_sockets(profile)),
            netlink=_reads_routes(profile),
        ),
        names=compile_network.name_rules(profile, rules),
        expose=compile_network.expose_table(profile, rules),
        rules=rules.all(),
        asks=compile_labels.file_asks(profile, variables, resolve),
        exec=compile_labels.exec_rules(profile, variables, resolve, gated=gated),
        budgets=compile_labels.budgets(profile),
    )
    return compile_labels.with_labels(policy, profile, variables, resolve)


def _reads_routes(profile: Profile) -> bool:
    reads = compile_network.reads_routes(profile)
    if _syscalls_of(profile).preset != "strict":
        return reads
    if reads and profile.network is not None and profile.network.netlink is not None:
        place = profile.places.get("network.netlink")
        origin = origins.make(profile, "network.netlink", profile.network.netlink, place)
        raise origins.error(origin, "the preset `strict` closes it")
    return False


# -- the view -------------------------------------------------------------------------------------


def _view(policies: Sequence[Policy], *, own_terminals: bool, hide_sockets: bool) -> ViewPlan:
    listed = [{rule.path for rule in policy.unix} for policy in policies]
    named = sorted(set.intersection(*listed))
    return ViewPlan(
        own_proc=True,
        hide_run=True,
        own_terminals=own_terminals,
        read_only_rest=True,
        sockets=tuple(path for path in named if is_within(path, RUN)),
        hide_sockets=hide_sockets,
    )


def _without(
    profiles: Sequence[Profile],
    policies: Sequence[Policy],
    masked: frozenset[MaskRule],
    terminals: Sequence[FileRule],
) -> list[Policy]:
    """The policies less what only a view holds; CompileError where a profile insists on it."""
    for link, (profile, policy) in enumerate(zip(profiles, policies, strict=True)):
        if VIEW in profile.may_lack:
            continue
        held = [mask for mask in policy.masks if mask in masked]
        if held:
            raise _viewless(held[0].origin, "takes away inside what is granted")
        if terminals:
            raise _viewless(terminals[link].origin, "names the user's other terminals too")
    return [
        replace(policy, masks=tuple(mask for mask in policy.masks if mask not in masked))
        for policy in policies
    ]


def _viewless(origin: Origin, what: str) -> CompileError:
    return origins.error(
        origin,
        f"{what}, which needs a private mount namespace, and this host gives none to a session"
        " (`may_lack: [view]` goes without)",
    )


# -- the floor ------------------------------------------------------------------------------------


def _syscalls_of(profile: Profile) -> SyscallsSection:
    return profile.syscalls or SyscallsSection()


def _syscalls(
    profiles: Sequence[Profile], policies: Sequence[Policy], *, observe: bool
) -> SyscallPlan:
    sections = [_syscalls_of(profile) for profile in profiles]
    opened: list[set[str]] = [set(section.allow) for section in sections]
    strict = any(section.preset == "strict" for section in sections)
    return syscall_plan(
        _sockets(policies, observe=observe, strict=strict),
        # Where rules only observe, the floor still keeps to TCP and UDP, and lets them listen.
        listen=observe or all(map(compile_network.may_listen, profiles)),
        strict=strict,
        opened=set.intersection(*opened),
        denied=_denied(profiles),
    )


def _sockets(policies: Sequence[Policy], *, observe: bool, strict: bool) -> tuple[SocketRule, ...]:
    """What every policy lists; when observing, all that the network rules could ever list."""
    if observe:
        return compile_network.sockets_for((TCP, UDP), unix=True, netlink=not strict)
    others = [set(policy.sockets) for policy in policies[1:]]
    return tuple(rule for rule in policies[0].sockets if all(rule in listed for listed in others))


def _denied(profiles: Iterable[Profile]) -> list[tuple[str, Origin]]:
    found = []
    for profile in profiles:
        for index, name in enumerate(_syscalls_of(profile).deny):
            place = profile.places.get(f"syscalls.deny[{index}]")
            origin = origins.make(profile, "syscalls.deny", name, place)
            if name not in NUMBERS:
                raise origins.error(origin, "x86_64 has no such system call")
            found.append((name, origin))
    return found


# -- limits ---------------------------------------------------------------------------------------


def _limits(profiles: Iterable[Profile], ttl: int | None) -> Limits:
    sections = [profile.limits or LimitsSection() for profile in profiles]
    return Limits(
        ttl=_least(
            ttl, *(durations.seconds(each.ttl) for each in sections if each.ttl is not None)
        ),
        processes=_least(*(each.processes for each in sections)),
        files=_least(*(each.open_files for each in sections)),
        memory=_least(
            *(durations.octets(each.memory) for each in sections if each.memory is not None)
        ),
        # One that does not say so kills: what extends it must not let go on what it would end.
        on_expiry=max(
            (OnExpiry(each.on_expiry or OnExpiry.KILL) for each in sections),
            key=list(OnExpiry).index,
        ),
    )


def _least(*values: int | None) -> int | None:
    """The strictest of what is limited."""
    return min((value for value in values if value is not None), default=None)

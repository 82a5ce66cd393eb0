# SPDX-License-Identifier: Apache-2.0
"""Making a session: its cgroup with limits, its rows in the kernel, its place in the registry."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from monitor.daemon import arming, leases
from monitor.daemon.admission import Admitted, start_time
from monitor.daemon.names import by_name
from monitor.kernel.cgroup import Cgroup, instance_root, limits_are_unified
from monitor.kernel.peer import Peer
from monitor.policy.plan import Plan, RecordChoice
from monitor.policy.syscalls import NUMBERS
from monitor.session.session import Denial, Session
from monitor.wire.layout import SessionFlag

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context, LaunchRequest

# Processes and threads of a session whose profile sets no limit: a fork bomb ends there.
DEFAULT_PROCESSES = 4096


def put_in_force(
    context: Context, identity: str, caller: Peer, admitted: Admitted, request: LaunchRequest
) -> Session:
    """Make everything, or nothing: without a row the kernel refuses the cgroup everything."""
    plan, parent = admitted.plan, admitted.parent
    leased = parent if parent and context.sessions.leases.holds(parent) else None
    labels = sum(len(policy.labels) for policy in plan.policies)
    numbers = context.registry.next_policy_ids(len(plan.policies) + labels)
    launcher_start = start_time(caller.pid)
    root = instance_root(context.config.instance)
    cgroup = Cgroup((Path(parent.cgroup) if parent else root) / identity)
    cgroup.create(shared=admitted.depth > 0 and limits_are_unified())
    with contextlib.ExitStack() as undo:
        undo.callback(cgroup.remove)
        cgroup.limit(processes(context, plan, parent), plan.limits.memory)
        session = Session(
            id=identity,
            agent=admitted.agent,
            chain=admitted.chain,
            user=admitted.user.pw_name,
            uid=admitted.user.pw_uid,
            gid=admitted.user.pw_gid,
            profile=admitted.profile,
            digest=admitted.digest,
            purpose=admitted.purpose,
            workspace=admitted.workspace,
            created=time.time(),
            expires=admitted.expires,
            expires_boottime=boottime(admitted.expires, None if leased else parent),
            cgroup=str(cgroup.path),
            cgroup_id=cgroup.id,
            policies=numbers[: len(plan.policies)],
            plan=plan,
            launcher=caller.pid,
            launcher_start=launcher_start,
            labels=numbers[len(plan.policies) :],
            above=parent.policies if parent else (),
            above_labels=parent.labels if parent else (),
            parent=parent.id if parent else None,
            depth=admitted.depth,
            source="" if request.profile_text is None else request.profile_source,
        )
        session = leases.begun(session, request.lease, leased)
        context.sessions.conditions.require(session)
        install(context, session)
        undo.callback(context.tables.remove, session.cgroup_id)
        context.registry.add(session)
        undo.pop_all()
    context.names.begin(session)
    context.recording.wake()
    return session


def processes(context: Context, plan: Plan, parent: Session | None) -> int | None:
    """The limit in force; none where the profile sets none and the host cannot hold one.

    Inside another session, that one's holds anyway.
    """
    unasked = DEFAULT_PROCESSES if context.features.pids_limit and parent is None else None
    return plan.limits.processes or unasked


def install(context: Context, session: Session) -> None:
    """Put the session's rows in the kernel's tables. OSError E2BIG, ENOSPC: they are full."""
    whole = context.registry.whole(session)
    expires, flags = row_facts(context, session)
    context.tables.install(
        session.cgroup_id,
        list(zip(whole.policies, whole.plan.policies, strict=True)),
        expires,
        flags,
        whole.labels,
    )
    arming.again(context, session)


def row_facts(context: Context, session: Session) -> tuple[int, SessionFlag]:
    """The expiry and the flags of a session's row: what must hold all the time counts in."""
    expires, paused = context.sessions.conditions.row(session)
    flags = session_flags(session) | paused
    plan = context.registry.whole(session).plan
    if NUMBERS["execve"] in plan.syscalls.notified:
        flags |= SessionFlag.GATED
    if by_name(plan):
        flags |= SessionFlag.NAMES
    return expires, flags


def session_flags(session: Session) -> SessionFlag:
    """The flags of a session's row in the kernel's tables."""
    flags, plan = SessionFlag.NONE, session.plan
    if session.denied is Denial.REVOKED:
        flags |= SessionFlag.REVOKED
    if plan.observe:
        flags |= SessionFlag.OBSERVE
    if plan.records is RecordChoice.EVERY:
        flags |= SessionFlag.EVERY
    return flags


def boottime(expires: float | None, parent: Session | None) -> int:
    """A Unix time as CLOCK_BOOTTIME nanoseconds, 0 for None; never behind that of `parent`."""
    last = parent.expires_boottime if parent else 0
    if expires is None:
        return last
    left = int((expires - time.time()) * 1e9)
    ends = max(1, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + left)
    return min(ends, last) if last else ends

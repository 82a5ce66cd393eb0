# SPDX-License-Identifier: Apache-2.0
"""Making a session: its cgroup with limits, its rows in the kernel, its place in the registry."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from monitor.daemon.admission import Admitted, start_time
from monitor.kernel.cgroup import Cgroup, instance_root
from monitor.kernel.peer import Peer
from monitor.policy.plan import Plan, RecordChoice
from monitor.session.session import Denial, Session
from monitor.wire.layout import SessionFlag

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

# Processes and threads of a session whose profile sets no limit: a fork bomb ends there.
DEFAULT_PROCESSES = 4096


def put_in_force(context: Context, identity: str, caller: Peer, admitted: Admitted) -> Session:
    """Make everything, or nothing: without a row the kernel refuses the cgroup everything."""
    plan = admitted.plan
    numbers = context.registry.next_policy_ids(len(plan.policies))
    launcher_start = start_time(caller.pid)
    cgroup = Cgroup(instance_root(context.config.instance) / identity)
    cgroup.create()
    with contextlib.ExitStack() as undo:
        undo.callback(cgroup.remove)
        cgroup.limit(processes(context, plan), plan.limits.memory)
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
            expires_boottime=_boottime(admitted.expires),
            cgroup=str(cgroup.path),
            cgroup_id=cgroup.id,
            policies=numbers,
            plan=plan,
            launcher=caller.pid,
            launcher_start=launcher_start,
        )
        install(context, session)
        undo.callback(context.tables.remove, session.cgroup_id)
        context.registry.add(session)
        undo.pop_all()
    context.recording.wake()
    return session


def processes(context: Context, plan: Plan) -> int | None:
    """The limit in force; none where the profile sets none and the host cannot hold one."""
    unasked = DEFAULT_PROCESSES if context.features.pids_limit else None
    return plan.limits.processes or unasked


def install(context: Context, session: Session) -> None:
    """Put the session's rows in the kernel's tables. OSError E2BIG, ENOSPC: they are full."""
    context.tables.install(
        session.cgroup_id,
        list(zip(session.policies, session.plan.policies, strict=True)),
        session.expires_boottime,
        session_flags(session),
    )


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


def _boottime(expires: float | None) -> int:
    """A Unix time as CLOCK_BOOTTIME nanoseconds; 0 for None."""
    if expires is None:
        return 0
    left = int((expires - time.time()) * 1e9)
    return max(1, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + left)

# SPDX-License-Identifier: Apache-2.0
"""Sessions from their creation to their end: ties registry, kernel tables, cgroup and ending.

The launch channel uses, in this order: `create`, `attach`, `started`; and `end` at any time.
Everything up to the first `await` of a method happens at once, so that two callers cannot mix.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any

from monitor.daemon import ending
from monitor.daemon.admission import Admission, Admitted, start_time
from monitor.daemon.context import Context, LaunchRequest, Refused
from monitor.daemon.ending import EndingFailed, Step, Steps
from monitor.daemon.grants import Grants
from monitor.daemon.kept import LIFELINE
from monitor.daemon.notices import Notices
from monitor.daemon.revocation import Revocation
from monitor.kernel.cgroup import Cgroup, instance_root
from monitor.kernel.peer import Peer
from monitor.policy.action import Verb, Verdict
from monitor.policy.plan import OnExpiry, Plan, RecordChoice
from monitor.session.registry import UnknownSession
from monitor.session.session import Denial, Hold, IllegalTransition, Session, State, new_id
from monitor.wire.layout import SessionFlag

# Processes and threads of a session whose profile sets no limit: a fork bomb ends there.
DEFAULT_PROCESSES = 4096
RETRY_SECONDS = 5.0
STOPPED = "the daemon was stopped"
EXPIRED = "expired"
FROZEN_BY = {
    Hold.AUDIT: "is frozen because its records cannot be written; it runs on when they can",
    Hold.EXPIRY: "is frozen because its time is over: it can only be ended",
    Hold.PERSON: "was frozen by a person",
}


class Sessions:
    """The sessions of one worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.admission = Admission(context.config, context.host)
        self.grants = Grants(context.config, context.registry.ledger, self.admission)
        self.notices = Notices()
        self.revocation = Revocation(context, self.end, self.notices)
        self._ending: dict[str, asyncio.Task[list[Step]]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    # -- the launch channel --------------------------------------------------------------------

    async def create(self, caller: Peer, request: LaunchRequest) -> Session:
        """A session in LAUNCHING: cgroup, limits, tables and registry in place. Refused."""
        self._require_room(caller)
        identity = new_id()
        grant = None if request.grant is None else self.grants.admit(caller, request)
        admitted = self.admission.judge(caller, request, identity, grant)
        try:
            if grant is not None:
                # A launch that fails from here on has used it.
                self.grants.use(grant, identity)
            return self._put_in_force(identity, caller, admitted)
        except (OSError, ValueError, sqlite3.Error) as error:
            raise Refused(f"the session cannot be put in force: {error}") from error

    def attach(self, session: Session, connection: socket.socket) -> None:
        """Leave a copy of the session's lifeline with the keeper; its notices go there too."""
        self.context.kept.store(LIFELINE + session.id, connection.fileno())
        self.notices.attach(session.id, connection)

    def started(self, session: Session, pid: int, facts: dict[str, Any]) -> Session:
        """CMD may run as `pid`: `facts` (what was read back) go into session.launch. Refused."""
        recording, registry = self.context.recording, self.context.registry
        try:
            if registry.get(session.id).state is not State.LAUNCHING:
                raise Refused("the session was ended during its launch")
        except UnknownSession as error:
            raise Refused("the session was ended during its launch") from error
        plan = session.plan
        details = {
            "profile": session.profile,
            "digest": session.digest,
            "user": session.user,
            "purpose": session.purpose,
            "workspace": session.workspace,
            "expires": session.expires,
            "observe": plan.observe,
            "missing": list(plan.missing),
            "limits": asdict(plan.limits)
            | {"processes": self._processes(plan), "on_expiry": plan.limits.on_expiry.value},
        }
        blocks = registry.ledger.blocks(session.id)
        if blocks:
            details["grant"] = blocks
        recording.daemon_record(
            session, Verb.SESSION_LAUNCH, session.profile, details | facts, pid=pid
        )
        if plan.audit_required and recording.problem:
            raise Refused(
                f"the profile requires records, and they cannot be written: {recording.problem}"
            )
        try:
            return registry.started(session.id, pid)
        except (IllegalTransition, UnknownSession) as error:
            raise Refused(str(error)) from error

    async def end(self, session: Session, why: str) -> list[Step]:
        """Take the session down, whatever state it is in; waits where another call does it.

        EndingFailed, OSError: something of it cannot be taken away; it is tried again by itself,
        and until then the session stays denied everything.
        """
        task = self._ending.get(session.id)
        if task is None:
            try:
                self.context.registry.get(session.id)
            except UnknownSession:
                return []
            task = asyncio.create_task(self._end(session.id, why))
            self._ending[session.id] = task
        return await asyncio.shield(task)

    # -- control -------------------------------------------------------------------------------

    async def freeze(self, session: Session, hold: Hold, why: str, by: str) -> list[Step]:
        """Stop every process of a running session. IllegalTransition; OSError."""
        registry, steps = self.context.registry, Steps()
        now = registry.get(session.id)
        if now.state is State.FROZEN and now.hold is Hold.AUDIT and hold is Hold.PERSON:
            # The person's hold outlasts the daemon's own.
            registry.hold(session.id, hold, why)
        else:
            registry.move(session.id, State.FROZEN, hold=hold, why=why)
        await ending.freeze(session, steps)
        self._state_record(session, "frozen", why, by, steps)
        return steps.done

    async def thaw(self, session: Session, hold: Hold, why: str, by: str) -> list[Step]:
        """Let a session that `hold` has frozen run on. IllegalTransition; OSError."""
        registry, steps = self.context.registry, Steps()
        now = registry.get(session.id)
        if now.hold is not None and now.hold is not hold:
            raise IllegalTransition(f"session {session.id} {FROZEN_BY[now.hold]}")
        if self._needs_audit(now) and self.context.recording.problem:
            registry.hold(session.id, Hold.AUDIT, "its records cannot be written")
            self._state_record(session, "frozen", "its records cannot be written", by, steps)
            return steps.done
        registry.move(session.id, State.RUNNING, why=why)
        await ending.thaw(session, steps)
        self._state_record(session, "thawed", why, by, steps)
        return steps.done

    async def kill(self, session: Session, why: str, by: str) -> list[Step]:
        """End a session on somebody's word."""
        self._state_record(session, "killed", why, by, Steps())
        return await self.end(session, f"killed by {by}" + (f": {why}" if why else ""))

    async def hold_for_audit(self) -> None:
        """Freeze the running sessions whose profiles let nothing happen unrecorded."""
        for session in self.context.registry.live():
            if self._needs_audit(session) and session.state is State.RUNNING:
                with contextlib.suppress(OSError, IllegalTransition, UnknownSession):
                    await self.freeze(
                        session, Hold.AUDIT, "its records cannot be written", "the daemon"
                    )

    async def release_from_audit(self) -> None:
        """Thaw what `hold_for_audit` froze."""
        for session in self.context.registry.live():
            if session.state is State.FROZEN and session.hold is Hold.AUDIT:
                with contextlib.suppress(OSError, IllegalTransition, UnknownSession):
                    await self.thaw(session, Hold.AUDIT, "records are written", "the daemon")

    def expire(self) -> None:
        """What follows for sessions whose time is over; the kernel denies them the network."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for session in self.context.registry.live():
            if not 0 < session.expires_boottime <= now or session.state is State.ENDING:
                continue
            follows = session.plan.limits.on_expiry
            if session.state is State.LAUNCHING:
                follows = OnExpiry.KILL
            if follows is OnExpiry.DENY and not session.denied:
                self._expired(
                    self.context.registry.deny(session.id, Denial.EXPIRED, EXPIRED), follows
                )
                self._soon(self._cut(session))
            elif follows is OnExpiry.FREEZE and session.hold is not Hold.EXPIRY:
                self._expired(session, follows)
                self._freeze_for_good(session)
            elif follows is OnExpiry.KILL:
                self._expired(session, follows)
                self.end_soon(session, EXPIRED)

    def _expired(self, session: Session, follows: OnExpiry) -> None:
        details = {"by": "the daemon", "then": follows.value}
        kills = follows is OnExpiry.KILL
        self.context.recording.daemon_record(
            session,
            Verb.SESSION_STATE,
            EXPIRED,
            details,
            verdict=Verdict.KILL if kills else Verdict.DENY,
        )
        if not kills:
            self.notices.revoked(session.id, EXPIRED)

    def _freeze_for_good(self, session: Session) -> None:
        """Hold a session itself, whoever else has frozen it."""
        registry = self.context.registry
        if session.state is State.FROZEN:
            registry.hold(session.id, Hold.EXPIRY, EXPIRED)
        else:
            registry.move(session.id, State.FROZEN, hold=Hold.EXPIRY, why=EXPIRED)

        async def act() -> None:
            with contextlib.suppress(OSError):
                await ending.freeze(session, Steps())
            await self._cut(session)

        self._soon(act())

    async def _cut(self, session: Session) -> None:
        """Destroy what is open; where that cannot be, no packet leaves it all the same."""
        try:
            await ending.cut(session, Steps())
        except OSError as error:
            print(f"ri-monitord: cannot cut session {session.id}: {error}", file=sys.stderr)

    def end_soon(self, session: Session, why: str) -> None:
        """Have the session ended without waiting for it."""
        self._soon(self.end(session, why))

    def _soon(self, action: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.ensure_future(action)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[Any]) -> None:
        """The outcome was told where it happened."""
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()

    async def stop(self) -> None:
        """End every session: the daemon is being stopped, and nobody would watch over them.

        Their lifelines close with the keeper, so the next daemon would end them anyway, but with
        no record of what they did in between.
        """
        live = self.context.registry.live()
        await asyncio.gather(*(self.end(each, STOPPED) for each in live), return_exceptions=True)

    # ------------------------------------------------------------------------------------------

    def _require_room(self, caller: Peer) -> None:
        limits = self.context.config.limits
        live = self.context.registry.live()
        if len(live) >= limits.sessions:
            raise Refused(f"{len(live)} sessions run already, which is this host's limit")
        # On their behalf, or as them under somebody's grant.
        own = sum(caller.uid in {each.chain.principal.uid, each.uid} for each in live)
        if own >= limits.per_user and caller.uid != 0:
            raise Refused(
                f"{own} of your sessions run already, which is the limit for one user",
                "rictl ps shows them",
            )

    def _put_in_force(self, identity: str, caller: Peer, admitted: Admitted) -> Session:
        """Make everything, or nothing: without a row the kernel refuses the cgroup everything."""
        context, plan = self.context, admitted.plan
        numbers = context.registry.next_policy_ids(len(plan.policies))
        launcher_start = start_time(caller.pid)
        cgroup = Cgroup(instance_root(context.config.instance) / identity)
        cgroup.create()
        with contextlib.ExitStack() as undo:
            undo.callback(cgroup.remove)
            cgroup.limit(self._processes(plan), plan.limits.memory)
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
            self.install(session)
            undo.callback(context.tables.remove, session.cgroup_id)
            context.registry.add(session)
            undo.pop_all()
        context.recording.wake()
        return session

    def _processes(self, plan: Plan) -> int | None:
        """The limit in force; none where the profile sets none and the host cannot hold one."""
        unasked = DEFAULT_PROCESSES if self.context.features.pids_limit else None
        return plan.limits.processes or unasked

    def install(self, session: Session) -> None:
        """Put the session's rows in the kernel's tables. OSError E2BIG, ENOSPC: they are full."""
        self.context.tables.install(
            session.cgroup_id,
            list(zip(session.policies, session.plan.policies, strict=True)),
            session.expires_boottime,
            session_flags(session),
        )

    async def _end(self, identity: str, why: str) -> list[Step]:
        context = self.context
        session = context.registry.get(identity)
        steps = Steps()
        lost = 0

        async def settle() -> None:
            nonlocal lost
            lost = await context.recording.settle(session)

        self.notices.ending(identity, why)
        try:
            if session.state is not State.ENDING:
                session = context.registry.move(identity, State.ENDING, why=why)
            await ending.end(session, context.tables, settle, steps)
        except (EndingFailed, OSError) as error:
            print(f"ri-monitord: cannot end session {identity}: {error}", file=sys.stderr)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._again, session)
            raise
        else:
            details = {
                "why": session.why,
                "steps": [asdict(step) for step in steps.done],
                "counts": context.recording.counts(session),
                "lost": lost,
            }
            context.recording.daemon_record(session, Verb.SESSION_END, session.why, details)
            context.registry.move(identity, State.ENDED)
            context.recording.forget(session)
            with contextlib.suppress(OSError):
                context.kept.drop(LIFELINE + identity)
            self.notices.end(identity)
            return steps.done
        finally:
            self._ending.pop(identity, None)

    def _again(self, session: Session) -> None:
        self.end_soon(session, session.why)

    def _state_record(self, session: Session, state: str, why: str, by: str, steps: Steps) -> None:
        details = {
            "why": why,
            "by": by,
            "steps": [asdict(step) for step in steps.done],
        }
        verdict = Verdict.KILL if state == "killed" else Verdict.ALLOW
        self.context.recording.daemon_record(
            session, Verb.SESSION_STATE, state, details, verdict=verdict, reason=why
        )

    @staticmethod
    def _needs_audit(session: Session) -> bool:
        return session.plan.audit_required


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

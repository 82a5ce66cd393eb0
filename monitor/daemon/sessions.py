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
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monitor.daemon import creation, ending
from monitor.daemon.admission import Admission, Admitted
from monitor.daemon.conditions import Conditions
from monitor.daemon.context import Context, LaunchRequest, Refused
from monitor.daemon.ending import EndingFailed, Step, Steps
from monitor.daemon.grants import Grants
from monitor.daemon.holds import Holds
from monitor.daemon.kept import LIFELINE
from monitor.daemon.leases import Leases
from monitor.daemon.notices import Notices
from monitor.daemon.opens import Opening
from monitor.daemon.packets.facts import Counters
from monitor.daemon.reload import Reload
from monitor.daemon.revocation import Revocation
from monitor.identity.grant import Grant
from monitor.kernel.cgroup import Cgroup
from monitor.kernel.peer import Peer
from monitor.policy.action import Verb
from monitor.session.registry import UnknownSession
from monitor.session.session import IllegalTransition, Session, State, new_id

RETRY_SECONDS = 5.0
STOPPED = "the daemon was stopped"


class Sessions:
    """The sessions of one worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.admission = Admission(context.config, context.host)
        self.grants = Grants(context.config, context.registry.ledger, self.admission)
        self.notices = Notices()
        self.holds = Holds(context, self.notices, self.end_soon, self._soon)
        self.revocation = Revocation(context, self.end, self.notices)
        self.conditions = Conditions(context, self.holds, self.notices, self.end_soon, self._soon)
        self.leases = Leases(context)
        self.reload = Reload(context, self.notices, self._soon)
        context.opens = Opening(context, self.end_soon, self._soon)
        self._ending: dict[str, asyncio.Task[list[Step]]] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    # -- the launch channel --------------------------------------------------------------------

    async def create(
        self, caller: Peer, request: LaunchRequest, parent: Session | None = None
    ) -> Session:
        """A session in LAUNCHING: cgroup, limits, tables and registry in place. Refused.

        `parent`: the session that the caller is a process of.
        """
        self._require_room(caller, parent)
        identity = new_id()
        grant = None if request.grant is None else self.grants.admit(caller, request)
        if parent is None:
            admitted = self.admission.judge(caller, request, identity, grant)
        else:
            admitted = self._judge_inside(caller, request, identity, grant, parent)
        try:
            if grant is not None:
                # A launch that fails from here on has used it.
                self.grants.use(grant, identity)
            return creation.put_in_force(self.context, identity, caller, admitted, request)
        except (OSError, ValueError, sqlite3.Error) as error:
            raise Refused(f"the session cannot be put in force: {error}") from error

    def _judge_inside(
        self,
        caller: Peer,
        request: LaunchRequest,
        identity: str,
        grant: Grant | None,
        parent: Session,
    ) -> Admitted:
        from monitor.daemon import nesting

        registry = self.context.registry
        whole, blocks = registry.whole(parent), registry.ledger.blocks(parent.id)
        last = parent.until if self.leases.holds(parent) else parent.expires
        return nesting.judge(self.admission, caller, request, identity, whole, last, grant, blocks)

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
        plan, parent = session.plan, self._parent(session)
        details = {
            "profile": session.profile,
            "digest": session.digest,
            "user": session.user,
            "purpose": session.purpose,
            "workspace": session.workspace,
            "expires": session.expires,
            "observe": plan.observe,
            "missing": [*plan.missing, *facts.pop("missing", ())],
            "limits": asdict(plan.limits)
            | {
                "processes": creation.processes(self.context, plan, parent),
                "on_expiry": plan.limits.on_expiry.value,
            },
        }
        details |= {"depth": session.depth} if session.depth else {}
        details |= {"inside": session.parent} if session.parent else {}
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

    async def kill(self, session: Session, why: str, by: str) -> list[Step]:
        """End a session on somebody's word."""
        self.holds.state_record(session, "killed", why, by, Steps())
        return await self.end(session, f"killed by {by}" + (f": {why}" if why else ""))

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

    def _parent(self, session: Session) -> Session | None:
        return None if session.parent is None else self.context.registry.get(session.parent)

    def _require_room(self, caller: Peer, parent: Session | None) -> None:
        limits = self.context.config.limits
        live = self.context.registry.live()
        if len(live) >= limits.sessions:
            raise Refused(f"{len(live)} sessions run already, which is this host's limit")
        if parent is not None:
            self._require_room_inside(live, parent)
            return
        # Those inside others have a limit of their own: they take no room from their user.
        live = tuple(each for each in live if each.parent is None)
        # On their behalf, or as them under somebody's grant.
        own = sum(caller.uid in {each.chain.principal.uid, each.uid} for each in live)
        if own >= limits.per_user and caller.uid != 0:
            raise Refused(
                f"{own} of your sessions run already, which is the limit for one user",
                "rictl ps shows them",
            )

    def _require_room_inside(self, live: Sequence[Session], parent: Session) -> None:
        limits = self.context.config.limits
        inside = sum(each.parent == parent.id for each in live)
        if inside >= limits.per_session:
            raise Refused(f"{inside} sessions run in this one already, which is the limit")
        own = sum(each.parent is not None and each.uid == parent.uid for each in live)
        if own >= limits.per_user:
            raise Refused(
                f"{own} sessions run inside your others already, which is the limit for one user",
            )

    async def _end_inside(self, session: Session) -> None:
        """Take down the sessions that run in this one; all of them lose their rights first."""
        context = self.context
        inside = context.registry.beneath(session.id)
        if not inside:
            return
        for each in (session, *inside):
            ending.refuse(each, context.tables)
        with contextlib.suppress(FileNotFoundError):
            Cgroup(Path(session.cgroup)).freeze()
        why = f"session {session.id}, which it ran in, ended: {session.why}"
        await asyncio.gather(*(self.end(each, why) for each in inside))

    async def _end(self, identity: str, why: str) -> list[Step]:
        context = self.context
        session = context.registry.get(identity)
        steps = Steps()
        lost = 0
        counted: Counters | None = None

        async def settle() -> None:
            nonlocal lost, counted
            # What the gate said of it is recorded before its end is.
            await context.gates.caught_up()
            context.names.told(identity)
            lost = await context.recording.settle(session)
            counted = await context.packets.counters(identity)

        self.notices.ending(identity, why)
        try:
            if session.state is not State.ENDING:
                session = context.registry.move(identity, State.ENDING, why=why)
            await self._end_inside(session)
            await ending.end(
                session, context.tables, settle, steps, lambda: context.packets.remove(identity)
            )
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
            if counted is not None:
                details["packets"] = counted.summary()
            context.recording.daemon_record(session, Verb.SESSION_END, session.why, details)
            context.registry.move(identity, State.ENDED)
            context.recording.forget(session)
            context.opens.ended(identity)
            context.gates.ended(identity)
            context.names.ended(identity)
            self.conditions.forget(identity)
            self.leases.forget(identity)
            with contextlib.suppress(OSError):
                context.kept.drop(LIFELINE + identity)
            self.notices.end(identity)
            return steps.done
        finally:
            self._ending.pop(identity, None)

    def _again(self, session: Session) -> None:
        self.end_soon(session, session.why)

# SPDX-License-Identifier: Apache-2.0
"""Live change of profiles: read anew, compared, and put in force in the sessions that run.

On somebody's word (`rictl reload`), or when the files of a profile have changed and stayed the same
for a moment. What cannot be used changes nothing, and is said with its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monitor.daemon import cutting
from monitor.daemon.notices import Notices
from monitor.daemon.reading import Asked, Found, Look, Reading, Stamp
from monitor.daemon.switching import Gone, NotSwitched, Switching
from monitor.policy.action import Verb
from monitor.session.registry import Change, UnknownSession
from monitor.session.session import Session, State

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

# Ticks between two looks at the files.
EVERY = 4
WATCHER = "the daemon"


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of one session. `problem`: why it stays under its old plan.

    `pending`: what the new profile takes away and the session keeps. `cut`: sockets.
    """

    found: Found
    cut: int = 0
    pending: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """`problems` are those of files, a line each."""

    sessions: tuple[Changed, ...]
    problems: tuple[str, ...]


class Reload:
    """Of one worker. `soon` has something done without waiting for it."""

    def __init__(
        self,
        context: Context,
        notices: Notices,
        soon: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        self.context = context
        self.switching = Switching(context)
        self.problems: tuple[str, ...] = ()  # of files, as they were read last
        self._notices = notices
        self._soon = soon
        self._reading = Reading(context.config, context.host)
        self._lock = asyncio.Lock()
        self._ticks = 0
        self._stamp: Stamp | None = None
        self._read: Stamp | None = None  # of the files whose problems are told
        self._looked: dict[str, Stamp] = {}  # sessions, by the files that they were held against

    # -- watching ------------------------------------------------------------------------------

    def tick(self) -> None:
        """Look whether files have changed, and have it carried out when they rest."""
        self._ticks += 1
        if self._ticks % EVERY or self._lock.locked():
            return
        stamp = self._reading.stamp()
        # One that is being written is read when it has been the same twice.
        rests, self._stamp = stamp == self._stamp, stamp
        if not rests:
            return
        live = self._sessions()
        self._looked = {each.id: self._looked.get(each.id, ()) for each in live}
        new = [each for each in live if self._looked[each.id] != stamp]
        if new or self._read != stamp:
            self._soon(self.carry_out(WATCHER, new))

    # -- on somebody's word --------------------------------------------------------------------

    async def look(self, name: str | None = None) -> Look:
        """What reloading would do, for all sessions or those of the profile `name`."""
        async with self._lock:
            return await self._look(self._sessions(name), everything=name is None)

    async def carry_out(self, by: str, sessions: Sequence[Session] | None = None) -> Reloaded:
        """Put in force what the files say by now, in `sessions` or all."""
        async with self._lock:
            stamp = self._reading.stamp()
            asked = self._sessions() if sessions is None else sessions
            look = await self._look(asked, everything=True)
            self._tell(look.problems)
            self._read = stamp
            for session in asked:
                self._looked[session.id] = stamp
            done = [await self._change(each, by) for each in look.found]
            return Reloaded(tuple(each for each in done if each is not None), look.problems)

    async def resume(self) -> None:
        """Finish what an earlier worker began: its rows are in force, and what was open is cut."""
        changes = self.context.registry.changes()
        for identity in dict.fromkeys(change.session for change in changes):
            with contextlib.suppress(UnknownSession):
                session = self.context.registry.get(identity)
                self.switching.let_run(session)
                await self.switching.files(session)
                self._record(session, WATCHER, {"resumed": True})
        await self._cut_all(changes)

    # ------------------------------------------------------------------------------------------

    def _sessions(self, name: str | None = None) -> list[Session]:
        """Sessions that run under a profile of this host's, which may have changed."""
        return [
            each
            for each in self.context.registry.live()
            if each.state in (State.RUNNING, State.FROZEN)
            and not each.source
            and (name is None or name in {policy.profile for policy in each.plan.policies})
        ]

    async def _look(self, sessions: Sequence[Session], *, everything: bool) -> Look:
        asked = [self._asked(each) for each in sessions]
        return await asyncio.to_thread(self._reading.look, asked, everything=everything)

    def _asked(self, session: Session) -> Asked:
        registry = self.context.registry
        links = session.chain.links
        granted = bool(registry.ledger.blocks(session.id))
        if session.parent is not None:
            links = links[len(registry.get(session.parent).chain.links) :]
        names = dict.fromkeys(link.profile for link in links) if granted else {session.profile: 0}
        return Asked(
            session=session,
            profiles=tuple(names),
            # Inside another it was bounded by that one's plan as it was.
            pinned=granted or session.parent is not None,
            earned=self.switching.earned(session),
        )

    def _tell(self, problems: tuple[str, ...]) -> None:
        """On standard error, where it is news."""
        for problem in problems:
            if problem not in self.problems:
                print(f"ri-monitord: {problem}", file=sys.stderr)
        self.problems = problems

    async def _change(self, found: Found, by: str) -> Changed | None:
        """None: the session ended meanwhile."""
        goes_to = found.in_force
        if goes_to is None:
            return self._unchanged(found, found.problem)
        session = found.session
        try:
            changed, begun = await self.switching.switch(session, goes_to, found.digest)
        except Gone:
            return None
        except NotSwitched as error:
            return self._unchanged(found, str(error))
        self.context.sessions.conditions.look([changed])
        cut = sum([await self._cut(each, cutting.PASSES[:1]) for each in begun])
        await self.switching.files(changed)
        pending = [*goes_to.pending, *self.switching.relimit(changed)]
        details = {
            "profile": changed.profile,
            "digest": {"from": session.digest, "to": found.digest},
            "changes": found.difference.to_dict(),
            "pending": pending,
            "cut": cut,
        }
        self._record(changed, by, details)
        self._notices.asked(changed.id, f"its profile {changed.profile} was changed by {by}")
        self._soon(self._cut_all(begun))
        return Changed(found, cut, tuple(pending))

    def _unchanged(self, found: Found, problem: str) -> Changed:
        print(f"ri-monitord: session {found.session.id} stays as it is: {problem}", file=sys.stderr)
        return Changed(found, problem=problem)

    def _record(self, session: Session, by: str, details: dict[str, Any]) -> None:
        self.context.recording.daemon_record(
            session, Verb.PROFILE_CHANGE, session.profile, {"by": by} | details
        )

    async def _cut_all(self, begun: Sequence[Change]) -> None:
        """Cut until nothing can be left, and then end the changes."""
        for change in begun:
            await self._cut(change, cutting.PASSES)
            self.context.registry.end_change(change)

    async def _cut(self, change: Change, passes: Sequence[float]) -> int:
        try:
            session = self.context.registry.get(change.session)
            return await self.switching.cut(session, change.before, passes)
        except UnknownSession:
            return 0
        except OSError as error:
            print(f"ri-monitord: cannot cut session {change.session}: {error}", file=sys.stderr)
            return 0

# SPDX-License-Identifier: Apache-2.0
"""Labels that sessions took on: told, recorded, and taken off by a person only.

What counts is the row in the kernel's map, which the programs and the gates write before the action
that earns a label returns. This tells of it: in a record, and to the agent's user. What is open and
lost is destroyed, so that programs need not wait for answers to packets that cannot leave. Gates
read the same map before each decision.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from monitor.daemon import cutting, ending
from monitor.daemon.ending import Step, Steps
from monitor.policy.action import Verb
from monitor.policy.plan import Label
from monitor.session.registry import UnknownSession
from monitor.session.session import IllegalTransition, Session, State
from monitor.wire.events import LabelEvent

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

REMEMBERED = 65536  # kernel ids; more than all live sessions can have


class UnknownLabel(LookupError):  # noqa: N818 - as UnknownSession
    """The session does not have the label."""


@dataclass(frozen=True, slots=True)
class Held:
    """A label of one link of a session. `number` is its kernel policy id.

    `own`: it is of the session itself; others are of those that it runs in. `since` is when it was
    earned in Unix seconds, 0: it was not.
    """

    label: Label
    link: int
    profile: str
    number: int
    own: bool
    since: float


class Labels:
    """Of the sessions of one worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._told: set[int] = set()  # kernel ids of labels whose earning was recorded
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self) -> None:
        """A worker starts: what was earned before it was recorded by another."""
        numbers = [each for session in self.context.registry.live() for each in session.labels]
        self._told |= self.context.tables.earned(numbers)

    def _tell_of(self, number: int) -> None:
        """Remember that a label is told of; those of sessions that ended are forgotten."""
        if len(self._told) >= REMEMBERED:
            live = self.context.registry.live()
            self._told &= {each for session in live for each in session.labels}
        self._told.add(number)

    # -- what a session has --------------------------------------------------------------------

    def every(self, session: Session) -> tuple[Held, ...]:
        """All labels that a live session can have, those of the sessions above it too."""
        return tuple(self._every(session))

    def _every(self, session: Session) -> Iterator[Held]:
        whole = self.context.registry.whole(session)
        numbers = iter(whole.labels)
        offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        above = set(whole.labels) - set(session.labels)
        for link, policy in enumerate(whole.plan.policies):
            for label in policy.labels:
                number = next(numbers, 0)
                since = self.context.tables.earned_at(number)
                when = 0.0 if since == 0 else (offset + since) / 1e9
                yield Held(label, link, policy.profile, number, number not in above, when)

    def held(self, session: Session) -> tuple[Held, ...]:
        """Those that it has."""
        return tuple(each for each in self._every(session) if each.since)

    def names(self, session: Session) -> tuple[str, ...]:
        """The names of those that it has, each once."""
        return tuple(dict.fromkeys(each.label.name for each in self.held(session)))

    # -- earning -------------------------------------------------------------------------------

    def earn(self, session: Session, name: str, why: str, *, pid: int = 0) -> bool:
        """Give a session the label called `name`; False: it was told before.

        Where a gate has written rows of the kernel's already, those are told of; else all links'
        labels of this name are earned. OSError: there is no room.
        """
        named = [each for each in self.every(session) if each.label.name == name]
        new = [each for each in named if each.number not in self._told]
        if not any(each.since for each in named):
            for each in new:
                self.context.tables.earn(each.number)
        else:
            new = [each for each in new if each.since]
        for each in new:
            self._tell_of(each.number)
            details = {"link": each.link, "why": why}
            self.context.recording.daemon_record(
                session, Verb.LABEL_EARN, name, details, reason=why, pid=pid
            )
        self._changed(session, new)
        return bool(new)

    def earned_by(self, event: LabelEvent) -> None:
        """The kernel says that a connection earned a label; its record is on its way."""
        session = self.context.registry.by_cgroup(event.cgroup)
        if session is None:
            return
        self._tell_of(event.policy)
        self._changed(session, [e for e in self.every(session) if e.number == event.policy])

    def _changed(self, session: Session, new: Iterable[Held]) -> None:
        names = frozenset(each.label.name for each in new)
        if not names:
            return
        numbers = {each.number for each in new}
        for each in self._concerned(numbers):
            self.context.names.labelled(each)
            self.context.sessions.notices.labelled(each.id, sorted(names))
            self._spawn(self._cut(each, names))

    def _concerned(self, numbers: set[int]) -> list[Session]:
        """The sessions that are held to these labels."""
        registry = self.context.registry
        return [each for each in registry.live() if numbers & set(registry.whole(each).labels)]

    async def _cut(self, session: Session, names: frozenset[str]) -> None:
        """Destroy what is open and lost; no packet leaves it all the same."""
        plan = self.context.registry.whole(session).plan
        now = frozenset(self.names(session))
        old, new = cutting.Rules(plan, now - names), cutting.Rules(plan, now)
        try:
            await cutting.cut(session.cgroup_id, old, new)
        except OSError as error:
            print(f"ri-monitord: cannot cut session {session.id}: {error}", file=sys.stderr)

    def _spawn(self, action: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- a person's word -----------------------------------------------------------------------

    async def remove(self, session: Session, name: str, why: str, by: str) -> list[Step]:
        """Take a label off a session, which is stopped meanwhile, and off those that run in it.

        UnknownLabel; IllegalTransition where it is ending; OSError.
        """
        registry, steps = self.context.registry, Steps()
        now = registry.get(session.id)
        if now.state not in (State.RUNNING, State.FROZEN):
            raise IllegalTransition(f"session {now.id} is {now.state.value}")
        found = [each for each in self.held(now) if each.label.name == name]
        own = [each for each in found if each.own]
        if not own:
            raise UnknownLabel(self._lacking(now, name, bool(found)))
        # Frozen already: whoever did that thaws it.
        running = now.state is State.RUNNING
        if running:
            await ending.freeze(now, steps)
        try:

            async def take_off() -> None:
                for each in own:
                    self.context.tables.unearn(each.number)
                    self._told.discard(each.number)

            await steps.run("remove", take_off)
            await self.context.opens.remark(now, [each.number for each in own])
            for each_session in self._concerned({each.number for each in own}):
                self.context.names.labelled(each_session)
            await self.context.packets.changed(now)
            details = {"by": by, "steps": [asdict(step) for step in steps.done]}
            self.context.recording.daemon_record(
                now, Verb.LABEL_REMOVE, name, details, reason=why or f"removed by {by}"
            )
        finally:
            if running and self._runs(now):
                await ending.thaw(now, steps)
        return steps.done

    def _runs(self, session: Session) -> bool:
        """Whether nobody has frozen or ended it meanwhile."""
        try:
            return self.context.registry.get(session.id).state is State.RUNNING
        except UnknownSession:
            return False

    def _lacking(self, session: Session, name: str, above: bool) -> str:
        if above:
            outer = self.context.registry.above(session)[-1].id
            return f"label {name} is of a session that {session.id} runs in: take it off {outer}"
        known = any(each.label.name == name for each in self._every(session))
        reason = "has not earned" if known else "knows no"
        return f"session {session.id} {reason} label {name[:80]}"

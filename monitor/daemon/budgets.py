# SPDX-License-Identifier: Apache-2.0
"""What follows when a budget is used up, as the session's profile says.

The kernel and the gates have refused what went past it already. Then: nothing more; the session is
frozen; or a person is asked whether it may use as much again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from monitor.audit.budgets import spent
from monitor.audit.record import Draft
from monitor.daemon import ending
from monitor.daemon.ending import Steps
from monitor.policy.plan import Reaction
from monitor.session.asks import Answer, Wanted
from monitor.session.registry import UnknownSession
from monitor.session.session import Hold, IllegalTransition, Session, State
from monitor.wire.layout import BudgetKind

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

# After a no.
QUIET_SECONDS = 60.0


class Budgets:
    """Of the sessions of one worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        # (kernel policy id, kind) -> until when nobody is asked again, by time.monotonic().
        self._asked: dict[tuple[int, BudgetKind], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def over(self, draft: Draft) -> None:
        """A record says that a budget refused something."""
        try:
            session = self.context.registry.get(draft.session)
            kind = BudgetKind[draft.details["budget"].upper()]
            link = int(draft.details["link"])
        except (UnknownSession, KeyError, ValueError):
            return
        whole = self.context.registry.whole(session)
        if link >= len(whole.policies) or whole.plan.observe:
            return
        reason = spent(kind, whole.plan.policies[link].budgets)
        match whole.plan.on_budget:
            case Reaction.FREEZE:
                self._spawn(self._freeze(session, reason))
            case Reaction.ASK:
                self._ask(session, link, whole.policies[link], kind, draft, reason)
            case _ if kind is BudgetKind.EGRESS:
                # Nothing leaves any more: programs need not wait for answers.
                self._spawn(self._cut(session))

    async def _freeze(self, session: Session, reason: str) -> None:
        with contextlib.suppress(UnknownSession, IllegalTransition, OSError):
            if self.context.registry.get(session.id).state is State.RUNNING:
                await self.context.sessions.holds.freeze(session, Hold.PERSON, reason, "the daemon")

    async def _cut(self, session: Session) -> None:
        try:
            await ending.cut(session, Steps())
        except OSError as error:
            print(f"ri-monitord: cannot cut session {session.id}: {error}", file=sys.stderr)

    def _ask(
        self, session: Session, link: int, policy: int, kind: BudgetKind, draft: Draft, reason: str
    ) -> None:
        """Have a person asked, once until they answered; what was refused stays refused."""
        place = policy, kind
        now = time.monotonic()
        if now < self._asked.get(place, 0.0):
            return
        # The others that are over say nothing any more.
        self._asked = {each: until for each, until in self._asked.items() if now < until}
        self._asked[place] = math.inf
        wanted = Wanted(
            session=session.id,
            link=link,
            verb=draft.verb,
            object=draft.object,
            argv=(),
            cwd="",
            rule=f"budgets: {kind.name.lower()}",
            why=f"{reason}: may it use as much again?",
            pid=draft.pid,
            exe=draft.exe,
            key=f"budget {kind.name.lower()}",
        )

        def answered(answer: Answer) -> None:
            if answer.allow:
                self._asked.pop(place, None)
                self.context.tables.refill(policy, kind)
            else:
                self._asked[place] = time.monotonic() + QUIET_SECONDS

        self.context.asks.raise_(wanted, answered)

    def _spawn(self, action: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

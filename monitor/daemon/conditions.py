# SPDX-License-Identifier: Apache-2.0
"""What must hold all the time: conditions of plans, and no signal from outside against a session.

Looked at every tick. While something does not hold, the session's row refuses everything (PAUSED),
which comes first; freezing or ending follow. The end of a time window stands in the row too, so
that the kernel closes it when no daemon is there to.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monitor.daemon import ending, figures
from monitor.daemon.context import Refused
from monitor.daemon.ending import Steps
from monitor.daemon.holds import Holds
from monitor.daemon.notices import Notices
from monitor.policy.action import Verb, Verdict
from monitor.policy.holding import Figures, Holding, holding, risk_reaction
from monitor.policy.plan import Conditions as Wanted
from monitor.policy.plan import Plan, Reaction
from monitor.session.registry import UnknownSession
from monitor.session.session import Hold, IllegalTransition, Session, State
from monitor.session.signal import Kind, Signal
from monitor.wire.layout import SessionFlag

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

BY = "the daemon"
FIGURES_SECONDS = 1.0
# The host's figures go up and down: what they closed opens when they have been well for so long.
RECOVERY_SECONDS = 2.0
# A row is written anew where its end is off by more than this.
EXACT_NS = 250_000_000
_ORDER = list(Reaction)
_NOTHING_WANTED = Wanted()


@dataclass(frozen=True, slots=True)
class Unmet:
    """Why a session may not act just now. `signal`: another system says so."""

    reaction: Reaction
    reason: str
    signal: bool = False
    host: bool = False


class Conditions:
    """Of the sessions of one worker. `end_soon`, `soon`: as of Holds."""

    def __init__(
        self,
        context: Context,
        holds: Holds,
        notices: Notices,
        end_soon: Callable[[Session, str], None],
        soon: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        self.context = context
        self.standing = context.registry.signals
        self._holds = holds
        self._notices = notices
        self._end_soon = end_soon
        self._soon = soon
        self._unmet: dict[str, Unmet] = {}
        self._well: dict[str, float] = {}  # sessions whose host is well again, and since when
        self._figures: tuple[float, Figures] | None = None

    # -- what the kernel is told ---------------------------------------------------------------

    def row(self, session: Session) -> tuple[int, SessionFlag]:
        """The expiry of the session's row, and PAUSED where something does not hold."""
        unmet, closes = self._judge(session)
        known = self._unmet.get(session.id)
        paused = unmet is not None or known is not None
        ends = _earlier(session.expires_boottime, closes)
        return ends, SessionFlag.PAUSED if paused else SessionFlag.NONE

    def require(self, session: Session) -> None:
        """Refused where a session that is about to start might do nothing."""
        unmet, _closes = self._judge(session)
        if unmet is not None:
            raise Refused(f"it may do nothing just now: {unmet.reason}")

    def holds_back(self, session: Session) -> bool:
        """Whether the session is to stay frozen, whoever thaws it."""
        known = self._unmet.get(session.id)
        return known is not None and known.reaction is Reaction.FREEZE

    def paused(self, session: Session) -> bool:
        """Whether everything is denied for as long as something does not hold."""
        return session.id in self._unmet

    # -- every tick ----------------------------------------------------------------------------

    def tick(self) -> None:
        """Look at every session, and do what follows from what is news."""
        self.look(self.context.registry.live())

    def look(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            if session.state in (State.LAUNCHING, State.ENDING):
                continue
            # A row that cannot be written stays; it is tried again in a moment.
            try:
                self._look(session)
            except OSError as error:
                print(f"ri-monitord: session {session.id}: {error}", file=sys.stderr)

    def forget(self, identity: str) -> None:
        """The session has ended."""
        self._unmet.pop(identity, None)
        self._well.pop(identity, None)
        for kind in Kind:
            self.standing.drop(f"session:{identity}", kind)

    def _look(self, session: Session) -> None:
        unmet, closes = self._judge(session)
        known = self._unmet.get(session.id)
        if unmet is None and known is None:
            if session.hold is Hold.CONDITION:  # as an earlier worker left it
                self._soon(self._thaw(session))
            if closes is None and not self._windows(session):
                return
        self._put_end(session, closes)
        if unmet is None and known is not None and known.host and not self._recovered(session):
            return
        if unmet is not None:
            self._well.pop(session.id, None)
        if (unmet and (unmet.reaction, unmet.signal)) == (known and (known.reaction, known.signal)):
            return
        if unmet is None:
            self._met(session)
        else:
            self._not_met(session, unmet)

    def _recovered(self, session: Session) -> bool:
        since = self._well.setdefault(session.id, time.monotonic())
        return time.monotonic() - since >= RECOVERY_SECONDS

    def _windows(self, session: Session) -> bool:
        return any(plan.conditions.windows for plan in self._plans(session))

    def _put_end(self, session: Session, closes: int | None) -> None:
        tables = self.context.tables
        row = tables.session(session.cgroup_id)
        if row is None:
            return
        ends = _earlier(session.expires_boottime, closes)
        if row.expires != ends and (
            not row.expires or not ends or abs(row.expires - ends) > EXACT_NS
        ):
            tables.set_expiry(session.cgroup_id, ends)

    # -- what follows --------------------------------------------------------------------------

    def _not_met(self, session: Session, unmet: Unmet) -> None:
        self.context.tables.add_flags(session.cgroup_id, SessionFlag.PAUSED)
        self._unmet[session.id] = unmet
        kills = unmet.reaction is Reaction.KILL
        self._record(session, "paused", unmet.reason, Verdict.KILL if kills else Verdict.DENY,
                     {"then": unmet.reaction.value})  # fmt: skip
        if kills:
            self._end_soon(session, unmet.reason)
            return
        self._notices.asked(
            session.id, f"everything is denied until it holds again: {unmet.reason}"
        )
        self._soon(self._stop(session, unmet))

    async def _stop(self, session: Session, unmet: Unmet) -> None:
        if unmet.reaction is Reaction.FREEZE:
            # One that a person holds stays theirs; it is held back when they let it go.
            with contextlib.suppress(OSError, IllegalTransition, UnknownSession):
                await self._holds.freeze(session, Hold.CONDITION, unmet.reason, BY)
        elif session.hold is Hold.CONDITION:
            await self._thaw(session)
        if unmet.signal:
            try:
                await ending.cut(session, Steps())
            except OSError as error:
                print(f"ri-monitord: cannot cut session {session.id}: {error}", file=sys.stderr)

    def _met(self, session: Session) -> None:
        del self._unmet[session.id]
        self._well.pop(session.id, None)
        self.context.tables.clear_flags(session.cgroup_id, SessionFlag.PAUSED)
        self._record(session, "resumed", "what must hold holds again", Verdict.ALLOW, {})
        self._notices.asked(session.id, "what must hold holds again: it may go on")
        if session.hold is Hold.CONDITION:
            self._soon(self._thaw(session))

    async def _thaw(self, session: Session) -> None:
        with contextlib.suppress(OSError, IllegalTransition, UnknownSession):
            await self._holds.thaw(session, Hold.CONDITION, "what must hold holds again", BY)

    def _record(
        self, session: Session, state: str, why: str, verdict: Verdict, more: dict[str, Any]
    ) -> None:
        self.context.recording.daemon_record(
            session,
            Verb.SESSION_STATE,
            state,
            {"why": why, "by": BY} | more,
            verdict=verdict,
            reason=why,
        )

    # -- judging -------------------------------------------------------------------------------

    def _plans(self, session: Session) -> list[Plan]:
        """Of the session and of those that it runs in."""
        return [each.plan for each in self.context.registry.above(session)] + [session.plan]

    def _judge(self, session: Session) -> tuple[Unmet | None, int | None]:
        """What does not hold, the strictest of it; and when a window closes, as boottime ns."""
        now = time.time()
        unmet: list[Unmet] = []
        closing: list[float] = []
        for plan in self._plans(session):
            wanted = plan.conditions
            if wanted == _NOTHING_WANTED:
                continue
            found = self._holding(wanted, now)
            if found.reason:
                unmet.append(Unmet(wanted.otherwise, found.reason, host=found.host))
            if found.until is not None:
                closing.append(found.until)
        unmet += _from_signals(session, self.standing.of(session))
        closes = None
        if closing and not any(not each.signal and not each.host for each in unmet):
            left = int((min(closing) - now) * 1e9)
            closes = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + max(left, 1)
        strictest = max(unmet, key=lambda each: _ORDER.index(each.reaction), default=None)
        return strictest, closes

    def _holding(self, wanted: Wanted, now: float) -> Holding:
        try:
            return holding(wanted, now, self._now_figures())
        except OSError as error:
            return Holding(f"conditions: the host's figures cannot be read: {error}", host=True)

    def _now_figures(self) -> Figures:
        moment = time.monotonic()
        if self._figures is None or moment - self._figures[0] > FIGURES_SECONDS:
            self._figures = moment, figures.figures()
        return self._figures[1]


def _from_signals(session: Session, signals: Iterable[Signal]) -> list[Unmet]:
    reactions = session.plan.reactions
    found = []
    for each in signals:
        match each.kind:
            case Kind.RISK:
                reaction, text = risk_reaction(reactions, each.score), f"risk score {each.score}"
            case Kind.ASSURANCE:
                reaction, text = reactions.assurance, "the assurance level went down"
            case _:
                reaction, text = reactions.revoked, "revoked elsewhere"
        if reaction is not Reaction.NOTHING:
            why = f": {each.why}" if each.why else ""
            found.append(Unmet(reaction, f"{each.subject}: {text}{why}", signal=True))
    return found


def _earlier(expires: int, closes: int | None) -> int:
    """The earlier of two moments in boottime ns; 0 and None: never."""
    if closes is None:
        return expires
    return min(expires, closes) if expires else closes

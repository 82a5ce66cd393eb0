# SPDX-License-Identifier: Apache-2.0
"""Asks of the running sessions: raised by gates, answered by people, programs or time.

One thread, no await: whoever answers first has answered. What an answer changes is committed, then
recorded, and only then does an action go on.
"""

from __future__ import annotations

import secrets
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from monitor.daemon.asks import outcomes, shown
from monitor.daemon.asks.approvers import Approvers
from monitor.daemon.asks.limits import Limits
from monitor.daemon.asks.reply import Reply
from monitor.daemon.asks.standing import StandingAnswers
from monitor.daemon.asks.telling import Telling
from monitor.daemon.context import Context
from monitor.policy.action import Verdict
from monitor.session.asks import Answer, Answered, Ask, How, Scope, Wanted
from monitor.session.docket import SHORTEST_REFERENCE, Closed, Docket, Place, Standing
from monitor.session.registry import UnknownSession
from monitor.session.session import Session

DATABASE = "state.db"  # the registry's
# Held on this host at a time; more are refused. Every one is a process that waits.
MOST_WAITING = 20_000


class UnknownAsk(LookupError):  # noqa: N818 - as UnknownSession
    """No ask, or more than one, answers to the reference."""


class AskOver(Exception):  # noqa: N818 - as Refused
    """The ask has been answered, or nothing waits for it any more."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What an answer did: `let` actions were answered; the others wait for the ask `more`."""

    ask: Ask
    answer: Answer
    let: int
    more: str


@dataclass(slots=True)
class _Open:
    """An ask and what waits for it. `reached`: somebody knows of it who may answer.

    `told`: this worker has told the approvers. `given_up` is when an ask ends that no gate raises
    again after a restart; 0: something waits.
    """

    ask: Ask
    waiters: dict[Answered, Wanted] = field(default_factory=dict)
    reached: bool = False
    told: bool = False
    given_up: int = 0

    @property
    def current(self) -> Ask:
        first = next(iter(self.waiters.values()), self.ask.wanted)
        return replace(self.ask, wanted=first, count=len(self.waiters))


class Asks:
    """The asks of one worker."""

    def __init__(self, context: Context) -> None:
        """sqlite3.Error where the database cannot be used."""
        self.context = context
        self.docket = Docket(context.config.state / DATABASE)
        self.standing = StandingAnswers(self.docket)
        self.approvers = Approvers(context.config, self)
        self.answered: Counter[tuple[str, str]] = Counter()  # (how, verdict) -> actions
        self._open: dict[str, _Open] = {}
        self._by_place: dict[Place, _Open] = {}
        self._held: dict[Answered, _Open] = {}
        self._limits = Limits()
        self.telling = Telling(context)
        given_up = outcomes.boottime() + outcomes.GRACE
        for ask in self.docket.waiting():
            # The worker before may have told somebody of it.
            self._keep(_Open(ask, reached=True, given_up=given_up))

    def close(self) -> None:
        """The worker ends; what waits is known to the next one."""
        self.approvers.close()
        self.telling.close()
        self.docket.close()

    # -- gates ---------------------------------------------------------------------------------

    def raise_(self, wanted: Wanted, answered: Answered) -> Ask:
        """Hold an action for an answer, which `answered` is called with, maybe at once.

        `answered` must be hashable and stand for one action only: ValueError where it waits
        already. After a restart, raising the same again finds the ask that stands.
        """
        if answered in self._held:
            raise ValueError("this action waits for an answer already")
        wanted = wanted.bounded()
        session = self._live(wanted.session)
        now = outcomes.boottime()
        none = Ask("", wanted, time.time(), now, now, "")
        answer = outcomes.over(session, now) or self._standing(none, session, now)
        open_ = self._by_place.get(wanted.place)
        if answer is None and open_ is None and session is not None:
            answer = self._limit(none, session, now)
            if answer is None:
                open_ = self._new(none, session)
        if answer is not None or open_ is None:
            self._hand(answered, answer or outcomes.refusal(How.OVER, "its session has ended"))
            return none
        open_.given_up = 0
        if not open_.told:
            open_.told = True
            self.approvers.ask(open_.ask.id)
        open_.waiters[answered] = wanted
        self._held[answered] = open_
        return open_.current

    def withdraw(self, ask: Ask, answered: Answered) -> None:
        """The held action is gone; where it was answered already, nothing happens.

        `ask` is what `raise_` gave back; meanwhile the action may wait for a later one.
        """
        open_ = self._held.pop(answered, None)
        if open_ is None:
            return
        open_.waiters.pop(answered, None)
        if not open_.waiters:
            self._settle([(open_, outcomes.refusal(How.GONE, "nothing waits for it any more"))])

    def detach(self, answered: Answered) -> None:
        """The gate that holds the action has died; the next one will raise it again.

        Until then the ask stands, and can be answered.
        """
        open_ = self._held.pop(answered, None)
        if open_ is None:
            return
        open_.waiters.pop(answered, None)
        if not open_.waiters:
            open_.given_up = outcomes.boottime() + outcomes.GRACE

    # -- answers -------------------------------------------------------------------------------

    def find(self, reference: str, visible: Callable[[Ask], bool]) -> Ask | Closed:
        """The ask whose id begins with `reference`, of those that are visible. UnknownAsk."""
        if len(reference) >= SHORTEST_REFERENCE:
            found: list[Ask | Closed] = [
                open_.current
                for identity, open_ in self._open.items()
                if identity.startswith(reference) and visible(open_.ask)
            ]
            # An older one is meant only where nothing waits that could be.
            found = found or [each for each in self.docket.closed(reference) if visible(each.ask)]
            if len(found) == 1:
                return found[0]
            if found:
                raise UnknownAsk(f"{len(found)} asks answer to {reference}: give more of the id")
        raise UnknownAsk(f"no ask {reference[:40]!r}")

    def open(self, reference: str, visible: Callable[[Ask], bool]) -> Ask:
        """`find` where only one that waits will do. AskOver."""
        found = self.find(reference, visible)
        if isinstance(found, Ask):
            return found
        ago = max(0, int(time.time() - found.answered))
        raise AskOver(f"ask {found.ask.id} was {found.answer.reason} ({ago} s ago)")

    def answer(self, identity: str, reply: Reply, how: How, by: str) -> Settled:
        """Answer an ask that waits, by its whole id. UnknownAsk; AskOver."""
        open_ = self._open.get(identity)
        if open_ is None:
            raise UnknownAsk(f"no ask {identity[:40]!r} waits")
        scope, now = reply.scope, outcomes.boottime()
        refused = outcomes.over(self._session(open_.ask), now)
        if refused is not None:
            raise AskOver(f"ask {open_.ask.id} is over: {refused.why}")
        expires = now + scope.seconds * outcomes.SECOND if scope.seconds is not None else 0
        answer = Answer(
            allow=reply.allow,
            how=how,
            by=by,
            why=reply.why,
            ask=open_.ask.id,
            uses=None if scope.uses is None else 1,
            expires=expires,
        )
        waiters = list(open_.waiters.items())
        # No is meant for all that wait; yes for as many as it says.
        rest = waiters[scope.uses :] if reply.allow and scope.uses is not None else []
        standing = outcomes.left_over(open_.ask, answer, scope, len(waiters), now)
        for waiter, _wanted in rest:
            del open_.waiters[waiter]
            del self._held[waiter]
        let, more = len(open_.waiters), ""
        if rest:
            # Before the others go on, so that the number of the next ask is in the record.
            more = secrets.token_hex(4)
        closed = self._close([(open_, answer)], scope, standing, more)
        if rest:
            self._again(more, rest)
        self._let_go(closed)
        return Settled(open_.ask, answer, let, more)

    def waits(self, identity: str) -> bool:
        """Whether an ask is open; by its whole id."""
        return identity in self._open

    def described(self, identity: str) -> dict[str, Any]:
        """An open ask as approvers get it, with what lets them answer later."""
        ask = self._open[identity].current
        return shown.ask_json(ask, self._session(ask), outcomes.boottime()) | {"token": ask.token}

    def reached(self, identities: Iterable[str]) -> None:
        """Somebody who may answer knows of these asks."""
        for identity in identities:
            open_ = self._open.get(identity)
            if open_ is not None:
                open_.reached = True

    def approver_failed(self, identity: str, approver: str, problem: str) -> None:
        """An approver crashed, hung or answered garbage: the action is held on for people."""
        open_ = self._open.get(identity)
        if open_ is not None:
            ask = open_.current
            self.telling.record(shown.failed(ask, self._session(ask), approver, problem))

    # -- time ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """End what is over: answers that came not, sessions that ended. Four times a second."""
        now = outcomes.boottime()
        closing = []
        for open_ in self._open.values():
            session = self._session(open_.ask)
            if (answer := outcomes.over(session, now)) is not None:
                closing.append((open_, answer))
            elif open_.ask.deadline <= now and session is not None:
                reached = open_.reached or self.approvers.asking(open_.ask.id)
                closing.append((open_, outcomes.timeout(session.plan.approval, reached)))
            elif 0 < open_.given_up <= now:
                closing.append((open_, outcomes.refusal(How.GONE, "nothing waits for it any more")))
        if closing:
            self._settle(closing)
        live = {session.id for session in self.context.registry.live()}
        self.standing.forget(live, now)
        for ask, answer, count in self._limits.forget(live, now):
            self.telling.record(shown.limited(ask, self._session(ask), answer, count))

    # -- what there is -------------------------------------------------------------------------

    def waiting(self) -> list[Ask]:
        """All asks that wait, oldest first."""
        return [open_.current for open_ in self._open.values()]

    def __len__(self) -> int:
        return len(self._open)

    @property
    def held(self) -> int:
        """Actions that are held."""
        return len(self._held)

    # ------------------------------------------------------------------------------------------

    def _session(self, ask: Ask) -> Session | None:
        """The session of an ask with the links above it, which `link` counts too."""
        session = self._live(ask.wanted.session)
        return None if session is None else self.context.registry.whole(session)

    def _live(self, identity: str) -> Session | None:
        try:
            return self.context.registry.get(identity)
        except UnknownSession:
            return None

    def _standing(self, none: Ask, session: Session | None, now: int) -> Answer | None:
        """What was answered before, where it holds for this action too."""
        answer = self.standing.answer(none.wanted.place, now)
        if answer is not None and answer.uses is not None:
            self.telling.record(shown.answered(none, session, answer, None, 0, ""))
        return answer

    def _limit(self, none: Ask, session: Session, now: int) -> Answer | None:
        """Refuse where there are too many asks; told once, and then counted."""
        if len(self._open) >= MOST_WAITING:
            why = f"{MOST_WAITING} asks wait on this host already"
        else:
            why = self._limits.problem(session.id, session.plan.approval.per_minute, now)
        if not why:
            return None
        answer = outcomes.refusal(How.LIMIT, why)
        if self._limits.refused(none, answer, now):
            self.telling.record(shown.limited(none, session, answer, 1))
        return answer

    def _new(self, none: Ask, session: Session, identity: str = "") -> _Open:
        approval = session.plan.approval
        while not identity or identity in self._open:
            identity = secrets.token_hex(4)
        ask = replace(
            none,
            id=identity,
            deadline=none.since + approval.timeout * outcomes.SECOND,
            token=secrets.token_urlsafe(24),
        )
        self.docket.add(ask)
        open_ = _Open(ask, told=True)
        self._keep(open_)
        self.telling.raised(ask, shown.raised(ask, session, approval.timeout))
        self.approvers.ask(ask.id)
        return open_

    def _again(self, identity: str, rest: list[tuple[Answered, Wanted]]) -> None:
        """Ask anew for what an answer did not reach to."""
        now = outcomes.boottime()
        wanted = rest[0][1]
        session = self._live(wanted.session)
        if session is None:
            for waiter, _wanted in rest:
                self._hand(waiter, outcomes.refusal(How.OVER, "its session has ended"))
            return
        open_ = self._new(Ask("", wanted, time.time(), now, now, ""), session, identity)
        open_.waiters.update(rest)
        self._held.update(dict.fromkeys(open_.waiters, open_))

    def _keep(self, open_: _Open) -> None:
        self._open[open_.ask.id] = open_
        self._by_place[open_.ask.wanted.place] = open_

    def _settle(self, closing: list[tuple[_Open, Answer]]) -> None:
        """Commit, record, and only then let go."""
        self._let_go(self._close(closing))

    def _close(
        self,
        closing: list[tuple[_Open, Answer]],
        scope: Scope | None = None,
        standing: Standing | None = None,
        more: str = "",
    ) -> list[tuple[_Open, Answer]]:
        """Commit and record; what waited is to be let go."""
        now = outcomes.boottime()
        closing = [(each, replace(answer, ask=each.ask.id)) for each, answer in closing]
        self.docket.settle([(each.ask.id, answer) for each, answer in closing], standing)
        if standing is not None:
            self.standing.add(standing)
        drafts = []
        for open_, answer in closing:
            ask = open_.current
            del self._open[ask.id]
            if self._by_place.get(ask.wanted.place) is open_:
                del self._by_place[ask.wanted.place]
            self.approvers.over(ask.id)
            held = (now - ask.since) / outcomes.SECOND
            drafts.append(shown.answered(ask, self._session(ask), answer, scope, held, more))
            # Whoever goes on may raise or withdraw others.
            for waiter in open_.waiters:
                del self._held[waiter]
        self.telling.record_now(drafts)
        return closing

    def _let_go(self, closed: list[tuple[_Open, Answer]]) -> None:
        for open_, answer in closed:
            self.telling.answered(open_.current, answer)
            for waiter in tuple(open_.waiters):
                self._hand(waiter, answer)

    def _hand(self, answered: Answered, answer: Answer) -> None:
        verdict = Verdict.ALLOW if answer.allow else Verdict.DENY
        self.answered[answer.how.value, verdict.value] += 1
        try:
            answered(answer)
        except Exception:  # one gate that fails must not keep the others waiting
            self.context.recording.faults += 1
            traceback.print_exc()

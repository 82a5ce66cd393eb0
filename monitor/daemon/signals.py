# SPDX-License-Identifier: Apache-2.0
"""Signals from other systems: whom they mean here, and what follows by the sessions' profiles.

A revocation is an order, carried out once. A risk score and an assurance level stand until a better
one comes: they count for sessions that start later as well (daemon/conditions).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from monitor.daemon import accounts
from monitor.daemon.context import Refused
from monitor.policy.action import Verb, Verdict
from monitor.policy.holding import risk_reaction
from monitor.policy.plan import Reaction
from monitor.session.order import Order, Then
from monitor.session.registry import UnknownSession
from monitor.session.session import Session, State
from monitor.session.signal import Kind, Signal
from monitor.session.signals import concerns

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

THEN = {Reaction.KILL: Then.KILL, Reaction.DENY: Then.DENY}


@dataclass(frozen=True, slots=True)
class Taken:
    """What a signal did: the reaction of each session concerned."""

    signal: Signal
    reactions: tuple[tuple[Session, Reaction], ...]


class Signals:
    """Of one worker."""

    def __init__(self, context: Context) -> None:
        self.context = context

    async def take(self, given: Signal, by: str) -> Taken:
        """Do what the profiles say, at once. UnknownSession: it means nobody here."""
        received = time.perf_counter()
        signal, sessions = self._meant(given)
        reactions = tuple((each, _reaction(signal, each)) for each in sessions)
        standing = self.context.registry.signals
        conditions = self.context.sessions.conditions
        match signal.kind:
            case Kind.REVOKED:
                self._stand_still(signal, reactions)
            case Kind.ASSURANCE if not signal.fell:
                standing.drop(signal.subject, signal.kind)
            case Kind.RISK if signal.score == 0:
                standing.drop(signal.subject, signal.kind)
            case _:
                standing.put(signal)
        conditions.look(sessions)
        self._record(signal, reactions, by)
        if signal.kind is Kind.REVOKED:
            await self._revoke(signal, reactions, by, received)
        else:
            for session in sessions:  # what is allowed again is so when this is answered
                await self.context.packets.changed(session)
        return Taken(signal, reactions)

    # -- whom it means -------------------------------------------------------------------------

    def _meant(self, given: Signal) -> tuple[Signal, list[Session]]:
        """The signal with its subject in full, and the live sessions that it is about."""
        registry = self.context.registry
        live = [each for each in registry.live() if each.state is not State.ENDING]
        kind, _, name = given.subject.partition(":")
        if kind == "session":
            session = registry.find(name, live)
            return replace(given, subject=f"session:{session.id}"), [
                session,
                *(each for each in registry.beneath(session.id) if each in live),
            ]
        found = [each for each in live if concerns(given.subject, each)]
        if not found and not self._may_come(kind, name, given.kind):
            raise UnknownSession(f"no live session of {given.subject}")
        return given, found

    def _may_come(self, kind: str, name: str, what: Kind) -> bool:
        """Whether what is said of a user counts for the sessions that they start next."""
        if kind != "user" or what is Kind.REVOKED:
            return False
        try:
            accounts.named(name)
        except Refused:
            return False
        return True

    # -- what follows --------------------------------------------------------------------------

    def _stand_still(self, signal: Signal, reactions: Sequence[tuple[Session, Reaction]]) -> None:
        """Sessions that are frozen by a revocation stay so; they can only be ended."""
        for session, reaction in reactions:
            if reaction is Reaction.FREEZE:
                own = replace(signal, subject=f"session:{session.id}")
                self.context.registry.signals.put(own)

    async def _revoke(
        self,
        signal: Signal,
        reactions: Sequence[tuple[Session, Reaction]],
        by: str,
        received: float,
    ) -> None:
        for reaction, then in THEN.items():
            named = tuple(session.id for session, each in reactions if each is reaction)
            if named:
                order = Order(named, (), then, by, signal.why or "a signal from outside")
                await self.context.sessions.revocation.carry_out(order, received)

    def _record(
        self, signal: Signal, reactions: Sequence[tuple[Session, Reaction]], by: str
    ) -> None:
        from monitor.daemon.recording import daemon_draft

        details: dict[str, Any] = {"by": by, "subject": signal.subject, "why": signal.why}
        details |= {"issuer": signal.issuer} if signal.issuer else {}
        details |= {"score": signal.score} if signal.kind is Kind.RISK else {}
        if signal.kind is Kind.ASSURANCE:
            details["direction"] = "decrease" if signal.fell else "increase"
        drafts = [
            daemon_draft(
                session,
                Verb.SIGNAL,
                signal.kind.value,
                details | {"then": reaction.value},
                verdict=_VERDICTS.get(reaction, Verdict.DENY),
                reason=signal.why,
            )
            for session, reaction in reactions
        ] or [daemon_draft(None, Verb.SIGNAL, signal.kind.value, details, reason=signal.why)]
        self.context.recording.record(drafts)


_VERDICTS = {Reaction.NOTHING: Verdict.ALLOW, Reaction.KILL: Verdict.KILL}


def _reaction(signal: Signal, session: Session) -> Reaction:
    reactions = session.plan.reactions
    match signal.kind:
        case Kind.REVOKED:
            return reactions.revoked
        case Kind.ASSURANCE:
            return reactions.assurance if signal.fell else Reaction.NOTHING
        case _:
            return risk_reaction(reactions, signal.score)

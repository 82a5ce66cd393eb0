# SPDX-License-Identifier: Apache-2.0
"""Leases: a session whose authority runs out in the kernel unless its launcher renews it.

The launcher sends `renew` on the lifeline; each puts the expiry a lease's length ahead, never past
what was delegated. Without the right or the grant behind the session there is no renewal, nor for
a launcher that is stopped or a daemon that is gone: then the kernel denies at the second it is due.

Sessions inside a lease never go past it: those that are none themselves follow each renewal.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from monitor.daemon import accounts
from monitor.daemon.context import Refused
from monitor.identity import delegations as rights
from monitor.identity.delegations import NotAuthorized
from monitor.policy.action import Verb, Verdict
from monitor.session.session import Session, State

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

SHORTEST = 3  # seconds: a launcher that waits its turn on a busy host still renews in time


class NotRenewed(Exception):
    """The session's authority does not go on; the message says why, in one line."""


def begun(session: Session, lease: int | None, above: Session | None) -> Session:
    """A new session as a lease: what it was to last is the latest that it can be renewed to.

    `lease` None: it is none. `above`: the session that it runs in, where that one is in a lease.
    """
    if lease is None and above is None:
        return session
    leased = replace(
        session, lease=lease or 0, until=session.expires, until_boottime=session.expires_boottime
    )
    return _ahead(leased, above)


def _ahead(session: Session, above: Session | None) -> Session:
    """The session with its expiry a lease's length from now, as far as that may be."""
    ends, expires = [session.until_boottime], [session.until]
    if session.lease:
        ends.append(time.clock_gettime_ns(time.CLOCK_BOOTTIME) + session.lease * 10**9)
        expires.append(time.time() + session.lease)
    if above is not None:
        ends.append(above.expires_boottime)
        expires.append(above.expires)
    return replace(
        session,
        expires=min((each for each in expires if each is not None), default=None),
        expires_boottime=min((each for each in ends if each), default=0),
    )


class Leases:
    """Renews the leases of one worker's sessions."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._refused: dict[str, str] = {}  # sessions whose renewal was refused, and why

    def over(self, session: Session) -> Session | None:
        """The session that this one runs in, where its expiry moves: in a lease, or one itself."""
        registry = self.context.registry
        above = registry.above(session)
        return above[-1] if any(each.lease for each in above) else None

    def holds(self, session: Session) -> bool:
        """Whether the expiry of this session moves."""
        return bool(session.lease) or self.over(session) is not None

    def renew(self, identity: str) -> None:
        """Put the expiry of a session ahead. NotRenewed; OSError: its row cannot be written."""
        session = self.context.registry.get(identity)
        if not session.lease:
            raise NotRenewed("the session is no lease")
        if session.denied is not None or session.state is State.ENDING:
            raise NotRenewed("its authority was taken back")
        if session.expires_boottime <= time.clock_gettime_ns(time.CLOCK_BOOTTIME):
            raise NotRenewed("the lease has run out")
        if self._full(session):
            return
        try:
            self._require_authority(session)
        except NotRenewed as error:
            self._record(session, str(error))
            raise
        self._refused.pop(identity, None)
        self._move(session)
        for each in self.context.registry.beneath(identity):
            if not each.lease:
                self._move(each)

    def _full(self, session: Session) -> bool:
        """Whether a renewal would hardly change anything: the launcher asks too often."""
        gained = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + session.lease * 10**9
        return gained - session.expires_boottime < SHORTEST * 10**8

    def _move(self, session: Session) -> None:
        """Put the expiry ahead, as far as the lease above goes by now."""
        ahead = _ahead(session, self.over(session))
        if ahead.expires_boottime > session.expires_boottime:
            # The kernel first: a later expiry on disk would be put in force by the next worker.
            ends, _paused = self.context.sessions.conditions.row(ahead)
            self.context.tables.set_expiry(session.cgroup_id, ends)
            self.context.registry.extend(ahead)

    def forget(self, identity: str) -> None:
        self._refused.pop(identity, None)

    def _record(self, session: Session, why: str) -> None:
        """Once for each reason: the launcher goes on asking."""
        if self._refused.get(session.id) == why:
            return
        self._refused[session.id] = why
        self.context.recording.daemon_record(
            session,
            Verb.SESSION_STATE,
            "not renewed",
            {"why": why, "by": "the daemon", "expires": session.expires},
            verdict=Verdict.DENY,
            reason=why,
        )
        self.context.sessions.notices.asked(
            session.id, f"the lease is not renewed, and ends in a moment: {why}"
        )

    def _require_authority(self, session: Session) -> None:
        """What the session was started by still stands: the grant, or a right of the user's own."""
        ledger = self.context.registry.ledger
        blocks = ledger.blocks(session.id)
        if any(ledger.revoked(each) for each in blocks):
            raise NotRenewed("the grant was revoked")
        outermost = next(iter((*self.context.registry.above(session), session)))
        if not ledger.blocks(outermost.id):
            self._require_right(outermost)

    def _require_right(self, session: Session) -> None:
        principal = session.chain.principal
        try:
            account = accounts.named(principal.name)
            if account.pw_uid != principal.uid:
                raise NotRenewed(f"user {principal.name} is another one now")
            self.context.sessions.admission.rights().authorize(
                rights.Request(
                    user=principal.name,
                    uid=principal.uid,
                    groups=accounts.groups(accounts.gids(account)),
                    profile=session.source or session.profile,
                    profile_file=bool(session.source),
                    agent=session.chain.links[0].delegate.partition("/agent/")[2],
                    observe=session.plan.observe,
                    ttl=None,
                    run_as=session.user,
                    depth=session.depth or None,
                )
            )
        except Refused as error:
            raise NotRenewed(error.reason) from error
        except NotAuthorized as error:
            raise NotRenewed(f"the right behind it is gone: {error}") from error

# SPDX-License-Identifier: Apache-2.0
"""What stops a session without ending it: a person's word, records not written, its expiry."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from monitor.daemon import ending
from monitor.daemon.ending import Step, Steps
from monitor.daemon.notices import Notices
from monitor.policy.action import Verb, Verdict
from monitor.policy.plan import OnExpiry
from monitor.session.registry import UnknownSession
from monitor.session.session import Denial, Hold, IllegalTransition, Session, State

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

EXPIRED = "expired"
FROZEN_BY = {
    Hold.AUDIT: "is frozen because its records cannot be written; it runs on when they can",
    Hold.EXPIRY: "is frozen because its time is over: it can only be ended",
    Hold.PERSON: "was frozen by a person",
    Hold.CONDITION: "is frozen because something that must hold does not; it runs on when it does",
}


class Holds:
    """Freezes and thaws the sessions of one worker, and says what follows when time is over.

    `end_soon` has a session ended, `soon` anything done, without waiting for it.
    """

    def __init__(
        self,
        context: Context,
        notices: Notices,
        end_soon: Callable[[Session, str], None],
        soon: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        self.context = context
        self.notices = notices
        self._end_soon = end_soon
        self._soon = soon

    async def freeze(self, session: Session, hold: Hold, why: str, by: str) -> list[Step]:
        """Stop every process of a running session. IllegalTransition; OSError."""
        registry, steps = self.context.registry, Steps()
        now = registry.get(session.id)
        own = (Hold.AUDIT, Hold.CONDITION)
        if now.state is State.FROZEN and now.hold in own and hold is Hold.PERSON:
            # The person's hold outlasts the daemon's own.
            registry.hold(session.id, hold, why)
        else:
            registry.move(session.id, State.FROZEN, hold=hold, why=why)
        await ending.freeze(session, steps)
        self.state_record(session, "frozen", why, by, steps)
        return steps.done

    async def thaw(self, session: Session, hold: Hold, why: str, by: str) -> list[Step]:
        """Let a session that `hold` has frozen run on. IllegalTransition; OSError."""
        registry, steps = self.context.registry, Steps()
        now = registry.get(session.id)
        if now.hold is not None and now.hold is not hold:
            raise IllegalTransition(f"session {session.id} {FROZEN_BY[now.hold]}")
        for outer in registry.above(now):
            if outer.state is State.FROZEN:
                raise IllegalTransition(
                    f"session {session.id} runs in session {outer.id}, which is frozen: thaw that"
                )
        if _needs_audit(now) and self.context.recording.problem:
            registry.hold(session.id, Hold.AUDIT, "its records cannot be written")
            self.state_record(session, "frozen", "its records cannot be written", by, steps)
            return steps.done
        if self.context.sessions.conditions.holds_back(now):
            why = "something that must hold does not"
            registry.hold(session.id, Hold.CONDITION, why)
            self.state_record(session, "frozen", why, by, steps)
            return steps.done
        registry.move(session.id, State.RUNNING, why=why)
        # Or what it does first is refused by rules that are about to change.
        await self.context.packets.changed(now)
        await ending.thaw(session, steps)
        self.state_record(session, "thawed", why, by, steps)
        return steps.done

    async def hold_for_audit(self) -> None:
        """Freeze the running sessions whose profiles let nothing happen unrecorded."""
        for session in self.context.registry.live():
            if _needs_audit(session) and session.state is State.RUNNING:
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
                self._end_soon(session, EXPIRED)

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

    def state_record(self, session: Session, state: str, why: str, by: str, steps: Steps) -> None:
        details = {
            "why": why,
            "by": by,
            "steps": [asdict(step) for step in steps.done],
        }
        verdict = Verdict.KILL if state == "killed" else Verdict.ALLOW
        self.context.recording.daemon_record(
            session, Verb.SESSION_STATE, state, details, verdict=verdict, reason=why
        )


def _needs_audit(session: Session) -> bool:
    return session.plan.audit_required

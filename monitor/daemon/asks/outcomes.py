# SPDX-License-Identifier: Apache-2.0
"""What becomes of an ask that no person answers, and what is left of an answer. Pure."""

from __future__ import annotations

import time

from monitor.policy.action import Verdict
from monitor.policy.plan import Approval
from monitor.session.asks import Answer, Ask, How, Scope
from monitor.session.docket import Standing
from monitor.session.session import Session, State

SECOND = 1_000_000_000  # nanoseconds
# After a restart: how long an ask stands that no gate has raised again.
GRACE = 15 * SECOND
THE_DAEMON = "the daemon"


def boottime() -> int:
    """A clock that nobody sets, and that runs while the host sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def refusal(how: How, why: str) -> Answer:
    return Answer(False, how, THE_DAEMON, why)


def over(session: Session | None, now: int) -> Answer | None:
    """The refusal where a session has no authority left to ask for."""
    if session is None or session.state is State.ENDING:
        return refusal(How.OVER, "its session has ended")
    if session.denied is not None:
        return refusal(How.OVER, f"its session is {session.denied.value}")
    if 0 < session.expires_boottime <= now:
        return refusal(How.OVER, "its session has expired")
    return None


def timeout(approval: Approval, reached: bool) -> Answer:
    """The answer when time is up; `reached`: somebody knew of the ask who might have answered."""
    if reached:
        return refusal(How.TIMEOUT, f"nobody answered within {approval.timeout} s")
    allow = approval.fallback is Verdict.ALLOW
    return Answer(allow, How.FALLBACK, "the profile's ask_fallback", "nobody could be asked")


def left_over(ask: Ask, answer: Answer, scope: Scope, waiters: int, now: int) -> Standing | None:
    """What is left of an answer for later actions, when `waiters` have had it."""
    left, expires = None, answer.expires
    if scope.uses is not None:
        left = scope.uses - waiters
        if left <= 0:
            return None
        if scope.uses == 1:
            # Its action is held, but no gate has raised it again after the restart.
            expires = now + GRACE
    return Standing(ask.wanted.place, answer.allow, answer.by, answer.why, ask.id, left, expires)

# SPDX-License-Identifier: Apache-2.0
"""Asks as the API and approvers see them, and as they stand in the log. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from monitor.audit.record import Draft
from monitor.daemon.asks.outcomes import SECOND
from monitor.daemon.recording import daemon_draft
from monitor.policy.action import Verb, Verdict
from monitor.session.asks import Answer, Ask, How, Scope
from monitor.session.docket import Closed
from monitor.session.session import Session


def ask_json(ask: Ask, session: Session | None, now: int) -> dict[str, Any]:
    """An ask that waits; `session` with the links above it, `now` in CLOCK_BOOTTIME.

    `raised` is in Unix seconds, `left` in seconds.
    """
    wanted = ask.wanted
    return {
        "id": ask.id,
        "session": wanted.session,
        "agent": session.agent if session else "",
        "chain": list(session.chain.names()) if session else [],
        "user": session.user if session else "",
        "purpose": session.purpose if session else "",
        "workspace": session.workspace if session else "",
        "link": wanted.link,
        "profile": _profile(ask, session),
        "verb": wanted.verb.value,
        "object": wanted.object,
        "argv": list(wanted.argv),
        "cwd": wanted.cwd,
        "pid": wanted.pid,
        "exe": wanted.exe,
        "rule": wanted.rule,
        "why": wanted.why,
        "raised": ask.raised,
        "left": max(0.0, round((ask.deadline - now) / SECOND, 3)),
        "count": ask.count,
    }


def closed_json(closed: Closed, session: Session | None) -> dict[str, Any]:
    """An ask that is over."""
    return ask_json(closed.ask, session, closed.ask.deadline) | {
        "answered": closed.answered,
        "answer": answer_json(closed.answer),
    }


def answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "allow": answer.allow,
        "how": answer.how.value,
        "by": answer.by,
        "why": answer.why,
    }


def _profile(ask: Ask, session: Session | None) -> str:
    """The profile of the link that asks."""
    policies = session.plan.policies if session else ()
    return policies[ask.wanted.link].profile if 0 <= ask.wanted.link < len(policies) else ""


def raised(ask: Ask, session: Session | None, timeout: int) -> Draft:
    """The record of an ask."""
    wanted = ask.wanted
    details = {
        "ask": ask.id,
        "verb": wanted.verb.value,
        "link": wanted.link,
        "argv": list(wanted.argv),
        "cwd": wanted.cwd,
        "timeout": timeout,
        "remedy": f"rictl approve {ask.id}",
    }
    return _draft(ask, session, Verb.ASK_RAISE, Verdict.ASK, wanted.why, details)


def answered(
    ask: Ask, session: Session | None, answer: Answer, scope: Scope | None, held: float, more: str
) -> Draft:
    """The record of an answer for all that wait for `ask`; `more`: what others wait for now.

    `held` is in seconds.
    """
    details = {
        "ask": answer.ask,
        "verb": ask.wanted.verb.value,
        "link": ask.wanted.link,
        "argv": list(ask.wanted.argv),
        "how": answer.how.value,
        "by": answer.by,
        "why": answer.why,
        "scope": str(scope) if scope else "",
        "held": round(held, 3),
        "actions": ask.count,
    }
    if more:
        details["more"] = more
    if not answer.allow and answer.how in (How.TIMEOUT, How.FALLBACK, How.PERSON, How.APPROVER):
        details["remedy"] = "have it tried again, and approve it: rictl asks"
    verdict = Verdict.ALLOW if answer.allow else Verdict.DENY
    return _draft(ask, session, Verb.ASK_ANSWER, verdict, answer.reason, details)


def failed(ask: Ask, session: Session | None, approver: str, problem: str) -> Draft:
    """The record of an approver that did not work: the action is held on."""
    details = {"ask": ask.id, "approver": approver, "problem": problem}
    reason = f"{approver} failed: {problem}"
    return _draft(ask, session, Verb.ASK_ANSWER, Verdict.ASK, reason, details)


def limited(ask: Ask, session: Session | None, answer: Answer, count: int) -> Draft:
    """The record of `count` actions that were refused without asking; `ask` is one of them."""
    draft = answered(ask, session, answer, None, 0, "")
    return replace(draft, count=count)


def _draft(
    ask: Ask,
    session: Session | None,
    verb: Verb,
    verdict: Verdict,
    reason: str,
    details: dict[str, Any],
) -> Draft:
    wanted = ask.wanted
    draft = daemon_draft(
        session, verb, wanted.object, details, verdict=verdict, reason=reason, pid=wanted.pid
    )
    return replace(draft, session=wanted.session, exe=wanted.exe, rule=wanted.rule)

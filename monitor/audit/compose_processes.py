# SPDX-License-Identifier: Apache-2.0
"""Findings on processes: forks, program starts, exits; and which program each process runs."""

from __future__ import annotations

from typing import Any

from monitor.audit import objects
from monitor.audit.subject import Finding, Subject, because, on, on_file, text_of
from monitor.policy.action import ExecAction, Mechanism, Verb, Verdict
from monitor.wire.events import DenyCause, ExecEvent, ExitEvent, ForkEvent

NOT_GOVERNED = "no rule governs it"
# Why a program that started was killed before its first instruction.
KILLED = {
    DenyCause.NO_TICKET: (
        "file, arguments or directory are not those that were decided on",
        Mechanism.TICKET,
    ),
    DenyCause.DENY_ALL: ("the session's authority was taken back", Mechanism.TICKET),
    DenyCause.CONDITION: ("a condition of the session does not hold", Mechanism.TICKET),
    DenyCause.EXPIRED: ("the session's time is over", Mechanism.TICKET),
    DenyCause.OVER_BUDGET: ("the budget of program starts is used up", Mechanism.BUDGET),
}


def find_fork(subject: Subject, event: ForkEvent) -> Finding:
    subject.runs(event.child, subject.program(event.pid))
    return _plain(subject, Verb.PROC_FORK, f"pid {event.child}", {"child": event.child})


def find_exit(subject: Subject, event: ExitEvent) -> Finding:
    subject.gone(event.pid)
    return _plain(subject, Verb.PROC_EXIT, objects.ending(event.status), {"status": event.status})


def find_exec(subject: Subject, event: ExecEvent) -> Finding:
    """A program start that happened. The record's own `exe` is what the process ran before."""
    subject.runs(event.pid, event.path)
    details: dict[str, Any] = {
        "argv": list(event.argv),
        "device": objects.device(event.device),
        "inode": event.inode,
    }
    if event.truncated:
        details["argv_truncated"] = True
    verb, what = Verb.PROC_EXEC, event.path
    if event.cause is not None:
        reason, mechanism = KILLED.get(event.cause, KILLED[DenyCause.NO_TICKET])
        return Finding(verb, what, Verdict.KILL, reason, "", mechanism, details)
    if subject.plan is not None and subject.plan.syscalls.notified and what.startswith("/"):
        decision = on(subject, ExecAction(what, event.argv))
    else:
        decision = on_file(subject, verb, what, "")
    if decision is None:
        reason = subject.stranger if subject.plan is None else "its whole path is not known"
        return Finding(verb, what, Verdict.ALLOW, reason, "", Mechanism.NONE, details)
    rule = text_of(decision.rule)
    if decision.verdict is Verdict.ASK:
        reason = f"it was approved: {decision.reason}"
        return Finding(verb, what, Verdict.ALLOW, reason, rule, Mechanism.GATE, details)
    if decision.verdict is Verdict.ALLOW:
        return Finding(
            verb, what, decision.verdict, decision.reason, rule, decision.mechanism, details
        )
    details |= because(decision)
    if subject.observe:
        verdict, reason, mechanism = Verdict.WOULD_DENY, decision.reason, decision.mechanism
        return Finding(verb, what, verdict, reason, rule, mechanism, details)
    reason = f"it happened, although by this name: {decision.reason}"
    return Finding(verb, what, Verdict.ALLOW, reason, "", Mechanism.NONE, details)


def _plain(subject: Subject, verb: Verb, what: str, details: dict[str, Any]) -> Finding:
    reason = subject.stranger if subject.plan is None else NOT_GOVERNED
    return Finding(verb, what, Verdict.ALLOW, reason, "", Mechanism.NONE, details)

# SPDX-License-Identifier: Apache-2.0
"""The reference decision: what the kernel does with an action under a plan, and why.

Driven by the same Plan as the kernel tables, the filter, Landlock and the view. Time is not
looked at: a session whose ttl has run out is refused everything, whatever is said here.
"""

from __future__ import annotations

from dataclasses import replace

from monitor.policy import decide_exec, decide_files, decide_network, decide_syscalls
from monitor.policy.action import (
    Action,
    Decision,
    ExecAction,
    FileAction,
    NetAction,
    SocketAction,
    SyscallAction,
    UnixAction,
    Verdict,
)
from monitor.policy.plan import Plan


def decide(plan: Plan, action: Action, earned: frozenset[int] = frozenset()) -> Decision:
    """The verdict on `action`: every policy of the plan must allow it.

    `earned` are labels that the session has: indices into all labels of all policies. Where the
    plan only observes, what its rules would refuse is WOULD_DENY; what the syscall floor refuses is
    denied all the same.
    """
    match action:
        case SyscallAction():
            return decide_syscalls.decide(plan, action)
        case SocketAction():
            return decide_syscalls.decide_socket(plan, action)
        case NetAction():
            decision = decide_network.decide(plan, action, earned)
        case UnixAction():
            decision = decide_network.decide_unix(plan, action)
        case FileAction():
            decision = decide_files.decide(plan, action)
        case ExecAction():
            decision = decide_files.decide_exec(plan, action)
            if decision.verdict is Verdict.ALLOW:
                decision = decide_exec.decide(plan, action, earned) or decision
    return observed(plan, decision)


def observed(plan: Plan, decision: Decision) -> Decision:
    """The decision as a plan that only observes gives it."""
    if plan.observe and decision.verdict in {Verdict.DENY, Verdict.ASK}:
        return replace(decision, verdict=Verdict.WOULD_DENY)
    return decision

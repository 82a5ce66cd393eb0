# SPDX-License-Identifier: Apache-2.0
"""The floor's system call filter: from a plan to the bytes that the child installs."""

from __future__ import annotations

import errno
from functools import lru_cache

from monitor.kernel import seccomp
from monitor.policy.plan import SyscallPlan, SyscallRule, SyscallVerdict

ERRORS = {
    SyscallVerdict.EPERM: errno.EPERM,
    SyscallVerdict.ENOSYS: errno.ENOSYS,
    SyscallVerdict.EAFNOSUPPORT: errno.EAFNOSUPPORT,
    SyscallVerdict.KILL: None,
}


@lru_cache(maxsize=64)
def export(plan: SyscallPlan, listen: bool = True) -> bytes:
    """The filter as an array of struct sock_filter. ValueError: a rule that it cannot hold.

    `listen`: calls wait for the gate. A filter tree has one listener, that of the outermost
    session; a further filter that lets calls wait would take them away from it.
    Building takes 8 ms, more than all the rest of a launch in the daemon; plans of the same
    profile are equal, and so is their filter.
    """
    notified = plan.notified if listen else ()
    return seccomp.build(map(_rule, plan.rules), plan.first_unknown, notified)


def _rule(rule: SyscallRule) -> seccomp.Rule:
    tests = tuple(
        seccomp.Condition(test.index, test.compare.value, test.value, test.mask)
        for test in rule.tests
    )
    return seccomp.Rule(rule.number, ERRORS[rule.verdict], tests)

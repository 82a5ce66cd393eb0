# SPDX-License-Identifier: Apache-2.0
"""Which actions of a plan wait for an answer before they happen, and by which system calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Flag, auto

from monitor.policy.action import Verdict
from monitor.policy.compile_files import masks_in_view
from monitor.policy.plan import Plan, Policy
from monitor.policy.syscalls import NUMBERS


class Gates(Flag):
    """EXEC: program starts; CONNECT: connect(2); DELETE: removed names; OPEN: opens (fanotify)."""

    NONE = 0
    EXEC = auto()
    CONNECT = auto()
    DELETE = auto()
    OPEN = auto()


CALLS = {
    Gates.EXEC: ("execve", "execveat"),
    Gates.CONNECT: ("connect",),
    Gates.DELETE: ("unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2"),
}


def gates(plan: Plan, *, sub_agents: bool = False) -> Gates:
    """The gates of a plan; none where it only observes.

    `sub_agents`: sessions may be started inside, which only the outermost one's listener serves.
    """
    if plan.observe:
        return Gates.NONE
    found = gates_of(plan.policies)
    if sub_agents:
        found |= Gates.EXEC
    if masks_in_view(plan.policies):
        found |= Gates.OPEN
    return found


def gates_of(policies: Sequence[Policy]) -> Gates:
    """The gates that the rules of these policies need, but for names that appear later."""
    found = Gates.NONE
    for policy in policies:
        labels = policy.labels
        budgets = policy.budgets
        if policy.exec or budgets.execs is not None:
            found |= Gates.EXEC
        if any(label.exec or label.rules or label.ask for label in labels):
            found |= Gates.EXEC
        if any(label.ask for label in labels) or _asks(policy):
            found |= Gates.CONNECT
        if any(rule.held for rule in policy.unix):
            found |= Gates.CONNECT
        if budgets.deletes is not None:
            found |= Gates.DELETE
        if policy.asks or any(label.files for label in labels):
            found |= Gates.OPEN
    return found


def _asks(policy: Policy) -> bool:
    tables = [policy.connect, *(each.policy.connect for each in policy.labels if each.policy)]
    return any(
        ports.verdict is Verdict.ASK
        for table in tables
        for prefix in table
        for ports in prefix.ports
    )


def notified(needed: Gates) -> tuple[int, ...]:
    """The numbers of the calls that wait for these gates, for SyscallPlan.notified."""
    return tuple(sorted(_numbers(needed)))


def _numbers(needed: Gates) -> Iterator[int]:
    for gate, names in CALLS.items():
        if gate in needed:
            yield from (NUMBERS[name] for name in names)

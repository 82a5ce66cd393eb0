# SPDX-License-Identifier: Apache-2.0
"""Cuts of what is open just what a change of plan takes away.

A connection that was made under the plan before and that the new one denies is destroyed, and so is
a listener on an address that may not be bound any more, with the connections that came in by it.
What both plans allow is left alone. Unix sockets cannot be destroyed from outside: theirs stay.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from functools import cache

from monitor.kernel import sockdiag
from monitor.kernel.sockdiag import Endpoint, OpenSocket
from monitor.policy.action import IPAddress, Verdict
from monitor.policy.decide_network import port_range
from monitor.policy.plan import NetPrefix, Plan

# A program that was being let through when the rules changed has its socket listed a moment later.
PASSES = (0.0, 0.1, 1.0)

Tables = Sequence[Sequence[NetPrefix]]


class Rules:
    """What one plan says of destinations and own addresses; `labels`: names of those earned."""

    def __init__(self, plan: Plan, labels: frozenset[str] = frozenset()) -> None:
        self.observe = plan.observe
        more = [
            label.policy
            for policy in plan.policies
            for label in policy.labels
            if label.name in labels and label.policy is not None
        ]
        self._connect = [policy.connect for policy in (*plan.policies, *more)]
        self._bind = [policy.bind for policy in plan.policies]
        self.connect = cache(self._connects)
        self.bind = cache(self._binds)

    def _connects(self, at: Endpoint, protocol: int) -> Verdict:
        return _verdict(self._connect, at.address, at.port, protocol)

    def _binds(self, at: Endpoint, protocol: int) -> Verdict:
        return _verdict(self._bind, at.address, at.port, protocol)


def _verdict(tables: Tables, address: IPAddress, port: int, protocol: int) -> Verdict:
    verdict = Verdict.ALLOW
    for table in tables:
        found = port_range(table, address, port, protocol)
        if found is None or found.verdict is Verdict.DENY:
            return Verdict.DENY
        if found.verdict is Verdict.ASK:
            verdict = Verdict.ASK
    return verdict


def taken(old: Rules, new: Rules, each: OpenSocket) -> bool:
    """Whether the new plan takes away what this socket is open for.

    A connection that came in has a peer nobody could have connected to by the plan before, or one
    that cannot be told from a connection that was made: that one is cut where connecting is denied.
    """
    if new.observe:
        return False
    if each.remote.port:
        before = old.connect(each.remote, each.protocol)
        after = new.connect(each.remote, each.protocol)
        if before is not Verdict.DENY:
            return after is Verdict.DENY or (after is Verdict.ASK and before is Verdict.ALLOW)
    elif not each.listens and each.protocol == socket.IPPROTO_TCP:
        return False
    if not each.local.port:
        return False
    bound = old.bind(each.local, each.protocol)
    return bound is not Verdict.DENY and new.bind(each.local, each.protocol) is Verdict.DENY


def cut_once(cgroup: int, old: Rules, new: Rules) -> int:
    """One pass: destroy what is taken away; how many sockets. OSError."""
    found = [each for each in sockdiag.sockets(cgroup) if taken(old, new, each)]
    return sockdiag.destroy(found) if found else 0


async def cut(cgroup: int, old: Rules, new: Rules, passes: Sequence[float] = PASSES) -> int:
    """All passes, each in a thread, because the kernel takes its time. OSError."""
    cutting = 0
    for seconds in passes:
        await asyncio.sleep(seconds)
        cutting += await asyncio.to_thread(cut_once, cgroup, old, new)
    return cutting

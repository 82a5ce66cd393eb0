# SPDX-License-Identifier: Apache-2.0
"""What the gate's sources share: the kernel's tables, tickets, what files hold, the desk."""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING

from monitor.daemon.gate.connecting import Tickets as UnixTickets
from monitor.daemon.gate.content import Contents
from monitor.daemon.gate.desk import Desk
from monitor.daemon.gate.facts import Facts
from monitor.daemon.gate.images import Images
from monitor.daemon.gate.loop import Loop
from monitor.daemon.gate.tickets import Tickets
from monitor.daemon.probes import pins
from monitor.daemon.probes.authority import Authority
from monitor.kernel.bpf import Map, Rows
from monitor.policy.action import Mechanism, Verb, Verdict
from monitor.policy.plan import Label
from monitor.wire.layout import SessionFlag

if TYPE_CHECKING:
    from monitor.daemon.gate.calls import Calls

_ROW = struct.Struct("=QI")  # the beginning of struct ri_session
# How old a session's row may be.
ROW_LIFE = 20_000_000
ROWS = 4096


class Office:
    """One for each gate."""

    def __init__(self, instance: str, desk: Desk, loop: Loop) -> None:
        """OSError: the probes are not in place."""
        self.desk = desk
        self.loop = loop
        self.faults = 0
        self.authority = Authority(instance)
        self.authority.open()
        self.tickets = Tickets(instance, self.authority)
        self.unix_tickets = UnixTickets(Map.pinned(pins.current(instance) / "unix_tickets"))
        # (session, name) of connections whose first has been recorded.
        self.told: set[tuple[str, str]] = set()
        self.images = Images()
        self.contents = Contents()
        self._sessions = Rows(Map.pinned(pins.current(instance) / "sessions"))
        # (until when it is taken to be so, expires, flags) by cgroup id
        self._rows: dict[int, tuple[int, int, int]] = {}
        self._inner: set[int] = set()  # ids of Calls objects with sessions inside

    # -- sessions ------------------------------------------------------------------------------

    def has_inner(self, calls: Calls) -> bool:
        """Whether sessions run, or ran, inside that of this listener."""
        return id(calls) in self._inner

    def let_inner(self, calls: Calls) -> None:
        self._inner.add(id(calls))

    def forget(self, calls: Calls) -> None:
        self._inner.discard(id(calls))

    def shut(self, facts: Facts) -> str:
        """Why nothing is allowed to this session now; "" where that is not so.

        The programs in the kernel look at the very moment; this says it without killing.
        """
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        until, expires, flags = self._rows.get(facts.cgroup_id, (0, 0, 0))
        if until < now:
            data = self._sessions.read(facts.cgroup_id)
            if data is None:
                return "the session has ended"
            expires, flags = _ROW.unpack_from(data)
            if len(self._rows) > ROWS:
                self._rows.clear()
            self._rows[facts.cgroup_id] = (now + ROW_LIFE, expires, flags)
        if flags & SessionFlag.REVOKED:
            return "the session's authority was taken back"
        if flags & SessionFlag.PAUSED:
            return "a condition of the session does not hold"
        if expires and expires <= now:
            return "the session's time is over"
        return ""

    # -- labels --------------------------------------------------------------------------------

    def earned(self, facts: Facts) -> frozenset[int]:
        """Which labels count: indices into all labels of all policies."""
        if not facts.labels:
            return frozenset()
        counting = self.authority.earned(facts.labels)
        return frozenset(index for index, number in enumerate(facts.labels) if number in counting)

    def earn(self, facts: Facts, index: int, why: str, pid: int) -> None:
        """Let a label count, in the kernel first. OSError: then the action must not happen."""
        if self.authority.earn(facts.labels[index]):
            self.desk.label(facts.session, _labels(facts)[index].name, why, pid)

    # -- records -------------------------------------------------------------------------------

    def tell_problem(self, facts: Facts, problem: str) -> None:
        """Something that a rule means cannot be held in full."""
        self.desk.record(
            facts.session,
            Verb.SESSION_STATE,
            "gate",
            Verdict.ALLOW,
            problem,
            mechanism=Mechanism.DAEMON,
        )


def _labels(facts: Facts) -> list[Label]:
    return [label for policy in facts.policies for label in policy.labels]

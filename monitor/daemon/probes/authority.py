# SPDX-License-Identifier: Apache-2.0
"""The part of an instance's kernel tables that changes while sessions run.

Labels that were earned, people's approvals, budgets and what was used of them, and tickets for
program starts. The worker and the gate each open it; every method is one update of one row.
"""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Collection, Iterable

from monitor.daemon.probes import pins
from monitor.kernel.bpf import Map
from monitor.policy.action import IPAddress
from monitor.policy.plan import Budgets
from monitor.wire import rows
from monitor.wire.layout import BudgetKind
from monitor.wire.rows import Ticket

AUTHORITY_MAPS = ("earned", "approvals", "budgets", "usage", "destinations", "tickets")
# Budgets that are for a minute; the others are in all.
RATES = frozenset({BudgetKind.CONNECTS, BudgetKind.EXECS, BudgetKind.DELETES})
_MINUTE = 60 * 10**9
_NEVER = struct.pack("=Q", 0)


class Authority:
    """The tables of one instance that programs and gates consult beside the rules."""

    names: tuple[str, ...] = AUTHORITY_MAPS

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self._maps: dict[str, Map] = {}
        # Keys of approvals per cgroup, so that removing need not scan the map.
        self._approved: dict[int, set[bytes]] = {}

    def open(self) -> None:
        """Open the pinned maps; FileNotFoundError where the loader has not run."""
        folder = pins.current(self.instance)
        for name in self.names:
            self._maps[name] = Map.pinned(folder / name)
        for key in self._maps["approvals"]:
            self._approved.setdefault(rows.approval_cgroup(key), set()).add(key)

    def close(self) -> None:
        for table in self._maps.values():
            table.close()
        self._maps.clear()

    # -- labels: `policy` is the kernel's policy id of a label ----------------------------------

    def earn(self, policy: int) -> bool:
        """Let the label's policy count from now on; False: it did already.

        OSError E2BIG: there is no room, and without its row a label counts.
        """
        if self.earned((policy,)):
            return False
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._maps["earned"].update(rows.number_key(policy), struct.pack("=Q", now))
        return True

    def unearn(self, policy: int) -> None:
        """Take a label off; a person's word only."""
        self._maps["earned"].update(rows.number_key(policy), _NEVER)

    def earned(self, policies: Iterable[int]) -> set[int]:
        """Those of `policies` whose label counts; one without a row does."""
        table = self._maps["earned"]
        return {each for each in policies if table.lookup(rows.number_key(each)) != _NEVER}

    def earned_at(self, policy: int) -> int:
        """When a label was earned, CLOCK_BOOTTIME ns; 0: it was not."""
        data = self._maps["earned"].lookup(rows.number_key(policy))
        return 1 if data is None else int(struct.unpack("=Q", data)[0])

    # -- approvals -----------------------------------------------------------------------------

    def approve(
        self,
        cgroup: int,
        policy: int,
        protocol: int,
        address: str,
        port: int,
        expires: int = 0,
        uses: int = -1,
    ) -> None:
        """Allow `uses` (-1: any number of) connections that the rules of `policy` ask about.

        `expires` is CLOCK_BOOTTIME ns, 0: with the session. Replaces an earlier approval of the
        same. OSError E2BIG: there is no room. ValueError: `address` is none.
        """
        key = rows.approval_key(cgroup, policy, protocol, ipaddress.ip_address(address), port)
        self._maps["approvals"].update(key, rows.approval(expires, uses))
        self._approved.setdefault(cgroup, set()).add(key)

    def unapprove(self, cgroup: int) -> None:
        """Take back all approvals of a session."""
        for key in self._approved.pop(cgroup, ()):
            self._maps["approvals"].delete(key)

    def approved(self, cgroup: int) -> list[tuple[int, int, IPAddress, int]]:
        """All approvals of a session: (policy, protocol, address, port)."""
        return [rows.approved(key) for key in self._approved.get(cgroup, ())]

    # -- budgets -------------------------------------------------------------------------------

    def budgets(self, policy: int) -> Budgets:
        """What the link with kernel id `policy` may use; no row: nothing is limited."""
        data = self._maps["budgets"].lookup(rows.number_key(policy))
        return Budgets() if data is None else rows.unpack_budgets(data)

    def limited(self, policy: int) -> int:
        """The kinds that it has a budget of, as ri_session.budgets holds them: a bit for each."""
        data = self._maps["budgets"].lookup(rows.number_key(policy))
        return 0 if data is None else rows.budget_kinds(rows.unpack_budgets(data))

    def usage(self, policy: int) -> dict[BudgetKind, int]:
        """What it has used of each budget that it has, within the minute where that counts."""
        minute = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _MINUTE
        used = {}
        for kind in BudgetKind:
            data = self._maps["usage"].lookup(rows.usage_key(policy, kind))
            if data is not None:
                used[kind] = rows.used(data, minute if kind in RATES else None)
        return used

    def count(self, policy: int, kind: BudgetKind) -> int:
        """Count one more use within this minute, of a kind that no program counts; how many now."""
        minute = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _MINUTE
        key = rows.usage_key(policy, kind)
        data = self._maps["usage"].lookup(key)
        count = 1 + (0 if data is None else rows.used(data, minute))
        self._maps["usage"].update(key, struct.pack("=Q", minute << 32 | count))
        return count

    def refill(self, policy: int, kind: BudgetKind) -> None:
        """Let it use as much again: its count starts from 0."""
        self._maps["usage"].update(rows.usage_key(policy, kind), _NEVER)
        if kind is BudgetKind.DESTINATIONS:
            self._forget_destinations({policy})

    def carry(self, old: int, new: int) -> None:
        """Count under policy `new` what `old` has used, of the budgets that both have."""
        table = self._maps["usage"]
        for kind in BudgetKind:
            data = table.lookup(rows.usage_key(old, kind))
            if data is not None and table.lookup(rows.usage_key(new, kind)) is not None:
                table.update(rows.usage_key(new, kind), data)
        destinations = self._maps["destinations"]
        for key in [key for key in destinations if rows.row_policy("destinations", key) == old]:
            value = destinations.lookup(key)
            if value is not None:
                destinations.update(rows.number_key(new) + key[len(rows.number_key(old)) :], value)

    def _forget_destinations(self, policies: Collection[int]) -> None:
        table = self._maps["destinations"]
        for key in [key for key in table if rows.row_policy("destinations", key) in policies]:
            table.delete(key)

    # -- tickets for program starts ------------------------------------------------------------

    def ticket(self, ticket: Ticket, expires: int) -> None:
        """Let a process start exactly this until `expires`, CLOCK_BOOTTIME ns. OSError: no room."""
        self._maps["tickets"].update(ticket.pack(), struct.pack("=Q", expires))

    def withdraw(self, ticket: Ticket) -> None:
        """Take a ticket back that was not used."""
        self._maps["tickets"].delete(ticket.pack())

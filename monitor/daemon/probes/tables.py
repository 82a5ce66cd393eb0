# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables of an instance: sessions and the rows of their policies.

Order is what keeps it closed: a session's row is written after all rows of its policies, and taken
away before them; a cgroup under the instance without a session row is refused everything.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import struct
from collections.abc import Collection, Sequence

from monitor.daemon.probes import pins
from monitor.daemon.probes.arms import Arms
from monitor.daemon.probes.authority import AUTHORITY_MAPS, Authority
from monitor.kernel.bpf import Map
from monitor.policy.plan import Label, Policy
from monitor.wire.layout import SessionFlag
from monitor.wire.rows import Row, SessionRow, label_rows, policy_rows, row_policy

# Maps whose rows belong to one policy each.
POLICY_MAPS = (
    "prefixes",
    "ports",
    "sockets",
    "unix_paths",
    "earned",
    "budgets",
    "usage",
    "destinations",
)
_U64 = struct.Struct("=Q")


def add_lost(table: Map, cgroup: int, count: int) -> None:
    """Add to the lost records of a session."""
    key = _U64.pack(cgroup)
    known = table.lookup(key)
    table.update(key, _U64.pack(count + (0 if known is None else _U64.unpack(known)[0])))


def narrowing(policies: Sequence[Policy], labels: Sequence[int]) -> dict[int, Policy]:
    """What labels leave of the network, by the labels' ids: those that hold a policy, in order.

    `labels` are the ids of all labels of `policies`, in their order.
    """
    every = itertools.chain.from_iterable(policy.labels for policy in policies)
    pairs: Sequence[tuple[int, Label]] = list(zip(labels, every, strict=True))
    return {number: label.policy for number, label in pairs if label.policy is not None}


class KernelTables(Authority):
    """Writes the maps that the programs decide by. One writer: the worker."""

    names = ("sessions", "lost", *dict.fromkeys((*POLICY_MAPS, *AUTHORITY_MAPS)))

    def __init__(self, instance: str) -> None:
        super().__init__(instance)
        self.arms = Arms()
        # Keys written per policy id, so that removing need not scan the maps.
        self._keys: dict[int, list[Row]] = {}
        # The labels of each policy id; they go with it.
        self._labels: dict[int, tuple[int, ...]] = {}

    def open(self) -> None:
        """Open the pinned maps; FileNotFoundError where the loader has not run."""
        super().open()
        self.arms.open(pins.current(self.instance))
        # The row that losses are counted in when there is no room for a session's own.
        nobody = _U64.pack(0)
        if self._maps["lost"].lookup(nobody) is None:
            self._maps["lost"].update(nobody, _U64.pack(0))

    def install(
        self,
        cgroup: int,
        policies: Sequence[tuple[int, Policy]],
        expires: int = 0,
        flags: SessionFlag = SessionFlag.NONE,
        labels: Sequence[int] = (),
    ) -> None:
        """Put a session in force: `policies` are (kernel id, Policy), outermost first.

        `expires` is CLOCK_BOOTTIME ns, 0: never. `labels` are the kernel ids of all labels of all
        policies, in their order. A kernel id names one Policy for ever, so installing again
        replaces only the session's row; what was earned, approved and used stays. OSError E2BIG,
        ENOSPC: a map is full, and nothing of a new session is left behind. ValueError: it has more
        policies or labels than a row holds.
        """
        numbers = tuple(number for number, _policy in policies)
        narrowed = tuple(narrowing([policy for _number, policy in policies], labels))
        row = SessionRow(expires, flags, numbers, narrowed)
        row.pack()  # before anything is written: ValueError
        added = self.prepare(policies, labels)
        try:
            self.replace(cgroup, row)
        except OSError:
            self.release(added)
            raise

    def prepare(
        self, policies: Sequence[tuple[int, Policy]], labels: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """Write the rows of policies and labels that are not there yet; the ids of these policies.

        No session has them until its row is replaced by one that names them. OSError as of install.
        """
        added: list[int] = []
        ids = iter(labels)
        try:
            for number, policy in policies:
                own = tuple(itertools.islice(ids, len(policy.labels)))
                if number in self._keys:
                    continue
                added.append(number)
                rows = policy_rows(number, policy, own)
                for each, label in zip(own, policy.labels, strict=True):
                    rows += label_rows(each, label.policy)
                self._keys[number], self._labels[number] = rows, own
                for entry in rows:
                    table = self._maps[entry.map]
                    (table.insert if entry.once else table.update)(entry.key, entry.value)
        except OSError:
            self.release(added)
            raise
        return tuple(added)

    def know(self, policies: Sequence[tuple[int, Policy]], labels: Sequence[int]) -> None:
        """Learn which labels go with which policies, where the rows of all are there already."""
        ids = iter(labels)
        for number, policy in policies:
            own = tuple(itertools.islice(ids, len(policy.labels)))
            self._labels.setdefault(number, own)

    def replace(self, cgroup: int, row: SessionRow) -> None:
        """Put `row` in force for a session, in one update. OSError E2BIG: the map is full."""
        kinds = 0
        for number in row.policies:
            kinds |= self.limited(number)
        self._maps["sessions"].update(_U64.pack(cgroup), row.pack(kinds))

    def release(self, policies: Collection[int]) -> None:
        """Take away the rows of policies, and of their labels, that no session has any more."""
        for number in set(policies) - self._policies_in_force():
            self._remove_policy(number)

    def session(self, cgroup: int) -> SessionRow | None:
        """The row in force for `cgroup`."""
        data = self._maps["sessions"].lookup(_U64.pack(cgroup))
        return None if data is None else SessionRow.unpack(data)

    def sessions(self) -> set[int]:
        """Cgroup ids of all sessions in force."""
        return {int(_U64.unpack(key)[0]) for key in self._maps["sessions"]}

    def set_flags(self, cgroup: int, flags: SessionFlag) -> None:
        """Replace the flags; SessionFlag.REVOKED denies everything from the next call on."""
        self.replace(cgroup, dataclasses.replace(self._existing(cgroup), flags=flags))

    def add_flags(self, cgroup: int, flags: SessionFlag) -> None:
        """Add to the flags of a session's row, where it has one."""
        row = self.session(cgroup)
        if row is not None:
            self.replace(cgroup, dataclasses.replace(row, flags=row.flags | flags))

    def clear_flags(self, cgroup: int, flags: SessionFlag) -> None:
        """Take away from the flags of a session's row, where it has one."""
        row = self.session(cgroup)
        if row is not None:
            self.replace(cgroup, dataclasses.replace(row, flags=row.flags & ~flags))

    def set_expiry(self, cgroup: int, expires: int) -> None:
        """Replace the expiry, CLOCK_BOOTTIME ns, 0: never."""
        self.replace(cgroup, dataclasses.replace(self._existing(cgroup), expires=expires))

    def _existing(self, cgroup: int) -> SessionRow:
        row = self.session(cgroup)
        if row is None:
            raise ProcessLookupError(errno.ESRCH, "no session row for cgroup", str(cgroup))
        return row

    def remove(self, cgroup: int) -> None:
        """Take a session away: its row, then the rows of policies that no other session has."""
        row = self.session(cgroup)
        self._remove_row(cgroup)
        if row is not None:
            self.release(row.policies)

    def _remove_row(self, cgroup: int) -> None:
        key = _U64.pack(cgroup)
        self._maps["sessions"].delete(key)
        self._maps["lost"].delete(key)
        self.arms.disarm(cgroup)
        self.unapprove(cgroup)

    def remove_leftovers(self, live: Collection[int], labels: Collection[int] = ()) -> int:
        """Delete the rows of sessions that are not `live`, and those of policies that none has.

        `labels`: the ids of all labels that are live. How many there were: a worker died in
        between.
        """
        strangers = self.sessions().union(self._approved).difference(live)
        for cgroup in strangers:
            self._remove_row(cgroup)
        kept = self._policies_in_force()
        known = kept.union(labels)
        removed = len(strangers) + self.arms.keep(live)
        for name in POLICY_MAPS:
            table = self._maps[name]
            stale = [key for key in table if row_policy(name, key) not in known]
            removed += sum(table.delete(key) for key in stale)
        self._keys = {number: rows for number, rows in self._keys.items() if number in kept}
        self._labels = {number: own for number, own in self._labels.items() if number in kept}
        return removed

    def _policies_in_force(self) -> set[int]:
        rows = (self.session(cgroup) for cgroup in self.sessions())
        return {number for row in rows if row is not None for number in row.policies}

    def _remove_policy(self, number: int) -> None:
        rows = self._keys.pop(number, None)
        own = self._labels.pop(number, ())
        if rows is not None:
            for row in rows:
                self._maps[row.map].delete(row.key)
            if any(row.map == "budgets" for row in rows):
                self._forget_destinations({number})
            return
        gone = {number, *own}
        for name in POLICY_MAPS:
            table = self._maps[name]
            for key in [key for key in table if row_policy(name, key) in gone]:
                table.delete(key)

    def lost(self, cgroup: int) -> int:
        """Records of this session that were dropped under load (cgroup 0: of unknown ones)."""
        data = self._maps["lost"].lookup(_U64.pack(cgroup))
        return 0 if data is None else int(_U64.unpack(data)[0])

    def add_lost(self, cgroup: int, count: int) -> None:
        """Count records that were read and could not be kept."""
        add_lost(self._maps["lost"], cgroup, count)

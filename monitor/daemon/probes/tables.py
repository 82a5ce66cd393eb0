# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables of an instance: sessions and the rows of their policies.

Order is what keeps it closed: a session's row is written after all rows of its policies, and taken
away before them; a cgroup under the instance without a session row is refused everything.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Sequence
from pathlib import Path

from monitor.daemon.probes import pins
from monitor.kernel.bpf import Map
from monitor.policy.plan import Policy
from monitor.wire.layout import SessionFlag
from monitor.wire.rows import Row, SessionRow, policy_rows, row_policy

POLICY_MAPS = ("prefixes", "ports", "sockets", "unix_paths")
_U64 = struct.Struct("=Q")


def add_lost(table: Map, cgroup: int, count: int) -> None:
    """Add to the lost records of a session."""
    key = _U64.pack(cgroup)
    known = table.lookup(key)
    table.update(key, _U64.pack(count + (0 if known is None else _U64.unpack(known)[0])))


class KernelTables:
    """Writes the maps that the programs decide by. One writer: the worker."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self._maps: dict[str, Map] = {}
        # Keys written per policy id, so that removing need not scan the maps.
        self._keys: dict[int, list[Row]] = {}

    def open(self) -> None:
        """Open the pinned maps; FileNotFoundError where the loader has not run."""
        folder: Path = pins.current(self.instance)
        for name in ("sessions", "lost", *POLICY_MAPS):
            self._maps[name] = Map.pinned(folder / name)
        # The row that losses are counted in when there is no room for a session's own.
        nobody = _U64.pack(0)
        if self._maps["lost"].lookup(nobody) is None:
            self._maps["lost"].update(nobody, _U64.pack(0))

    def close(self) -> None:
        for table in self._maps.values():
            table.close()
        self._maps.clear()

    def install(
        self,
        cgroup: int,
        policies: Sequence[tuple[int, Policy]],
        expires: int = 0,
        flags: SessionFlag = SessionFlag.NONE,
    ) -> None:
        """Put a session in force: `policies` are (kernel id, Policy), outermost first.

        `expires` is CLOCK_BOOTTIME ns, 0: never. A kernel id names one Policy for ever, so
        installing again replaces only the session's row. OSError E2BIG, ENOSPC: a map is full, and
        nothing of a new session is left behind.
        """
        session = SessionRow(expires, flags, tuple(number for number, _policy in policies))
        packed = session.pack()
        added: list[int] = []
        try:
            for number, policy in policies:
                if number not in self._keys:
                    added.append(number)
                    self._write(number, policy_rows(number, policy))
            self._maps["sessions"].update(_U64.pack(cgroup), packed)
        except OSError:
            for number in added:
                self._remove_policy(number)
            raise

    def _write(self, number: int, rows: list[Row]) -> None:
        self._keys[number] = rows
        for row in rows:
            self._maps[row.map].update(row.key, row.value)

    def session(self, cgroup: int) -> SessionRow | None:
        """The row in force for `cgroup`."""
        data = self._maps["sessions"].lookup(_U64.pack(cgroup))
        return None if data is None else SessionRow.unpack(data)

    def sessions(self) -> set[int]:
        """Cgroup ids of all sessions in force."""
        return {int(_U64.unpack(key)[0]) for key in self._maps["sessions"]}

    def set_flags(self, cgroup: int, flags: SessionFlag) -> None:
        """Replace the flags; SessionFlag.REVOKED denies everything from the next call on."""
        row = self._existing(cgroup)
        self._replace(cgroup, SessionRow(row.expires, flags, row.policies))

    def add_flags(self, cgroup: int, flags: SessionFlag) -> None:
        """Add to the flags of a session's row, where it has one."""
        row = self.session(cgroup)
        if row is not None:
            self._replace(cgroup, SessionRow(row.expires, row.flags | flags, row.policies))

    def set_expiry(self, cgroup: int, expires: int) -> None:
        """Replace the expiry, CLOCK_BOOTTIME ns, 0: never."""
        row = self._existing(cgroup)
        self._replace(cgroup, SessionRow(expires, row.flags, row.policies))

    def _existing(self, cgroup: int) -> SessionRow:
        row = self.session(cgroup)
        if row is None:
            raise ProcessLookupError(errno.ESRCH, "no session row for cgroup", str(cgroup))
        return row

    def _replace(self, cgroup: int, row: SessionRow) -> None:
        self._maps["sessions"].update(_U64.pack(cgroup), row.pack())

    def remove(self, cgroup: int) -> None:
        """Take a session away: its row, then the rows of policies that no other session has."""
        row = self.session(cgroup)
        key = _U64.pack(cgroup)
        self._maps["sessions"].delete(key)
        self._maps["lost"].delete(key)
        if row is None:
            return
        for number in set(row.policies) - self._policies_in_force():
            self._remove_policy(number)

    def remove_leftovers(self, live: Collection[int]) -> int:
        """Delete the rows of sessions that are not `live`, and those of policies that none has.

        How many there were: a worker died in between.
        """
        strangers = self.sessions().difference(live)
        for cgroup in strangers:
            key = _U64.pack(cgroup)
            self._maps["sessions"].delete(key)
            self._maps["lost"].delete(key)
        kept = self._policies_in_force()
        removed = len(strangers)
        for name in POLICY_MAPS:
            table = self._maps[name]
            stale = [key for key in table if row_policy(name, key) not in kept]
            removed += sum(table.delete(key) for key in stale)
        self._keys = {number: rows for number, rows in self._keys.items() if number in kept}
        return removed

    def _policies_in_force(self) -> set[int]:
        rows = (self.session(cgroup) for cgroup in self.sessions())
        return {number for row in rows if row is not None for number in row.policies}

    def _remove_policy(self, number: int) -> None:
        rows = self._keys.pop(number, None)
        if rows is not None:
            for row in rows:
                self._maps[row.map].delete(row.key)
            return
        for name in POLICY_MAPS:
            table = self._maps[name]
            for key in [key for key in table if row_policy(name, key) == number]:
                table.delete(key)

    def lost(self, cgroup: int) -> int:
        """Records of this session that were dropped under load (cgroup 0: of unknown ones)."""
        data = self._maps["lost"].lookup(_U64.pack(cgroup))
        return 0 if data is None else int(_U64.unpack(data)[0])

    def add_lost(self, cgroup: int, count: int) -> None:
        """Count records that were read and could not be kept."""
        add_lost(self._maps["lost"], cgroup, count)

# SPDX-License-Identifier: Apache-2.0
"""The LSM programs' tables: which sessions are judged, and by which rules on files.

Sessions whose rules are the same share the rows. Rules are written before the session's row names
them, and go after it; nothing here is needed where `bpf` is no active security module.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from monitor.daemon.probes.lsm import LINK, MAPS
from monitor.kernel.bpf import Map
from monitor.wire import layout
from monitor.wire.file_rows import FileRows, armed, row_number
from monitor.wire.layout import ArmedFlag
from monitor.wire.rows import Row

_U64 = struct.Struct("=Q")
_U32 = struct.Struct("=I")
# Maps whose rows are of rules; the one that is asked first comes last.
_RULES = ("file_objects", "file_names", "file_rules")
_RULES_OFFSET = layout.ri_armed.rules.offset
# Rules of sessions that are only observed: what they hold is not looked at.
NO_RULES = 0


class Arms:
    """Arms sessions, and disarms them. One writer: the worker."""

    def __init__(self) -> None:
        self._maps: dict[str, Map] = {}
        # Rules by their content, and how many sessions have each.
        self._numbers: dict[bytes, int] = {}
        self._rows: dict[int, tuple[bytes, list[Row]]] = {}
        self._users: Counter[int] = Counter()
        self._of: dict[int, int] = {}
        self._next = 1
        self.hooks: frozenset[str] = frozenset()

    def open(self, folder: Path) -> None:
        """Open the maps among the pins in `folder`, where LSM programs are attached."""
        names = (path.name for path in folder.iterdir())
        prefix = f"link_{LINK}"
        self.hooks = frozenset(
            name.removeprefix(prefix) for name in names if name.startswith(prefix)
        )
        if self.hooks:
            self._maps = {name: Map.pinned(folder / name) for name in MAPS}
            known = [row_number("file_rules", key) for key in self._maps["file_rules"]]
            self._next = max(known, default=0) + 1

    def close(self) -> None:
        for table in self._maps.values():
            table.close()
        self._maps.clear()

    @property
    def active(self) -> bool:
        """Whether LSM programs judge armed sessions here."""
        return bool(self._maps)

    def holds(self, cgroup: int) -> bool:
        """Whether a session is armed."""
        return self.active and self._maps["armed"].lookup(_U64.pack(cgroup)) is not None

    def arm(self, cgroup: int, rules: FileRows | None, calls: int = 0) -> None:
        """Let the programs judge a session, or judge it by other rules, in one update.

        None: they look at its standing only. OSError E2BIG, ENOSPC: a map is full; then all is as
        it was.
        """
        number = NO_RULES if rules is None else self._number(rules)
        before = self._of.get(cgroup, NO_RULES)
        try:
            self._maps["armed"].update(_U64.pack(cgroup), armed(number, calls, cgroup))
        except OSError:
            self._release(number)
            raise
        self._of[cgroup] = number
        self._release(before)

    def disarm(self, cgroup: int) -> None:
        """Take a session's row away, and rules that no other has."""
        if self.active:
            self._maps["armed"].delete(_U64.pack(cgroup))
            self._release(self._of.pop(cgroup, NO_RULES))

    def keep(self, live: Collection[int]) -> int:
        """Disarm all but the `live`, and remove rules that a dead worker left; how many rows."""
        if not self.active:
            return 0
        strangers = {int(_U64.unpack(key)[0]) for key in self._maps["armed"]}.difference(live)
        for cgroup in strangers:
            self.disarm(cgroup)
        kept = {
            int(_U32.unpack_from(value, _RULES_OFFSET)[0])
            for value in map(self._maps["armed"].lookup, list(self._maps["armed"]))
            if value is not None
        }
        removed = len(strangers)
        for name in reversed(_RULES):
            table = self._maps[name]
            stale = [key for key in table if row_number(name, key) not in kept]
            removed += sum(table.delete(key) for key in stale)
        return removed

    def canary(self, cgroup: int, *, present: bool) -> None:
        """Refuse everything in a cgroup of no session. OSError."""
        if present:
            value = armed(NO_RULES, 0, cgroup, ArmedFlag.CANARY)
            self._maps["armed"].update(_U64.pack(cgroup), value)
        else:
            self._maps["armed"].delete(_U64.pack(cgroup))

    # ------------------------------------------------------------------------------------------

    def _number(self, rules: FileRows) -> int:
        """The number of these rules, whose rows are there."""
        number = self._numbers.get(rules.digest)
        if number is None:
            number, self._next = self._next, self._next + 1
            rows = list(rules.rows(number))
            self._rows[number] = rules.digest, rows
            self._numbers[rules.digest] = number
            self._users[number] += 1
            try:
                for row in rows:
                    self._maps[row.map].update(row.key, row.value)
            except OSError:
                self._release(number)
                raise
            return number
        self._users[number] += 1
        return number

    def _release(self, number: int) -> None:
        if number == NO_RULES:
            return
        self._users[number] -= 1
        if self._users[number] > 0:
            return
        del self._users[number]
        digest, rows = self._rows.pop(number)
        self._numbers.pop(digest, None)
        for row in reversed(rows):
            self._maps[row.map].delete(row.key)

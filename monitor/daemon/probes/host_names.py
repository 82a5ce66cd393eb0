# SPDX-License-Identifier: Apache-2.0
"""The map of the names that sessions were told addresses for: what a TLS hello may ask for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from monitor.daemon.probes import pins
from monitor.kernel.bpf import Map
from monitor.wire import host_names
from monitor.wire.host_names import Address

NAME = "host_names"


class HostNames:
    """Writes the map. One writer: the worker."""

    def __init__(self, instance: str) -> None:
        self._map = Map.pinned(pins.current(instance) / NAME)
        # By cgroup and address: a session's end need not scan the map.
        self._known: dict[int, dict[Address, set[str]]] = {}
        for key in self._map:
            cgroup, address, name = host_names.parse(key)
            self._known.setdefault(cgroup, {}).setdefault(address, set()).add(name)

    def close(self) -> None:
        self._map.close()

    def write(self, cgroup: int, address: Address, names: Iterable[str]) -> None:
        """Let `names`, and no others, be asked for at `address`. OSError: there is no room."""
        now = set(names)
        before = frozenset(self._known.get(cgroup, {}).get(address, ()))
        if now == before:
            return
        known = self._known.setdefault(cgroup, {}).setdefault(address, set())
        for name in sorted(now - before):
            self._map.update(host_names.key(cgroup, address, name), host_names.VALUE)
            known.add(name)
        for name in before - now:
            self._map.delete(host_names.key(cgroup, address, name))
            known.discard(name)
        if not known:
            del self._known[cgroup][address]

    def every(self, cgroup: int) -> dict[Address, frozenset[str]]:
        """What may be asked for, at every address."""
        return {at: frozenset(names) for at, names in self._known.get(cgroup, {}).items()}

    def remove(self, cgroup: int) -> None:
        """The session has ended."""
        for address, names in self._known.pop(cgroup, {}).items():
            for name in names:
                self._map.delete(host_names.key(cgroup, address, name))

    def remove_leftovers(self, live: Collection[int]) -> int:
        """Take away what sessions have that are not `live`; how many."""
        gone = self._known.keys() - set(live)
        for cgroup in gone:
            self.remove(cgroup)
        return len(gone)

# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables of names: what each session may reach by name, and where the resolver is.

Rows stay in force where the worker dies, each until its own time.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence

from monitor.daemon.probes import pins
from monitor.daemon.probes.host_names import HostNames
from monitor.kernel.bpf import Map
from monitor.policy.action import IPAddress
from monitor.wire import named
from monitor.wire.named import NamedSpan

_FIRST = struct.pack("=I", 0)
_PORTS = struct.Struct("=HH")  # struct ri_resolver


class Naming:
    """Of one instance. One writer: the worker."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self._keys: dict[int, set[bytes]] = {}

    def open(self) -> None:
        """Open the pinned maps; FileNotFoundError where the loader has not run."""
        folder = pins.current(self.instance)
        self._named = Map.pinned(folder / "named")
        self._resolver = Map.pinned(folder / "resolver")
        self.flows = Map.pinned(folder / "flows")
        self._hosts = HostNames(self.instance)
        for key in self._named:
            self._keys.setdefault(named.key_cgroup(key), set()).add(key)

    def close(self) -> None:
        for table in (self._named, self._resolver, self.flows):
            table.close()
        self._hosts.close()

    def listens(self, port4: int, port6: int) -> None:
        """Send questions to these ports of loopback from now on; 0: of that family none."""
        self._resolver.update(_FIRST, _PORTS.pack(socket.htons(port4), socket.htons(port6)))

    def put(self, cgroup: int, address: IPAddress, spans: Sequence[NamedSpan]) -> None:
        """Allow these ports at an address, and no others by name; none: take the row away.

        OSError E2BIG, ENOMEM: there is no room. RowError: more than a row holds.
        """
        key = named.key(cgroup, address)
        if not spans:
            self._named.delete(key)
            self._keys.get(cgroup, set()).discard(key)
            self._hosts.write(cgroup, address, ())
            return
        self._named.update(key, named.value(spans))
        self._keys.setdefault(cgroup, set()).add(key)

    def tell(self, cgroup: int, address: IPAddress, names: Iterable[str]) -> None:
        """Let TLS hellos ask for these names at an address, and for no others. OSError as put."""
        self._hosts.write(cgroup, address, names)

    def told(self, cgroup: int) -> dict[IPAddress, frozenset[str]]:
        """What they may ask for, at every address."""
        return self._hosts.every(cgroup)

    def rows(self, cgroup: int) -> Iterator[tuple[IPAddress, tuple[NamedSpan, ...]]]:
        """What is in force."""
        for key in tuple(self._keys.get(cgroup, ())):
            data = self._named.lookup(key)
            if data is not None:
                yield named.key_address(key), named.spans(data)

    def count(self) -> int:
        """How many addresses of all sessions."""
        return sum(len(keys) for keys in self._keys.values())

    def remove(self, cgroup: int) -> None:
        """Take all rows of a session away."""
        for key in self._keys.pop(cgroup, ()):
            self._named.delete(key)
        self._hosts.remove(cgroup)

    def remove_leftovers(self, live: Collection[int]) -> None:
        """Those of sessions that are no more."""
        for cgroup in set(self._keys).difference(live):
            self.remove(cgroup)
        self._hosts.remove_leftovers(live)

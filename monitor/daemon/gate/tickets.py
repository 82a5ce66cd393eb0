# SPDX-License-Identifier: Apache-2.0
"""Tickets: what the gate lets processes become, for the kernel to compare.

The hash over argv is that of probes/process.bpf.c. A ticket that was not used is taken back when
its process asks again: what a rule allowed then may be denied by now.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from operator import mul

from monitor.daemon.probes import pins
from monitor.daemon.probes.authority import Authority
from monitor.kernel.bpf import Map, Writer
from monitor.wire.layout import ri_ticket_key, struct_format
from monitor.wire.rows import Ticket

CHUNK_WORDS = 64
CHUNKS = 512
MOST_BYTES = 4 * CHUNK_WORDS * CHUNKS
MASK = (1 << 64) - 1
# From the answer to the new program's first instruction; a hung disk may lie in between.
LIFE_NANOSECONDS = 120 * 10**9
_ROW = struct.Struct(f"={CHUNK_WORDS}Q")
_INDEX = struct.Struct("=I")
_EXPIRES = struct.Struct("=Q")
_TICKET = struct.Struct(struct_format(ri_ticket_key))
# Processes that are remembered before those that are gone are forgotten.
REMEMBERED = 8192


class Tickets:
    """Gives and takes back. One gate for each instance, so that no other writes them."""

    def __init__(self, instance: str, authority: Authority) -> None:
        self._authority = authority
        table = Map.pinned(pins.current(instance) / "argument_keys")
        rows = []
        for index in range(CHUNKS + 1):
            key = _INDEX.pack(index)
            row = table.lookup(key)
            if row is None or not any(row):
                row = os.urandom(_ROW.size)
                table.update(key, row)
            rows.append(_ROW.unpack(row))
        table.close()
        self._beside = rows.pop()
        self._keys = [each for row in rows for each in row]
        self._given: dict[int, list[Ticket]] = {}
        # Those of a gate before this one.
        self._rows = Writer(Map.pinned(pins.current(instance) / "tickets"))
        table = Map.pinned(pins.current(instance) / "tickets")
        for key in table:
            inode, arguments, pid, device = _TICKET.unpack(key)
            self._given.setdefault(pid, []).append(Ticket(pid, device, inode, arguments))
        table.close()

    def hash(self, arguments: Sequence[bytes]) -> int:
        """The hash over argv; 0: it is too long for one."""
        data = b"\0".join(arguments) + b"\0"
        length = len(data)
        if length > MOST_BYTES:
            return 0
        words = memoryview(data.ljust((length + 3) & ~3, b"\0")).cast("I")
        return (sum(map(mul, words, self._keys)) + length * self._beside[0]) & MASK or 1

    def in_folder(self, hashed: int, device: int, inode: int) -> int:
        """A hash over argv, and the working directory with it."""
        _length, low, high, third, *_rest = self._beside
        more = (inode & 0xFFFFFFFF) * low + (inode >> 32) * high + device * third
        return (hashed + more) & MASK or 1

    def give(self, ticket: Ticket) -> None:
        """Let a process become this. OSError: there is no room."""
        expires = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + LIFE_NANOSECONDS
        if len(self._given) >= REMEMBERED:
            self._forget()
        self._rows.write(ticket.pack(), _EXPIRES.pack(expires))
        self._given.setdefault(ticket.pid, []).append(ticket)

    def withdraw(self, pid: int) -> None:
        """Take back what this process was given and has not used."""
        for ticket in self._given.pop(pid, ()):
            self._authority.withdraw(ticket)

    def _forget(self) -> None:
        """Drop what processes that are gone were given."""
        for pid in [pid for pid in self._given if not os.path.exists(f"/proc/{pid}")]:
            self.withdraw(pid)

# SPDX-License-Identifier: Apache-2.0
"""The memory that outlives who answers a session's opens: what waits, and what is marked.

It begins with a slot for each descriptor that the gate may have: the open that came with it and is
not answered yet. Behind them are rows that only grow in number: which inode which rule means. Both
are written before the fact that they tell of.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SLOTS = 8192
_PATH_BYTES = 4096
_SLOT = struct.Struct("=IIQQ")  # process, length of the path, device, inode
SLOT_BYTES = _SLOT.size + _PATH_BYTES
ROWS_AT = SLOTS * SLOT_BYTES
_EMPTY = bytes(_SLOT.size)
_ROW = struct.Struct("=QQII")  # device, inode, rule, padding


@dataclass(frozen=True, slots=True)
class Waits:
    """An open by process `pid` of the file `inode` on `device`, seen as `path`."""

    pid: int
    device: int
    inode: int
    path: str


class InodeRow(NamedTuple):
    """Rule number `rule` of the session means this inode."""

    device: int
    inode: int
    rule: int


class OpensMemory:
    """The memory behind descriptor `fd`, which stays the caller's."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._read = ROWS_AT

    def prepare(self) -> None:
        """Give a new file its size; holes cost nothing."""
        os.ftruncate(self.fd, ROWS_AT)

    # -- what waits ----------------------------------------------------------------------------

    def hold(self, number: int, waits: Waits) -> None:
        path = os.fsencode(waits.path)[:_PATH_BYTES]
        head = _SLOT.pack(waits.pid, len(path), waits.device, waits.inode)
        os.pwrite(self.fd, head + path, number * SLOT_BYTES)

    def release(self, number: int) -> None:
        os.pwrite(self.fd, _EMPTY, number * SLOT_BYTES)

    def held(self) -> dict[int, Waits]:
        """What was held and not released, by descriptor."""
        found = {}
        for number in self._used():
            data = os.pread(self.fd, SLOT_BYTES, number * SLOT_BYTES)
            pid, length, device, inode = _SLOT.unpack_from(data)
            if pid:
                path = os.fsdecode(data[_SLOT.size : _SLOT.size + length])
                found[number] = Waits(pid, device, inode, path)
        return found

    def _used(self) -> Iterator[int]:
        """The slots that were ever written to: the others are holes."""
        offset = last = 0
        while offset < ROWS_AT:
            try:
                start = os.lseek(self.fd, offset, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole follows
                return
            offset = os.lseek(self.fd, start, os.SEEK_HOLE)
            first = max(last, start // SLOT_BYTES)
            last = min(SLOTS, -(-offset // SLOT_BYTES))
            yield from range(first, last)

    # -- what is marked ------------------------------------------------------------------------

    def add(self, rows: list[InodeRow]) -> None:
        """One writer at a time."""
        data = b"".join(_ROW.pack(*row, 0) for row in rows)
        os.pwrite(self.fd, data, os.fstat(self.fd).st_size)

    def forget(self) -> None:
        """Take all rows away: the rules are others."""
        os.ftruncate(self.fd, ROWS_AT)

    def news(self) -> list[InodeRow]:
        """The rows that were added since the last call."""
        size = os.fstat(self.fd).st_size
        if size < self._read:
            self._read = ROWS_AT
        if size == self._read:
            return []
        data = os.pread(self.fd, size - self._read, self._read)
        whole = len(data) - len(data) % _ROW.size
        self._read += whole
        return [InodeRow(*fields[:3]) for fields in _ROW.iter_unpack(data[:whole])]

    def again(self) -> None:
        """Have `news` begin with the first row."""
        self._read = ROWS_AT

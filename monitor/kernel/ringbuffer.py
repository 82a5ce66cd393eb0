# SPDX-License-Identifier: Apache-2.0
"""BPF ring buffers by mmap, without callbacks or wake-ups.

Layout: Documentation/bpf/ringbuf.rst. The first page holds the consumer's position (ours to
write), the second the producer's; the data follow, mapped twice, so that a record is never split.
A record is a header of 8 bytes (length with two flag bits, page offset), its data, padding to 8.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monitor.kernel.bpf import get, info

# uapi/linux/bpf.h
BPF_RINGBUF_BUSY_BIT = 1 << 31
BPF_RINGBUF_DISCARD_BIT = 1 << 30
BPF_RINGBUF_HDR_SZ = 8


class RingBuffer:
    """One pinned ring. Positions only grow; a reader moves `consumed` on when it is done.

    Only the two positions stay mapped. Data are mapped when they are read: all at once they would
    count twice in this process's memory, and a mapping costs less than a microsecond a page.
    """

    def __init__(self, path: Path) -> None:
        self._fd = get(path)
        self.size = info(self._fd, path).max_entries
        page = mmap.PAGESIZE
        self._control = mmap.mmap(self._fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._pages = mmap.mmap(self._fd, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # One load or store of 8 bytes each, as the positions need.
        self._consumed = np.frombuffer(self._control, np.uint64, 1)
        self._produced = np.frombuffer(self._pages, np.uint64, 1)

    def _window(self, length: int) -> tuple[mmap.mmap, int]:
        """A mapping of `length` bytes from `consumed` on, and where in it they begin."""
        start = self.consumed % self.size
        first = start & ~(mmap.PAGESIZE - 1)
        # Never past the second copy of the data: positions are at most `size` apart.
        return (
            mmap.mmap(
                self._fd,
                start - first + length,
                mmap.MAP_SHARED,
                mmap.PROT_READ,
                offset=2 * mmap.PAGESIZE + first,
            ),
            start - first,
        )

    @property
    def produced(self) -> int:
        return int(self._produced[0])

    @property
    def consumed(self) -> int:
        return int(self._consumed[0])

    @consumed.setter
    def consumed(self, position: int) -> None:
        self._consumed[0] = position

    def records(self, end: int) -> Iterator[memoryview]:
        """Every finished record below `end`, in the order of reservation.

        Stops at one that is still being written. The memory is the ring's: copy what is kept, and
        take the next one only when done, since that gives the room back.
        """
        position = self.consumed
        if position >= end:
            return
        pages, offset = self._window(end - position)
        # Released with the last view of it.
        data = memoryview(pages)
        while position < end:
            length = int.from_bytes(data[offset : offset + 4], "little")
            if length & BPF_RINGBUF_BUSY_BIT:
                return
            size = length & ~BPF_RINGBUF_DISCARD_BIT
            if size == length:
                yield data[offset + BPF_RINGBUF_HDR_SZ : offset + BPF_RINGBUF_HDR_SZ + size]
            step = (BPF_RINGBUF_HDR_SZ + size + 7) & ~7
            position, offset = position + step, offset + step
            self.consumed = position

    def fixed(
        self, kind: np.dtype[np.void], end: int, limit: int | None = None
    ) -> NDArray[np.void]:
        """All finished records below `end` of a ring that holds one size only, as a view.

        `kind` is the record with its header of 8 bytes in front; at most `limit` of them. Stops at
        a record that is still being written; the caller moves `consumed` on by the view's `nbytes`.
        """
        count = (end - self.consumed) // kind.itemsize
        if limit is not None:
            count = min(count, limit)
        if not count:
            return np.empty(0, kind)
        pages, offset = self._window(count * kind.itemsize)
        view = np.frombuffer(pages, kind, count, offset)
        lengths = view["length"]
        finished = lengths == kind.itemsize - BPF_RINGBUF_HDR_SZ
        if not finished.all():
            view = view[: int(finished.argmin())]
        return view

    def close(self) -> None:
        """Give the mappings back."""
        del self._consumed, self._produced
        self._pages.close()
        self._control.close()
        os.close(self._fd)


def map_array(path: Path, kind: np.dtype[np.void]) -> NDArray[np.void]:
    """A pinned BPF_F_MMAPABLE array as a writable numpy view of its slots."""
    fd = get(path)
    try:
        entries = info(fd, path).max_entries
        length = -(-entries * kind.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(fd)
    return np.frombuffer(pages, kind, entries)

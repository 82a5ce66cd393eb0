# SPDX-License-Identifier: Apache-2.0
"""The reader of an instance's rings: timer driven, no wake-ups.

Two rings, one order. The programs submit what a record refers to before they reserve the record.
So `drain` notes how far `events` goes, reads all of `details`, and then `events` up to there; what
`details` holds of a later time waits for the next call. Events come out sorted by time.
"""

from __future__ import annotations

import time
from operator import attrgetter
from typing import cast

import numpy as np

from monitor.daemon.probes import pins
from monitor.daemon.probes.tables import add_lost
from monitor.kernel.bpf import Map
from monitor.kernel.ringbuffer import RingBuffer, map_array
from monitor.wire import layout
from monitor.wire.decode import EVENT_SIZE, Decoder, WireError
from monitor.wire.events import AnyEvent

# A record of the ring `events` with the ring's own header in front.
RECORD = np.dtype(
    [("length", np.uint32), ("page", np.uint32), ("event", np.void, EVENT_SIZE)], align=False
)
SEEN = cast("np.dtype[np.void]", np.dtype(layout.ri_seen))
DIRECTORY = cast("np.dtype[np.void]", np.dtype(layout.ri_directory))


class RingReader:
    """Reads the rings of one instance. One reader: the worker."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.errors = 0  # records that could not be decoded
        self._decoder = Decoder()
        self._held: list[AnyEvent] = []

    def open(self) -> None:
        """Open the pins; FileNotFoundError where the loader has not run.

        The programs are made to send everything anew that an earlier reader was told; repeats that
        were counted but not read are added to the sessions' lost records.
        """
        folder = pins.current(self.instance)
        self._events = RingBuffer(folder / "events")
        self._details = RingBuffer(folder / "details")
        self._seen = map_array(folder / "seen", SEEN)
        self._sessions, self._lost = (Map.pinned(folder / name) for name in ("sessions", "lost"))
        for entry in self._seen[self._seen["count"] > 0]:
            self._lose(int(entry["cgroup"]), int(entry["count"]))
        self._seen[:] = 0
        map_array(folder / "directories", DIRECTORY)[:] = 0

    def close(self) -> None:
        self._events.close()
        self._details.close()
        self._sessions.close()
        self._lost.close()

    def drain(self, limit: int = 8192) -> list[AnyEvent]:
        """Everything that happened up to now, oldest first; at most `limit` of the small records.

        Where more than `limit` wait, `pending` says so, and the next call goes on.
        """
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        end = self._events.produced
        if not self._drain_details():
            return []
        view = self._events.fixed(RECORD, end, limit)
        count = len(view)
        data = view["event"].tobytes()
        taken = view.nbytes
        del view
        self._events.consumed += taken
        events = self._decode(data, count)
        if count == limit and events:
            now = events[-1].time
        events += (event for event in self._held if event.time <= now)
        self._held = [event for event in self._held if event.time > now]
        events.sort(key=attrgetter("time"))
        return events

    @property
    def pending(self) -> bool:
        """Whether records wait."""
        return self._events.produced != self._events.consumed or bool(self._held)

    def mark(self) -> tuple[int, int, int]:
        """How far the rings go now, for `reached`."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return self._events.produced, self._details.produced, now

    def reached(self, mark: tuple[int, int, int]) -> bool:
        """Whether `drain` has returned everything up to `mark`."""
        events, details, now = mark
        read = self._events.consumed >= events and self._details.consumed >= details
        return read and not any(event.time <= now for event in self._held)

    def sweep(self, cgroup: int) -> list[AnyEvent]:
        """The repeats of a session that were only counted so far, one event for each action.

        Call it at the session's end, after `drain`. Each event stands for `count` repeats.
        """
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        events = []
        for slot in np.flatnonzero(self._seen["cgroup"] == cgroup):
            tag, count = int(self._seen[slot]["tag"]), int(self._seen[slot]["count"])
            self._seen[slot] = (0, 0, 0)
            event = self._decoder.repeats(tag, count, now) if count else None
            if event is not None:
                events.append(event)
            elif count:
                self._lose(cgroup, count)
        return events

    def _drain_details(self) -> bool:
        """Decode all of `details`; False: one is being written, and the rest must wait for it."""
        end = self._details.produced
        for record in self._details.records(end):
            try:
                event = self._decoder.detail(bytes(record))
            except WireError:
                self.errors += 1
                continue
            if event is not None:
                self._held.append(event)
        return self._details.consumed >= end

    def _decode(self, data: bytes, count: int) -> list[AnyEvent]:
        events = []
        decode = self._decoder.event
        for offset in range(0, count * EVENT_SIZE, EVENT_SIZE):
            try:
                event = decode(data, offset)
            except WireError:
                self.errors += 1
                continue
            if event is not None:
                events.append(event)
        if self._decoder.unknown:
            for cgroup, repeats in self._decoder.unknown.items():
                self._lose(cgroup, repeats)
            self._decoder.unknown.clear()
        return events

    def _lose(self, cgroup: int, count: int) -> None:
        """Count actions that no record stands for; those of a session that is gone are nobody's."""
        known = self._sessions.lookup(cgroup.to_bytes(8, "little")) is not None
        add_lost(self._lost, cgroup if known else 0, count)

# SPDX-License-Identifier: Apache-2.0
"""The gate's loop: sources that become readable, and things to do at a time.

One thread. A source that raises is told of and asked again; nothing here ends the process.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
import traceback
from collections.abc import Callable
from typing import Protocol

# Nothing is due: look around anyway.
IDLE_SECONDS = 10.0
MILLISECONDS = 1000


class Source(Protocol):
    """Something that waits for answers. `fileno` stays the same as long as it is in the loop."""

    def fileno(self) -> int: ...

    def ready(self) -> None:
        """It is readable, or was hung up. Must not wait; what is left brings it here again.

        A source that has `hung_up` is told by that where there is nothing left to read.
        """


class Loop:
    """Asks whichever source is readable; `stop` ends `run`."""

    def __init__(self) -> None:
        self.faults = 0
        self._poll = select.epoll()
        self._sources: dict[int, Source] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._running = True

    def add(self, source: Source) -> None:
        self._sources[source.fileno()] = source
        self._poll.register(source.fileno(), select.EPOLLIN)

    def remove(self, source: Source) -> None:
        """Ask it no more; before its descriptor is closed. Nothing happens where it is not in."""
        if self._sources.get(source.fileno()) is source:
            del self._sources[source.fileno()]
            self._poll.unregister(source.fileno())

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` once, in so many seconds."""
        entry = (time.monotonic() + seconds, next(self._numbers), action)
        heapq.heappush(self._due, entry)

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` again and again."""

        def again() -> None:
            self.after(seconds, again)
            action()

        self.after(seconds, again)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Until `stop`."""
        while self._running:
            wait = IDLE_SECONDS
            if self._due:
                wait = max(0.0, self._due[0][0] - time.monotonic())
            for number, events in self._poll.poll(wait):
                # One that was asked before may have taken this one out.
                source = self._sources.get(number)
                if source is not None:
                    over = None if events & select.EPOLLIN else getattr(source, "hung_up", None)
                    self._do(over or source.ready)
            while self._due and self._due[0][0] <= time.monotonic():
                self._do(heapq.heappop(self._due)[2])

    def _do(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:  # the loop's edge: one action must not end the others
            self.faults += 1
            if self.faults < 100:
                traceback.print_exc()

# SPDX-License-Identifier: Apache-2.0
"""Who is told of asks: the log, the agent's user, and whoever watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from monitor.audit.record import Draft
from monitor.daemon.context import Context
from monitor.session.asks import Answer, Ask, How

# Changes that a watcher may be behind; further back, it is let go.
BACKLOG = 50_000


@dataclass(frozen=True, slots=True)
class Change:
    """An ask was raised, or it is over (`answer`)."""

    ask: Ask
    answer: Answer | None


Watcher = asyncio.Queue[Change | None]


class Telling:
    """Records wait until the loop's turn is over, so that many at once are written at once."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._watchers: set[Watcher] = set()
        self._drafts: list[Draft] = []

    @contextlib.contextmanager
    def watch(self) -> Iterator[Watcher]:
        """What changes from now on; None: no more comes."""
        queue: Watcher = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(None)
        self.flush()

    def raised(self, ask: Ask, draft: Draft) -> None:
        wanted = ask.wanted
        self.record(draft)
        text = f"{wanted.verb.value} {wanted.object} is held until it is answered (ask {ask.id})"
        self.context.sessions.notices.asked(
            wanted.session, text + (f": {wanted.why}" if wanted.why else "")
        )
        self._change(Change(ask, None))

    def answered(self, ask: Ask, answer: Answer) -> None:
        """An ask is over; its record was written before."""
        wanted = ask.wanted
        self._change(Change(ask, answer))
        if answer.how is not How.GONE:
            self.context.sessions.notices.asked(
                wanted.session, f"{wanted.verb.value} {wanted.object} is {answer.reason}"
            )

    def record(self, draft: Draft) -> None:
        self._drafts.append(draft)
        if len(self._drafts) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self.flush)
        except RuntimeError:  # no loop
            self.flush()

    def record_now(self, drafts: list[Draft]) -> None:
        """Write these, behind what waits."""
        self._drafts += drafts
        self.flush()

    def flush(self) -> None:
        drafts, self._drafts = self._drafts, []
        if drafts:
            self.context.recording.record(drafts)

    def _change(self, change: Change) -> None:
        for watcher in list(self._watchers):
            if watcher.qsize() >= BACKLOG:
                self._watchers.discard(watcher)
                watcher.put_nowait(None)
            else:
                watcher.put_nowait(change)

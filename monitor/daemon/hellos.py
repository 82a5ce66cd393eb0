# SPDX-License-Identifier: Apache-2.0
"""Connections that were refused for how they begin: destroyed, so that programs need not wait.

What is refused stays so without this: no packet leaves such a connection any more. But TCP would go
on trying for minutes. The kernel tells of each in a record, and a new worker of those before it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from collections.abc import Iterable
from typing import Any

from monitor.kernel import sockdiag
from monitor.wire.events import HelloEvent


class Hellos:
    """Of all sessions of one worker."""

    def __init__(self) -> None:
        self._waiting: list[HelloEvent] = []
        self._task: asyncio.Task[Any] | None = None

    def refused(self, event: HelloEvent) -> None:
        """The kernel says that a connection began with what its rule does not allow."""
        if event.observed:
            return
        self._waiting.append(event)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._cut())

    async def _cut(self) -> None:
        while self._waiting:
            events, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(destroy, events)
            except OSError as error:
                print(f"ri-monitord: cannot cut connections: {error}", file=sys.stderr)


def destroy(events: Iterable[HelloEvent]) -> int:
    """Destroy the sockets that these are of; how many were still there. OSError."""
    ends: dict[int, set[tuple[object, int, int]]] = {}
    for event in events:
        address = ipaddress.ip_address(event.address)
        ends.setdefault(event.cgroup, set()).add((address, event.port, event.own_port))
    destroyed = 0
    for cgroup, wanted in ends.items():
        try:
            found = sockdiag.sockets(cgroup)
        except FileNotFoundError:  # the session has ended, and its sockets with it
            continue
        destroyed += sockdiag.destroy(
            [
                each
                for each in found
                if (each.remote.address, each.remote.port, each.local.port) in wanted
            ]
        )
    return destroyed

# SPDX-License-Identifier: Apache-2.0
"""Sessions from their creation to their end: ties registry, kernel tables, cgroup and ending.

The launch channel uses, in this order: `create`, `attach`, `started`; and `end` at any time.
"""

from __future__ import annotations

import socket
from typing import Any

from monitor.daemon.context import Context, LaunchRequest
from monitor.kernel.peer import Peer
from monitor.session.session import Session


class Sessions:
    """The sessions of one worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.lifelines: dict[str, socket.socket] = {}

    async def create(self, caller: Peer, request: LaunchRequest) -> Session:
        """A session in LAUNCHING: cgroup, limits, tables and registry in place. Refused; OSError."""
        raise NotImplementedError

    def attach(self, session: Session, connection: socket.socket) -> None:
        """Leave a copy of the session's lifeline with the keeper; its notices go there too."""
        raise NotImplementedError

    def started(self, session: Session, pid: int, facts: dict[str, Any]) -> Session:
        """CMD may run as `pid`: `facts` (what was read back) go into session.launch. Refused."""
        raise NotImplementedError

    async def end(self, session: Session, why: str) -> None:
        """Take the session down, whatever state it is in; waits where another call does it."""
        raise NotImplementedError

# SPDX-License-Identifier: Apache-2.0
"""Messages between worker and gate: a JSON object a packet, descriptors beside it.

Worker to gate `{"do": "session" | "earned" | "end" | "answer"}`, gate to worker `{"say": "ready" |
"ask" | "gone" | "record" | "label" | "budget"}`. A document that is larger than a packet takes is
the content of a sealed memfd among the descriptors.
"""

from __future__ import annotations

import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

# A packet must fit into the socket's buffer; argument lists are cut before they get here.
MAXIMUM = 160_000
DESCRIPTORS = 8
# What waits while the other end does not read; the oldest record goes first, never an ask.
QUEUED = 50_000


class Channel:
    """One end. `send` never waits: what the socket does not take is sent by `flush`."""

    def __init__(self, connection: socket.socket, blocked: Callable[[bool], None]) -> None:
        """`blocked` is told when something waits to be sent (True), and when nothing does."""
        self.connection = connection
        connection.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, 4 << 20)
        self.dropped = 0
        self._blocked = blocked
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()

    def fileno(self) -> int:
        return self.connection.fileno()

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Descriptors are copied, so that the caller may close them. OSError: the end is gone."""
        data = json.dumps(message).encode()
        if len(data) > MAXIMUM:
            raise ValueError(f"a message of {len(data)} bytes")
        if not self._queue and self._sent(data, descriptors):
            return
        if len(self._queue) >= QUEUED and message.get("say") == "record":
            self.dropped += 1
            return
        if not self._queue:
            self._blocked(True)
        self._queue.append((data, tuple(os.dup(each) for each in descriptors)))

    def flush(self) -> None:
        """Try again to send what waits; `blocked` is told what has become of it."""
        while self._queue:
            data, descriptors = self._queue[0]
            if not self._sent(data, descriptors):
                self._blocked(True)
                return
            self._queue.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        self._blocked(False)

    def _sent(self, data: bytes, descriptors: Sequence[int]) -> bool:
        try:
            socket.send_fds(self.connection, [data], list(descriptors), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        return True

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message; None: there is none now. ConnectionError: the other end is gone."""
        try:
            data, descriptors, flags, _address = socket.recv_fds(
                self.connection, MAXIMUM + 1, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionError("the other end is closed")
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ConnectionError("a message was too long")
        message: dict[str, Any] = json.loads(data)
        return message, descriptors

    def close(self) -> None:
        for _data, descriptors in self._queue:
            for descriptor in descriptors:
                os.close(descriptor)
        self._queue.clear()
        self.connection.close()

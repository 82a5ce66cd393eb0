# SPDX-License-Identifier: Apache-2.0
"""Servers outside of any session, for sessions to talk to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Server:
    """Accepts on 127.0.0.1 and keeps what came; `port` is its port."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.connections.append(self.listener.accept()[0])

    def close(self) -> None:
        # Wakes the thread; closing alone does not.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join(5)
        for each in self.connections:
            each.close()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that accepts until the end of the block."""
    server = Server()
    try:
        yield server
    finally:
        server.close()


@contextlib.contextmanager
def accepting() -> Iterator[int]:
    """The port of one."""
    with serving() as server:
        yield server.port

# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the keeper's store: descriptors by name that outlive the worker."""

from __future__ import annotations

import os
import socket

ENVIRONMENT = "RI_KEEPER"
MESSAGE_SIZE = 4096
API_LISTENER = "listen.api"
LAUNCH_LISTENER = "listen.launch"
LIFELINE = "lifeline."


class Kept:
    """Talks to the keeper; every call raises OSError when the keeper is gone."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    @classmethod
    def from_environment(cls) -> Kept:
        """The store that the keeper that started this process offers it."""
        number = os.environ.pop(ENVIRONMENT)
        return cls(socket.socket(fileno=int(number)))

    def fileno(self) -> int:
        """Readable outside `fetch` only when the keeper is gone."""
        return self._channel.fileno()

    def store(self, name: str, fd: int) -> None:
        """Leave a copy of `fd` with the keeper, in place of what was there under `name`."""
        socket.send_fds(self._channel, [f"store {name}".encode()], [fd])

    def drop(self, name: str) -> None:
        """Have the keeper close its copy; nothing happens where there is none."""
        self._channel.send(f"drop {name}".encode())

    def fetch(self) -> dict[str, int]:
        """A copy of every descriptor in the store, by name; the caller closes them."""
        self._channel.send(b"fetch")
        found: dict[str, int] = {}
        while True:
            message, received, _flags, _address = socket.recv_fds(
                self._channel, MESSAGE_SIZE, 1, socket.MSG_CMSG_CLOEXEC
            )
            if not message:
                return found
            found[message.decode()] = received[0]

    def ready(self) -> None:
        self._channel.send(b"ready")

    def status(self, text: str) -> None:
        """One line for the service manager."""
        self._channel.send(f"status {text}".encode())

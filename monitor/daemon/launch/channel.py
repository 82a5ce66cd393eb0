# SPDX-License-Identifier: Apache-2.0
"""The daemon's end of a launch connection: messages, each with the process that really sent it.

Whoever is at the other end is not trusted: messages have a limit, descriptors are taken only where
one is due, and nothing is ever waited for but the next message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl

from monitor.kernel.peer import UCRED
from monitor.launch import protocol
from monitor.launch.protocol import Message, ProtocolError

# Room for more descriptors than anyone should send, so that they arrive and can be closed.
ANCILLARY = socket.CMSG_SPACE(UCRED.size) + socket.CMSG_SPACE(64 * 4)


class Closed(ConnectionError):
    """The other end is closed: the launcher has ended, or is being killed."""


class LaunchChannel:
    """Messages on `connection`, which is made non-blocking and told to carry credentials."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    async def receive(self, kind: str, sender: int | None = None) -> tuple[Message, int]:
        """The next message and the pid of its sender, which must be `sender` where given.

        Closed; ProtocolError where it is not the message that is due.
        """
        message, pid, _descriptor = await self._receive(kind, sender, 0)
        return message, pid

    async def receive_one(self, kind: str, sender: int) -> tuple[Message, int]:
        """The same, of a message that must come with a descriptor; the caller closes it."""
        message, _pid, descriptors = await self._receive(kind, sender, 1)
        return message, descriptors[0]

    async def _receive(
        self, kind: str, sender: int | None, due: int
    ) -> tuple[Message, int, list[int]]:
        while True:
            try:
                return self._take(kind, sender, due)
            except BlockingIOError:
                await readable(self.connection)

    def _take(self, kind: str, sender: int | None, due: int) -> tuple[Message, int, list[int]]:
        try:
            data, ancillary, flags, _address = self.connection.recvmsg(
                protocol.MAXIMUM, ANCILLARY, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError as error:
            raise Closed(str(error)) from error
        pid, descriptors = _unpack(ancillary)
        try:
            message = _message(data, flags, len(descriptors), kind, due)
            _check_sender(kind, pid, sender)
        except (Closed, ProtocolError):
            for descriptor in descriptors:
                os.close(descriptor)
            raise
        return message, pid, descriptors

    def send(self, kind: str, *fields: tuple[str, bytes], descriptors: Sequence[int] = ()) -> None:
        """Closed where the other end is gone or does not read what it is sent."""
        data = protocol.encode(kind, *fields)
        try:
            socket.send_fds(self.connection, [data], list(descriptors), socket.MSG_NOSIGNAL)
        except OSError as error:
            raise Closed(f"`{kind}` cannot be sent: {error.strerror}") from error

    def refuse(self, reason: str, hint: str = "") -> None:
        """Say why there is no session, to whom still listens."""
        fields = [("reason", _line(reason))]
        if hint:
            fields.append(("hint", _line(hint)))
        with contextlib.suppress(Closed):
            self.send(protocol.REFUSED, *fields)


def _message(data: bytes, flags: int, descriptors: int, kind: str, due: int) -> Message:
    """The message of a packet, which must be of this kind and come with so many descriptors."""
    if not data:
        raise Closed
    if flags & socket.MSG_TRUNC:
        raise ProtocolError(f"a message of more than {protocol.MAXIMUM} bytes")
    message = protocol.decode(data).expect(kind)
    if descriptors != due or flags & socket.MSG_CTRUNC:
        raise ProtocolError(f"`{kind}` came with {descriptors} descriptors, not {due}")
    return message


def _check_sender(kind: str, pid: int, sender: int | None) -> None:
    if sender is not None and pid != sender:
        raise ProtocolError(f"`{kind}` came from process {pid}, not from {sender}")


def _line(text: str) -> bytes:
    return os.fsencode(" ".join(text.replace("\0", "?").split())[:4000])


def _unpack(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, list[int]]:
    """(pid of the sender, descriptors); pid 0 where the kernel gave none."""
    pid = 0
    descriptors: list[int] = []
    for level, kind, content in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS:
            pid = UCRED.unpack(content[: UCRED.size])[0]
        elif kind == socket.SCM_RIGHTS:
            whole = len(content) - len(content) % 4
            descriptors += [
                int.from_bytes(content[at : at + 4], "little") for at in range(0, whole, 4)
            ]
    return pid, descriptors


async def readable(connection: socket.socket) -> None:
    """Wait until `connection` has something to read, its end included."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection.fileno(), tell)
    try:
        await ready
    finally:
        loop.remove_reader(connection.fileno())


def sealed(name: str, content: bytes) -> int:
    """A memfd that holds `content` and can never hold anything else."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        fcntl(descriptor, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor

# SPDX-License-Identifier: Apache-2.0
"""The connection to the daemon: made by the parent, used by the child while it is confined.

It is the session's lifeline too: when the launcher's last copy of it is closed, the session ends.
"""

import _socket
import os

from monitor.launch import protocol
from monitor.launch.failure import LaunchError
from monitor.launch.protocol import Message, ProtocolError

# For the answer to a request: a daemon that has just been restarted needs a moment.
ANSWER_SECONDS = 60.0
UCRED = 12  # bytes of struct ucred: pid, uid, gid
DESCRIPTOR = 4  # bytes of a descriptor in SCM_RIGHTS
# Stands for users that a user namespace does not know: /proc/sys/kernel/overflowuid.
OVERFLOW = 65534


class Channel:
    """Sends and receives messages; LaunchError wherever the daemon does not do its part."""

    def __init__(self, connection: _socket.socket, path: str) -> None:
        self.connection = connection
        self.path = path

    @classmethod
    def connect(cls, path: str) -> "Channel":
        """A channel to the daemon that listens at `path`, which must be root's."""
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        # A time-out of Python's own would make the connection fail at once where others wait too
        # (EAGAIN); this one waits for its turn. struct timeval: seconds, microseconds.
        limit = int(ANSWER_SECONDS).to_bytes(8, "little") + bytes(8)
        connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)
        try:
            connection.connect(path)
            connection.settimeout(ANSWER_SECONDS)
            credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, UCRED)
        except OSError as error:
            raise LaunchError(
                f"cannot reach the daemon at {path}: {os.strerror(error.errno or 0)}",
                "is ri-monitord running? RI_SOCKET names the socket of its API",
            ) from error
        if not _is_root(int.from_bytes(credentials[4:8], "little")):
            raise LaunchError(
                f"who listens at {path} is not root, so it is not the daemon",
                "RI_SOCKET names the socket of its API",
            )
        return cls(connection, path)

    def send(
        self, kind: str, *fields: tuple[str, bytes], descriptors: "list[int] | None" = None
    ) -> None:
        data = protocol.encode(kind, *fields)
        rights = b"".join(each.to_bytes(DESCRIPTOR, "little") for each in descriptors or [])
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if rights else []
        try:
            self.connection.sendmsg([data], ancillary)
        except TimeoutError as error:
            raise LaunchError("the daemon does not take what is sent to it") from error
        except OSError as error:
            # It may have said why before it closed the connection.
            try:
                answer, _descriptors = self._receive()
            except (OSError, ProtocolError):
                answer = None
            if answer is not None and answer.kind == protocol.REFUSED:
                raise _refusal(answer) from error
            raise _closed(kind) from error

    def receive(self, kind: str, descriptors: int = 0) -> tuple[Message, list[int]]:
        """The next message, which must be `kind` with so many descriptors."""
        try:
            message, received = self._receive()
        except TimeoutError as error:
            raise LaunchError(
                f"the daemon did not answer in time (`{kind}` is due)",
                "see its log: journalctl -u ri-monitord",
            ) from error
        except OSError as error:
            raise _closed(kind) from error
        except ProtocolError as error:
            raise _strange(error) from error
        if message is None:
            raise _closed(kind)
        if message.kind == protocol.REFUSED:
            raise _refusal(message)
        if message.kind != kind:
            raise _strange(f"`{message.kind}` came where `{kind}` is due")
        if len(received) != descriptors:
            raise _strange(f"{len(received)} descriptors came with `{kind}`")
        return message, received

    def _receive(self) -> tuple[Message | None, list[int]]:
        """A message and its descriptors; None: the daemon has closed the connection."""
        data, ancillary, flags, _address = self.connection.recvmsg(
            protocol.MAXIMUM,
            _socket.CMSG_SPACE(2 * protocol.DESCRIPTORS * DESCRIPTOR),
            _socket.MSG_CMSG_CLOEXEC,
        )
        received = []
        for level, kind, content in ancillary:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                received += [
                    int.from_bytes(content[at : at + DESCRIPTOR], "little")
                    for at in range(0, len(content), DESCRIPTOR)
                ]
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            raise ProtocolError("a message was too long")
        return (protocol.decode(data) if data else None), received


def _refusal(message: Message) -> LaunchError:
    reason = os.fsdecode(message.get("reason") or b"refused without a reason")
    return LaunchError(reason, os.fsdecode(message.get("hint") or b""))


def _closed(due: str) -> LaunchError:
    return LaunchError(
        f"the daemon closed the connection (`{due}` was due)",
        "see its log: journalctl -u ri-monitord",
    )


def _strange(what: object) -> LaunchError:
    return LaunchError(
        f"the daemon does not speak this protocol: {what}",
        "ri-exec and ri-monitord must be of the same version",
    )


def _is_root(uid: int) -> bool:
    """Whether it is the host's root, as far as it can be told from here.

    A session's user namespace knows its own user only; whoever else listens shows as this one. The
    kernel lets a session connect to the daemon's own socket and to nobody else under its name.
    """
    if uid != OVERFLOW:
        return uid == 0
    try:
        with open("/proc/self/uid_map", "rb") as file:
            return not any(line.split()[0] == b"0" for line in file)
    except OSError:  # a profile that leaves /proc out
        return True

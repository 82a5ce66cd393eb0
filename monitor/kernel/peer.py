# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end of a Unix socket, as the kernel knows it.

SO_PEERCRED and SO_PEERGROUPS give the credentials at the time of connect(2): they do not follow a
later setuid. Source: unix(7), socket(7), asm-generic/socket.h.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
from dataclasses import dataclass

SO_PEERGROUPS = 59
SO_PEERPIDFD = 77  # Linux kernel commit 7b26952a91cf (in v6.5)
UCRED = struct.Struct("=iII")
FIRST_GUESS = 64  # supplementary groups


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected; `groups` are its supplementary ones."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...]

    @property
    def gids(self) -> frozenset[int]:
        return frozenset((self.gid, *self.groups))


def peer_of(connection: socket.socket) -> Peer:
    """The credentials of `connection`'s other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
    pid, uid, gid = UCRED.unpack(credentials)
    return Peer(pid, uid, gid, _groups(connection))


def gone(connection: socket.socket) -> bool:
    """Whether the process that connected has exited, so that its number may be another's by now.

    False also where the kernel cannot tell (before Linux 6.5).
    """
    try:
        fd = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        return error.errno == errno.ESRCH
    try:
        return bool(select.select([fd], [], [], 0)[0])
    finally:
        os.close(fd)


def _groups(connection: socket.socket) -> tuple[int, ...]:
    size = FIRST_GUESS
    while True:
        found = array.array("I")
        try:
            data = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, size * found.itemsize)
        except OSError as error:
            if error.errno != errno.ERANGE or size > 1 << 16:  # NGROUPS_MAX
                raise
            size *= 4
            continue
        found.frombytes(data)
        return tuple(found)

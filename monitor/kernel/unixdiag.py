# SPDX-License-Identifier: Apache-2.0
"""Under which names the unix sockets behind a file were bound, as the kernel tells by sock_diag(7).

A name stays what its server gave it, wherever the file is moved or linked later. Only sockets of
the caller's network namespace are told. Source: uapi/linux/unix_diag.h, uapi/linux/sock_diag.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

from monitor.kernel.inodes import described, devices
from monitor.kernel.netlink import (
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    attributes,
    error_of,
    messages,
    request,
)

NETLINK_SOCK_DIAG = 4  # uapi/linux/netlink.h
SOCK_DIAG_BY_FAMILY = 20
# uapi/linux/unix_diag.h: udiag_show, attributes
UDIAG_SHOW_NAME, UDIAG_SHOW_VFS = 1, 2
UNIX_DIAG_NAME, UNIX_DIAG_VFS = 0, 1
# net/tcp_states.h: what takes connections and datagrams. A datagram socket is CLOSE, or ESTABLISHED
# once it has connected to somebody itself.
ESTABLISHED, CLOSE, LISTEN = 1, 7, 10
SERVING = 1 << ESTABLISHED | 1 << CLOSE | 1 << LISTEN
_REQUEST = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_MESSAGE = 16  # struct unix_diag_msg
_VFS = struct.Struct("=II")  # struct unix_diag_vfs: inode, device
_BUFFER = 1 << 16


def bound_names(device: int, inode: int) -> set[bytes]:
    """The names, as their servers gave them, of the sockets behind one file.

    `device` and `inode` as the kernel numbers them (see `identity`); of an inode only the lower 32
    bits are told.
    """
    wanted = (inode & 0xFFFFFFFF, device)
    return {name for name, vfs in _dump() if vfs == wanted}


def paths() -> set[bytes]:
    """The absolute paths that sockets were bound under."""
    return {name for name, _vfs in _dump() if name.startswith(b"/")}


def identity(descriptor: int, mountinfo: str) -> tuple[int, int]:
    """(device, inode) of an open file, as the kernel's own structures hold them.

    `mountinfo` is the text of a /proc/PID/mountinfo that has its mount. On some file systems fstat
    says something else. OSError, ValueError: the mount is not there.
    """
    mount, inode = described(descriptor)
    for known, device in devices(mountinfo.splitlines()):
        if known == mount:
            return device, inode
    raise ValueError(f"mount {mount} is not among those of the process")


def _dump() -> Iterator[tuple[bytes, tuple[int, int] | None]]:
    show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS
    asked = _REQUEST.pack(socket.AF_UNIX, 0, 0, SERVING, 0, show, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as diag:
        diag.send(request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, asked))
        while True:
            for each in messages(diag.recv(_BUFFER)):
                if each.kind == NLMSG_DONE:
                    return
                if each.kind == NLMSG_ERROR:
                    error = error_of(each.body)
                    raise OSError(error, os.strerror(error), "unix sockets")
                yield _told(each.body)


def _told(message: bytes) -> tuple[bytes, tuple[int, int] | None]:
    """(name, (inode, device)) of one socket; a name that is a path comes without its NUL."""
    parts = attributes(message[_MESSAGE:])
    name, vfs = parts.get(UNIX_DIAG_NAME, b""), parts.get(UNIX_DIAG_VFS)
    if not name.startswith(b"\0"):
        name = name.split(b"\0", 1)[0]
    return name, None if vfs is None else _VFS.unpack(vfs)

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

NETLINK_SOCK_DIAG = 4  # uapi/linux/netlink.h
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
# uapi/linux/unix_diag.h: udiag_show, attributes
UDIAG_SHOW_NAME, UDIAG_SHOW_VFS = 1, 2
UNIX_DIAG_NAME, UNIX_DIAG_VFS = 0, 1
# net/tcp_states.h: what takes connections and datagrams. A datagram socket is CLOSE, or ESTABLISHED
# once it has connected to somebody itself.
ESTABLISHED, CLOSE, LISTEN = 1, 7, 10
SERVING = 1 << ESTABLISHED | 1 << CLOSE | 1 << LISTEN
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBHIIIII")  # struct unix_diag_req
_MESSAGE = 16  # struct unix_diag_msg
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
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
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    inode = int(fields["ino"]) if "ino" in fields else os.fstat(descriptor).st_ino
    mount = fields["mnt_id"].strip()
    for line in mountinfo.splitlines():
        number, _parent, device, _rest = line.split(" ", 3)
        if number == mount:
            major, minor = map(int, device.split(":"))
            return major << 20 | minor, inode  # linux/kdev_t.h: MKDEV
    raise ValueError(f"mount {mount} is not among those of the process")


def _dump() -> Iterator[tuple[bytes, tuple[int, int] | None]]:
    show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, SERVING, 0, show, 0, 0)
    size = _HEADER.size + len(request)
    header = _HEADER.pack(size, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as diag:
        diag.send(header + request)
        while True:
            data = diag.recv(_BUFFER)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, *_rest = _HEADER.unpack_from(data, at)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, at + _HEADER.size)[0]
                    raise OSError(number, os.strerror(number), "unix sockets")
                yield _told(data[at + _HEADER.size : at + length])
                at += length + 3 & ~3


def _told(message: bytes) -> tuple[bytes, tuple[int, int] | None]:
    """(name, (inode, device)) of one socket; a name that is a path comes without its NUL."""
    name, vfs = b"", None
    at = _MESSAGE
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        value = message[at + _ATTRIBUTE.size : at + length]
        if kind == UNIX_DIAG_NAME:
            name = value if value.startswith(b"\0") else value.split(b"\0", 1)[0]
        elif kind == UNIX_DIAG_VFS:
            vfs = _VFS.unpack(value)
        at += length + 3 & ~3
    return name, vfs

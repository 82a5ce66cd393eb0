# SPDX-License-Identifier: Apache-2.0
"""fanotify: opens that wait for an answer, and names that appear in folders.

Two kinds of group: one of permission events (each carries a descriptor of what is opened), one of
names (each carries the folder's file handle and a name). Sources: fanotify(7), fanotify_init(2),
fanotify_mark(2), uapi/linux/fanotify.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from monitor.kernel.libc import LIBC, oserror

# uapi/linux/fanotify.h: events
FAN_CREATE = 0x00000100
FAN_MOVED_TO = 0x00000080
FAN_OPEN_PERM = 0x00010000
FAN_Q_OVERFLOW = 0x00004000
FAN_EVENT_ON_CHILD = 0x08000000
FAN_ONDIR = 0x40000000
# fanotify_init
FAN_CLOEXEC = 0x01
FAN_NONBLOCK = 0x02
FAN_CLASS_CONTENT = 0x04
FAN_UNLIMITED_QUEUE = 0x10
FAN_UNLIMITED_MARKS = 0x20
FAN_REPORT_PIDFD = 0x80
FAN_REPORT_DIR_FID = 0x400
FAN_REPORT_NAME = 0x800
# fanotify_mark
FAN_MARK_ADD = 0x01
FAN_MARK_REMOVE = 0x02
FAN_MARK_DONT_FOLLOW = 0x04
FAN_MARK_IGNORED_MASK = 0x20
FAN_MARK_IGNORED_SURV_MODIFY = 0x40
# answers
FAN_ALLOW = 0x01
FAN_DENY = 0x02
# struct fanotify_event_info_header.info_type
INFO_DFID_NAME = 2
INFO_PIDFD = 4

READ_BYTES = 65536
AT_FDCWD = -100
MAX_HANDLE_BYTES = 128
_VERSION = 3
_METADATA = struct.Struct("=IBBHQii")  # event_len, vers, reserved, metadata_len, mask, fd, pid
_INFO = struct.Struct("=BBH")  # info_type, pad, len
_RESPONSE = struct.Struct("=iI")  # fd, response
_HANDLE = struct.Struct("=Ii")  # struct file_handle: handle_bytes, handle_type


LIBC.fanotify_mark.argtypes = (
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_char_p,
)


@dataclass(frozen=True, slots=True)
class Opened:
    """A process waits in an open(2). `fd` is ours to close; `pidfd` too (below 0: none).

    `fd` below 0: the queue overflowed, and nobody waits.
    """

    fd: int
    pid: int
    pidfd: int


@dataclass(frozen=True, slots=True)
class Appeared:
    """A name in the folder with this `handle`; the handle is "" where events were lost.

    `folder`: what appeared is a folder.
    """

    handle: bytes
    name: str
    folder: bool


def permission_group() -> int:
    """A group of opens that wait for an answer.

    Its queue has no limit: past one, the kernel lets opens through. An event's descriptor is opened
    without waiting (a fifo has no writer yet) and leaves no access time.
    """
    flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_CLASS_CONTENT
    flags |= FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS | FAN_REPORT_PIDFD
    return _init(flags, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOATIME)


def name_group() -> int:
    """A group of names that appear."""
    flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS
    return _init(flags | FAN_REPORT_DIR_FID | FAN_REPORT_NAME, 0)


def _init(flags: int, event_flags: int) -> int:
    group = int(LIBC.fanotify_init(ctypes.c_uint(flags), ctypes.c_uint(event_flags)))
    if group < 0:
        raise oserror("fanotify_init")
    return group


def mark_opens(group: int, directory: int, name: str, *, tree: bool = False) -> None:
    """Have opens of the entry wait; with `tree` those of what is directly in it as well.

    The entry itself is meant, not what it links to. An exception that was made for it is undone.
    """
    encoded = os.fsencode(name)
    undo = FAN_MARK_REMOVE | FAN_MARK_IGNORED_MASK | FAN_MARK_DONT_FOLLOW
    if LIBC.fanotify_mark(group, undo, FAN_OPEN_PERM, directory, encoded) < 0:
        number = ctypes.get_errno()
        if number != errno.ENOENT:  # there is no mark yet, or no such name: what follows tells
            raise oserror(name)
    mask = FAN_OPEN_PERM | ((FAN_EVENT_ON_CHILD | FAN_ONDIR) if tree else 0)
    flags = FAN_MARK_ADD | FAN_MARK_DONT_FOLLOW
    if LIBC.fanotify_mark(group, flags, mask, directory, encoded) < 0:
        raise oserror(name)


def except_opens(group: int, fd: int) -> None:
    """Let opens of what `fd` is open on through from now on, whatever marks say."""
    _mark(
        group,
        FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY,
        FAN_OPEN_PERM,
        fd,
        None,
    )


def mark_names(group: int, directory: int) -> None:
    """Tell of names that appear in the folder that `directory` is open on."""
    _mark(group, FAN_MARK_ADD, FAN_CREATE | FAN_MOVED_TO | FAN_ONDIR, directory, ".")


def _mark(group: int, flags: int, mask: int, directory: int, name: str | None) -> None:
    encoded = None if name is None else os.fsencode(name)
    if LIBC.fanotify_mark(group, flags, mask, directory, encoded) < 0:
        raise oserror(name or f"descriptor {directory}")


def answer(group: int, fd: int, allow: bool) -> bool:
    """Answer the open that came with descriptor `fd`; False where nobody waits for it any more."""
    try:
        os.write(group, _RESPONSE.pack(fd, FAN_ALLOW if allow else FAN_DENY))
    except FileNotFoundError:
        return False
    return True


def read_opens(group: int) -> list[Opened]:
    """The opens that wait, as far as one read has them; [] where there is none.

    An open whose descriptor cannot be made is refused by the kernel, which says so once: OSError.
    """
    try:
        data = os.read(group, READ_BYTES)
    except BlockingIOError:
        return []
    found = []
    for mask, fd, pid, infos in _events(data):
        pidfd = -1
        for kind, body in infos:
            if kind == INFO_PIDFD:
                (pidfd,) = struct.unpack_from("=i", body)
        if not mask & FAN_Q_OVERFLOW:
            found.append(Opened(fd, pid, pidfd))
    return found


def read_names(group: int) -> list[Appeared]:
    """The names that appeared, as far as one read has them."""
    try:
        data = os.read(group, READ_BYTES)
    except BlockingIOError:
        return []
    found = []
    for mask, _fd, _pid, infos in _events(data):
        if mask & FAN_Q_OVERFLOW:
            found.append(Appeared(b"", "", True))
        for kind, body in infos:
            if kind == INFO_DFID_NAME:
                # An fsid of 8 bytes, struct file_handle, the name with a zero byte.
                (size, _type) = _HANDLE.unpack_from(body, 8)
                end = 8 + _HANDLE.size + size
                name = body[end:].split(b"\0", 1)[0]
                found.append(Appeared(body[:end], os.fsdecode(name), bool(mask & FAN_ONDIR)))
    return found


def _events(data: bytes) -> Iterator[tuple[int, int, int, list[tuple[int, bytes]]]]:
    """(mask, descriptor, process, info records as (type, body)) of each event."""
    offset = 0
    while offset < len(data):
        length, version, _reserved, head, mask, fd, pid = _METADATA.unpack_from(data, offset)
        if version != _VERSION:
            raise OSError(errno.EPROTO, f"fanotify speaks version {version}")
        infos = []
        at = offset + head
        while at < offset + length:
            kind, _pad, size = _INFO.unpack_from(data, at)
            infos.append((kind, data[at + _INFO.size : at + size]))
            at += size
        yield mask, fd, pid, infos
        offset += length


def handle(directory: int) -> bytes:
    """The folder's file system and file handle, as events name it."""
    size = _HANDLE.size + MAX_HANDLE_BYTES
    buffer = ctypes.create_string_buffer(size)
    _HANDLE.pack_into(buffer, 0, MAX_HANDLE_BYTES, 0)
    mount = ctypes.c_int()
    result = LIBC.name_to_handle_at(
        ctypes.c_int(directory),
        ctypes.c_char_p(b""),
        buffer,
        ctypes.byref(mount),
        ctypes.c_int(0x1000),  # AT_EMPTY_PATH
    )
    if result < 0:
        raise oserror(f"descriptor {directory}")
    (used, _kind) = _HANDLE.unpack_from(buffer, 0)
    return _fsid(directory) + buffer.raw[: _HANDLE.size + used]


def _fsid(directory: int) -> bytes:
    """f_fsid of statfs(2), two ints as they stand in an event."""
    return struct.pack("=Q", os.fstatvfs(directory).f_fsid)

# SPDX-License-Identifier: Apache-2.0
"""Paths as a waiting process sees them: from its root, with its own /proc/self.

The kernel resolves almost all of them in one call (openat2(2), RESOLVE_IN_ROOT). That refuses the
links of /proc that lead to an object itself, as /proc/self/exe does; those are walked here, name by
name.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import struct

from monitor.daemon.gate.task import Task
from monitor.kernel.libc import LIBC

# asm/unistd_64.h, uapi/linux/openat2.h
NR_OPENAT2 = 437
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10
MOST_LINKS = 40  # linux/namei.h: MAXSYMLINKS
PROC = "/proc"
_HOW = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT)
_STRAIGHT = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS)
# What a path that is its own name has nowhere in it.
_CROOKED = re.compile(rb"//|/\.{1,2}(/|$)|/$")
_openat2 = ctypes.CFUNCTYPE(
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
    use_errno=True,
)(("syscall", LIBC))


def resolve(task: Task, root: int, path: bytes, folder: bytes | None = None) -> int:
    """An O_PATH descriptor of what `path` leads to; the caller closes it. OSError.

    A relative one starts in `folder`, None: in the working directory.
    """
    if not path:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if not path.startswith(b"/"):
        path = (os.fsencode(task.folder) if folder is None else folder) + b"/" + path
    found = _openat2(NR_OPENAT2, root, path, _HOW, len(_HOW))
    if found >= 0:
        return int(found)
    error = ctypes.get_errno()
    # EAGAIN: something was renamed meanwhile, which this kind of look-up does not follow.
    if error not in (errno.ELOOP, errno.EXDEV, errno.EAGAIN):
        raise OSError(error, os.strerror(error), os.fsdecode(path))
    return _walk(task, root, path)


def named(task: Task, root: int, path: bytes) -> tuple[int, str]:
    """(a descriptor as of `resolve`, the name that it has without links)."""
    if path.startswith(b"/") and not _CROOKED.search(path):
        found = _openat2(NR_OPENAT2, root, path, _STRAIGHT, len(_STRAIGHT))
        if found >= 0:
            return int(found), os.fsdecode(path)
    descriptor = resolve(task, root, path)
    return descriptor, name_of(descriptor)


def name_of(descriptor: int) -> str:
    """The path of an open object in its own mount namespace."""
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _walk(task: Task, root: int, path: bytes) -> int:
    stack = [os.dup(root)]
    waiting = [name for name in reversed(path.split(b"/")) if name not in (b"", b".")]
    links = 0
    try:
        while waiting:
            name = waiting.pop()
            if name == b"..":
                if len(stack) > 1:
                    os.close(stack.pop())
                continue
            here = os.open(name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=stack[-1])
            if not stat.S_ISLNK(os.fstat(here).st_mode):
                stack.append(here)
                continue
            links += 1
            place = name_of(stack[-1])
            target = _target(task, here, name, place)
            os.close(here)
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if target is None:
                stack.append(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=stack[-1]))
                continue
            if target.startswith(b"/"):
                while len(stack) > 1:
                    os.close(stack.pop())
            waiting += [each for each in reversed(target.split(b"/")) if each not in (b"", b".")]
        return os.dup(stack[-1])
    finally:
        for descriptor in stack:
            os.close(descriptor)


def _target(task: Task, link: int, name: bytes, place: str) -> bytes | None:
    """What a link says; None: it leads to an object itself."""
    if place == PROC and name == b"self":
        return b"%d" % task.group
    if place == PROC and name == b"thread-self":
        return b"%d/task/%d" % (task.group, task.thread)
    if place.startswith(PROC + "/"):
        return None
    return os.readlink(b"", dir_fd=link)

# SPDX-License-Identifier: Apache-2.0
"""Another process's descriptors, by pidfd_getfd(2)."""

from __future__ import annotations

import ctypes
import errno
import os

from monitor.kernel.libc import syscall

NR_PIDFD_OPEN, NR_PIDFD_GETFD = 434, 438  # asm/unistd_64.h
PIDFD_THREAD = os.O_EXCL  # uapi/linux/pidfd.h; Linux kernel commit 64bef697d33b (in v6.9)


def copy_descriptor(thread: int, group: int, number: int) -> int:
    """A copy of what descriptor `number` of a thread stands for; the caller closes it. OSError.

    `group` is the process of the thread, whose descriptors it may have ceased to share: before 6.9
    EBADF where they differ.
    """
    try:
        process = syscall(NR_PIDFD_OPEN, ctypes.c_int(thread), ctypes.c_uint(PIDFD_THREAD))
        exact = True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        process, exact = os.pidfd_open(group), False
    try:
        copy = syscall(
            NR_PIDFD_GETFD, ctypes.c_int(process), ctypes.c_int(number), ctypes.c_uint(0)
        )
    finally:
        os.close(process)
    if not exact and not _same(copy, thread, number):
        os.close(copy)
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), f"descriptor {number} of {thread}")
    return copy


def _same(copy: int, thread: int, number: int) -> bool:
    ours, theirs = os.fstat(copy), os.stat(f"/proc/{thread}/fd/{number}")
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

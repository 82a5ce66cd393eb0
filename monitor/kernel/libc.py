# SPDX-License-Identifier: Apache-2.0
"""The C library by ctypes: one handle, and one way to call the system calls it has no wrapper for.

Everything raises OSError with the object it failed on. Numbers: `asm/unistd_64.h` (x86_64).
"""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long

# asm/unistd_64.h
NR_PERF_EVENT_OPEN = 298
NR_SECCOMP = 317
NR_BPF = 321
NR_PIDFD_SEND_SIGNAL = 424
NR_LANDLOCK_CREATE_RULESET = 444
NR_LANDLOCK_ADD_RULE = 445

PR_SET_PDEATHSIG = 1  # uapi/linux/prctl.h
M_ARENA_MAX = -8  # malloc.h; mallopt(3)

# uapi/linux/sched.h
CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

# uapi/linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19


def oserror(what: object) -> OSError:
    """The OSError for the errno that the last call left, naming `what` it was done to."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(what))


def syscall(number: int, *arguments: object, what: object = "") -> int:
    """Make system call `number`; its result, or OSError naming `what`."""
    result = int(LIBC.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise oserror(what or f"system call {number}")
    return result


def share_one_arena() -> None:
    """Have all threads allocate from one heap: in Python only one of them runs at a time."""
    LIBC.mallopt(ctypes.c_int(M_ARENA_MAX), ctypes.c_int(1))


def give_memory_back() -> None:
    """Return what was freed to the system; malloc_trim(3)."""
    LIBC.malloc_trim(ctypes.c_size_t(0))


def dies_with_parent(signal: int) -> None:
    """Have this process get `signal` when the thread that made it ends; another user's loses it."""
    if LIBC.prctl(ctypes.c_int(PR_SET_PDEATHSIG), ctypes.c_ulong(signal)) < 0:
        raise oserror("prctl PR_SET_PDEATHSIG")


def unshare(flags: int) -> None:
    if LIBC.unshare(ctypes.c_int(flags)) < 0:
        raise oserror(f"unshare {flags:#x}")


def setns(fd: int, kind: int) -> None:
    if LIBC.setns(ctypes.c_int(fd), ctypes.c_int(kind)) < 0:
        raise oserror(f"setns {kind:#x}")


def mount(
    source: str | None, target: str, kind: str | None, flags: int, data: str | None = None
) -> None:
    """mount(2); None leaves an argument NULL."""
    encoded = [None if value is None else os.fsencode(value) for value in (source, kind, data)]
    result = LIBC.mount(
        encoded[0], os.fsencode(target), encoded[1], ctypes.c_ulong(flags), encoded[2]
    )
    if result < 0:
        raise oserror(f"mount on {target}")

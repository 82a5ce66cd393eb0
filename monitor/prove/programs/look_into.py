# SPDX-License-Identifier: Apache-2.0
"""Looks into another process: `look_into.py ptrace|process_vm_readv|pidfd_getfd PID`."""

import ctypes
import os
import sys
from pathlib import Path

from attempt import attempt, call

PTRACE, PROCESS_VM_READV, PIDFD_GETFD = 101, 310, 438
PTRACE_SEIZE = 0x4206
way, pid = sys.argv[1], int(sys.argv[2])
MAPS = Path(f"/proc/{pid}/maps")


class IoVec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def read() -> int:
    """Eight bytes from the start of the other's program."""
    buffer = ctypes.create_string_buffer(8)
    mine = IoVec(ctypes.addressof(buffer), 8)
    with MAPS.open(encoding="ascii") as maps:
        start = int(maps.readline().split("-")[0], 16)
    its = IoVec(start, 8)
    return call(PROCESS_VM_READV, pid, ctypes.byref(mine), 1, ctypes.byref(its), 1, 0)


def probe() -> int:
    """The same call where the view already hides where to look."""
    if MAPS.exists():
        return read()
    return call(PROCESS_VM_READV, pid, None, 0, None, 0, 0)


attempt(
    {
        "ptrace": lambda: call(PTRACE, PTRACE_SEIZE, pid, 0, 0),
        "process_vm_readv": probe,
        "pidfd_getfd": lambda: call(PIDFD_GETFD, os.pidfd_open(pid), 0, 0),
    }[way]
)

# SPDX-License-Identifier: Apache-2.0
"""Runs a copy of PROGRAM in memory, which is no file: `run_memfd.py execveat|path PROGRAM`."""

import ctypes
import os
import sys
from pathlib import Path

from attempt import LIBC, attempt

EXECVEAT, AT_EMPTY_PATH = 322, 0x1000
way, program = sys.argv[1:]


def run() -> None:
    memory = os.memfd_create("program", 0)
    os.write(memory, Path(program).read_bytes())
    child = os.fork()
    if child == 0:
        arguments = (ctypes.c_char_p * 2)(b"program", None)
        if way == "execveat":
            LIBC.syscall(
                ctypes.c_long(EXECVEAT), memory, b"", arguments, None, ctypes.c_int(AT_EMPTY_PATH)
            )
        else:
            LIBC.execve(f"/proc/self/fd/{memory}".encode(), arguments, None)
        os._exit(ctypes.get_errno())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise OSError(status, os.strerror(status))


attempt(run)

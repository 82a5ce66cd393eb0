# SPDX-License-Identifier: Apache-2.0
"""Tells what became of an attempt: `DONE` and what it gave, or `REFUSED` and the errno's name."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
REFUSED = 10


def done(gained: object = "") -> NoReturn:
    print("DONE", str(gained).strip(), flush=True)
    sys.exit(0)


def refused(why: str) -> NoReturn:
    print("REFUSED", why, flush=True)
    sys.exit(REFUSED)


def attempt(action: Callable[[], object]) -> NoReturn:
    """Do it and tell."""
    try:
        gained = action()
    except OSError as error:
        refused(errno.errorcode.get(error.errno or 0, str(error)))
    done(gained)


def call(number: int, *arguments: object) -> int:
    """A system call by number; int arguments are passed as whole 64-bit registers."""
    registers = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(LIBC.syscall(ctypes.c_long(number), *registers))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

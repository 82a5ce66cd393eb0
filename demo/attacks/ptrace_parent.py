# SPDX-License-Identifier: Apache-2.0
"""Attaches to the process that started it, and stays attached for a second."""

import ctypes
import os
import time

_PTRACE_SEIZE = 0x4206  # uapi/linux/ptrace.h

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long
parent = os.getppid()
if libc.ptrace(_PTRACE_SEIZE, parent, None, None) < 0:
    raise SystemExit(f"ptrace {parent}: {os.strerror(ctypes.get_errno())}")
print("tracing", parent)
time.sleep(1)

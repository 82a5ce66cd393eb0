# SPDX-License-Identifier: Apache-2.0
"""clone3(2), whose flags lie in memory: here CLONE_NEWUSER."""

import ctypes
import os
import signal
import struct

from attempt import attempt, call

CLONE3, CLONE_NEWUSER = 435, 0x10000000
# struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls
arguments = struct.pack("=8Q", CLONE_NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)


def act() -> int:
    child = call(CLONE3, ctypes.c_char_p(arguments), len(arguments))
    if child == 0:
        os._exit(0)
    return child


attempt(act)

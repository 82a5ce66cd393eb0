# SPDX-License-Identifier: Apache-2.0
"""Runs a command in another sandbox: a filter by which call NUMBER does not exist.

`under_filter.py NUMBER COMMAND [ARGUMENT ...]`
"""

import ctypes
import os
import struct
import sys

from attempt import LIBC, call

SECCOMP, SECCOMP_SET_MODE_FILTER, PR_SET_NO_NEW_PRIVS, ENOSYS = 317, 1, 38, 38
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
# struct sock_filter: load the number; equal: the next, else skip one; refuse; allow.
program = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x20, 0, 0, 0),
        (0x15, 0, 1, int(sys.argv[1])),
        (0x06, 0, 0, RET_ERRNO | ENOSYS),
        (0x06, 0, 0, RET_ALLOW),
    )
)
code = ctypes.create_string_buffer(program)
request = struct.pack("=H6xQ", 4, ctypes.addressof(code))  # struct sock_fprog
LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
call(SECCOMP, SECCOMP_SET_MODE_FILTER, 0, ctypes.c_char_p(request))
os.execvp(sys.argv[2], sys.argv[2:])

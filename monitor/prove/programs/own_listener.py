# SPDX-License-Identifier: Apache-2.0
"""Asks for the listener of a filter of its own: it could answer in the place of ours."""

import ctypes
import os
import struct

from attempt import LIBC, attempt, call

SECCOMP, SECCOMP_SET_MODE_FILTER, NEW_LISTENER, PR_SET_NO_NEW_PRIVS = 317, 1, 8, 38
# struct sock_filter: allow everything.
code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
request = struct.pack("=H6xQ", 1, ctypes.addressof(code))  # struct sock_fprog
LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
attempt(
    lambda: os.close(call(SECCOMP, SECCOMP_SET_MODE_FILTER, NEW_LISTENER, ctypes.c_char_p(request)))
)

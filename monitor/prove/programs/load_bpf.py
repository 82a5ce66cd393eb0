# SPDX-License-Identifier: Apache-2.0
"""Loads the smallest BPF program: a socket filter that returns 0."""

import ctypes
import struct

from attempt import attempt, call

BPF, BPF_PROG_LOAD, BPF_PROG_TYPE_SOCKET_FILTER = 321, 5, 1
program = ctypes.create_string_buffer(bytes([0xB7] + [0] * 7 + [0x95] + [0] * 7))
licence = ctypes.create_string_buffer(b"GPL")
request = ctypes.create_string_buffer(
    struct.pack(
        "=IIQQ",
        BPF_PROG_TYPE_SOCKET_FILTER,
        2,
        ctypes.addressof(program),
        ctypes.addressof(licence),
    ),
    128,
)
attempt(lambda: call(BPF, BPF_PROG_LOAD, request, len(request)))

# SPDX-License-Identifier: Apache-2.0
"""Loads the smallest BPF program (a socket filter that returns 0) and holds it for a second."""

import ctypes
import os
import struct
import time

_SYS_BPF = 321  # x86_64
_BPF_PROG_LOAD = 5  # uapi/linux/bpf.h enum bpf_cmd
_BPF_PROG_TYPE_SOCKET_FILTER = 1
# r0 = 0; exit
program = ctypes.create_string_buffer(
    struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)
)
license_text = ctypes.create_string_buffer(b"GPL")
attributes = ctypes.create_string_buffer(
    struct.pack(
        "=IIQQ",
        _BPF_PROG_TYPE_SOCKET_FILTER,
        2,
        ctypes.addressof(program),
        ctypes.addressof(license_text),
    ),
    128,
)
libc = ctypes.CDLL(None, use_errno=True)
descriptor = libc.syscall(_SYS_BPF, _BPF_PROG_LOAD, attributes, len(attributes))
if descriptor < 0:
    raise SystemExit(f"bpf: {os.strerror(ctypes.get_errno())}")
print("loaded a BPF program")
time.sleep(1)

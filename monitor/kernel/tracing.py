# SPDX-License-Identifier: Apache-2.0
"""Tracepoints by perf_event_open(2), and the file systems that BPF needs mounted."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from monitor.kernel.libc import MS_NODEV, MS_NOEXEC, MS_NOSUID, NR_PERF_EVENT_OPEN, mount, syscall

TRACEFS = Path("/sys/kernel/tracing")
BPFFS = Path("/sys/fs/bpf")

# uapi/linux/perf_event.h
PERF_TYPE_TRACEPOINT = 2
PERF_FLAG_FD_CLOEXEC = 8
PERF_ATTR_SIZE_VER5 = 112


def mount_when_absent(kind: str, target: Path) -> None:
    """Mount the pseudo file system `kind` at `target` unless something is mounted there."""
    if not os.path.ismount(target):
        mount(kind, str(target), kind, MS_NOSUID | MS_NODEV | MS_NOEXEC)


def tracepoint_id(category: str, name: str) -> int | None:
    """The id of a tracepoint, or None where this kernel has no such one."""
    try:
        return int((TRACEFS / "events" / category / name / "id").read_text())
    except FileNotFoundError:
        return None


def open_tracepoint(number: int) -> int:
    """A perf event descriptor on tracepoint `number`; BPF attaches to it for every processor."""
    attributes = bytearray(PERF_ATTR_SIZE_VER5)
    struct.pack_into("=IIQQ", attributes, 0, PERF_TYPE_TRACEPOINT, len(attributes), number, 1)
    buffer = ctypes.create_string_buffer(bytes(attributes), len(attributes))
    return syscall(
        NR_PERF_EVENT_OPEN,
        buffer,
        ctypes.c_int(-1),
        ctypes.c_int(0),
        ctypes.c_int(-1),
        ctypes.c_ulong(PERF_FLAG_FD_CLOEXEC),
        what=f"perf event for tracepoint {number}",
    )

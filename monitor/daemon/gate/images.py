# SPDX-License-Identifier: Apache-2.0
"""Files that are to be executed: which they are to the kernel, and what it will do with them.

Source: fs/binfmt_script.c for the `#!` line, elf(5).
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass

from monitor.daemon.gate.task import Task
from monitor.kernel.inodes import Identities, Identity, devices

HEADER_BYTES = 256  # linux/binfmts.h: BINPRM_BUF_SIZE
REMEMBERED = 4096
BLANKS = b" \t"
ENDS = b" \t\0"
# elf.h
ET_DYN = 3
PT_DYNAMIC, PT_INTERP = 2, 3
DT_NULL, DT_SONAME = 0, 14
MOST_PROGRAM_HEADERS = 64
ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")


@dataclass(frozen=True, slots=True)
class Image:
    """One file. `device` and `inode` as the kernel's own structures have them.

    `interpreter` is what its `#!` line names, with its one optional argument; None: it has none.
    `is_loader`: the dynamic loader, which maps whatever program it is given.
    """

    device: int
    inode: int
    regular: bool
    interpreter: bytes | None = None
    option: bytes | None = None
    is_loader: bool = False


class Images:
    """Remembers what files hold, as long as they are not changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], Image] = {}
        self._identities = Identities()

    def read(self, descriptor: int) -> Image:
        """What the file behind an O_PATH descriptor is. OSError."""
        found = os.fstat(descriptor)
        key = (found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)
        known = self._known.get(key)
        if known is not None:
            return known
        device, inode = self._identities.of(descriptor, found, _mounted)
        if not stat.S_ISREG(found.st_mode):
            return Image(device, inode, regular=False)
        image = _read(f"/proc/self/fd/{descriptor}", device, inode)
        if len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        if self._identities.known(found) is not None:
            self._known[key] = image
        return image

    def place(self, task: Task) -> Identity:
        """That of a task's working directory. OSError."""
        known = self._identities.known(task.place())
        if known is not None:
            return known
        descriptor = os.open(f"/proc/{task.thread}/cwd", os.O_PATH | os.O_CLOEXEC)
        try:
            return self._identities.of(descriptor, os.fstat(descriptor), _mounted)
        finally:
            os.close(descriptor)


def _mounted(mount: str) -> int | None:
    """The device of a mount of this namespace by its id; None: of another, or of none."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return next((device for known, device in devices(file) if known == mount), None)


def _read(path: str, device: int, inode: int) -> Image:
    with open(path, "rb", buffering=0) as file:
        header = file.read(HEADER_BYTES)
        if header.startswith(b"#!"):
            interpreter, option = script_line(header)
            return Image(device, inode, True, interpreter, option)
        loader = header.startswith(b"\x7fELF") and _is_loader(file.fileno(), header)
        return Image(device, inode, True, is_loader=loader)


def script_line(header: bytes) -> tuple[bytes | None, bytes | None]:
    """(interpreter, its argument) of a file that begins with `#!`, as the kernel reads it.

    (None, None): it takes the line for none, and refuses the file.
    """
    buffer = header.ljust(HEADER_BYTES, b"\0")
    last = HEADER_BYTES - 1
    end = buffer.find(b"\n")
    if end < 0:
        first = _skip(buffer, 2, last)
        # Without a blank behind it the name may have been cut.
        if first < 0 or _find(buffer, first, last) < 0:
            return None, None
        end = last
    while buffer[end - 1] in BLANKS:
        end -= 1
    name = _skip(buffer, 2, end)
    if name < 0 or name >= end:
        return None, None
    separator = _find(buffer, name, end)
    option = None
    if separator >= 0 and separator < end and buffer[separator]:
        start = _skip(buffer, separator, end)
        if 0 <= start < end:
            option = buffer[start:end].split(b"\0", 1)[0]
    stop = separator if 0 <= separator < end else end
    return buffer[name:stop].split(b"\0", 1)[0], option


def _skip(buffer: bytes, first: int, last: int) -> int:
    return next((at for at in range(first, last + 1) if buffer[at] not in BLANKS), -1)


def _find(buffer: bytes, first: int, last: int) -> int:
    return next((at for at in range(first, last + 1) if buffer[at] in ENDS), -1)


def _is_loader(descriptor: int, header: bytes) -> bool:
    """Whether an ELF file is a shared object that runs by itself and asks for no loader."""
    if len(header) < ELF_HEADER.size:
        return False
    fields = ELF_HEADER.unpack_from(header)
    kind, offset, count = fields[1], fields[5], fields[10]
    if kind != ET_DYN or count > MOST_PROGRAM_HEADERS:
        return False
    data = os.pread(descriptor, count * PROGRAM_HEADER.size, offset)
    dynamic = b""
    for at in range(0, len(data) - PROGRAM_HEADER.size + 1, PROGRAM_HEADER.size):
        part = PROGRAM_HEADER.unpack_from(data, at)
        if part[0] == PT_INTERP:
            return False
        if part[0] == PT_DYNAMIC:
            dynamic = os.pread(descriptor, min(part[5], 1 << 16), part[2])
    for at in range(0, len(dynamic) - 15, 16):
        tag = int.from_bytes(dynamic[at : at + 8], "little")
        if tag in (DT_NULL, DT_SONAME):
            return tag == DT_SONAME
    return False

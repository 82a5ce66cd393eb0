# SPDX-License-Identifier: Apache-2.0
"""A thread that waits in a system call: its memory, its process, its place in the file system.

What is read here may be changed by others the moment after: it decides, and the kernel compares.
Every method raises OSError where the thread is gone or an address leads nowhere.
"""

from __future__ import annotations

import ctypes
import errno
import os

from monitor.kernel.libc import LIBC

# asm/unistd_64.h
NR_TGKILL = 234
NR_PROCESS_VM_READV = 310
PAGE = 4096
PATH_MAX = 4096
# Bytes of argv and its pointers that are read; a longer list is `None`.
MOST_ARGUMENTS = 128 * 1024
POINTER = 8


_number = ctypes.CFUNCTYPE(
    ctypes.c_long,
    *(ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long),
    *(ctypes.c_long, ctypes.c_long, ctypes.c_long),
    use_errno=True,
)(("syscall", LIBC))


class _Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = [("address", ctypes.c_uint64), ("length", ctypes.c_uint64)]


# One process, one thread: what is read goes through one buffer.
_buffer = ctypes.create_string_buffer(2 * PAGE)
_view = memoryview(_buffer)
_ours = _Vector(ctypes.addressof(_buffer), PAGE)
_two = (_Vector * 2)(_Vector(0, PAGE), _Vector(0, PAGE))
_theirs, _others = _two
_OURS, _THEIRS = ctypes.addressof(_ours), ctypes.addressof(_two)


class TooLongError(Exception):
    """A list of arguments is longer than what can be compared afterwards."""


class Task:
    """`thread` is its id as this process sees it."""

    __slots__ = ("_group", "_pages", "thread")

    def __init__(self, thread: int) -> None:
        self.thread = thread
        self._pages: dict[int, bytes] = {}
        self._group = 0

    @property
    def group(self) -> int:
        """The id of its process."""
        if not self._group:
            # Signal 0 gets there where the thread is one of that process.
            thread = self.thread
            if _number(NR_TGKILL, thread, thread, 0, 0, 0, 0) == 0:
                self._group = thread
            else:
                self._group = int(self._status("Tgid"))
        return self._group

    def _status(self, name: str) -> str:
        with open(f"/proc/{self.thread}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key == name:
                    return value.strip()
        raise OSError(errno.ESRCH, f"no {name} of thread {self.thread}")

    @property
    def cgroup(self) -> str:
        """Its cgroup in the unified hierarchy."""
        with open(f"/proc/{self.thread}/cgroup", encoding="utf-8") as file:
            for line in file:
                if line.startswith("0::"):
                    return line[3:].rstrip("\n")
        raise OSError(errno.ESRCH, f"no cgroup of thread {self.thread}")

    def place(self) -> os.stat_result:
        """Its working directory itself."""
        return os.stat(f"/proc/{self.thread}/cwd")

    @property
    def program(self) -> str:
        """What it runs, "" where that is gone."""
        try:
            return os.readlink(f"/proc/{self.thread}/exe")
        except OSError:
            return ""

    @property
    def folder(self) -> str:
        """Its working directory."""
        return os.readlink(f"/proc/{self.thread}/cwd")

    def root(self) -> int:
        """A descriptor of its root; the caller closes it."""
        return os.open(f"/proc/{self.thread}/root", os.O_PATH | os.O_CLOEXEC)

    def descriptor(self, number: int) -> int:
        """What stands behind one of its descriptors, O_PATH; the caller closes it."""
        return os.open(f"/proc/{self.thread}/fd/{number}", os.O_PATH | os.O_CLOEXEC)

    # -- memory --------------------------------------------------------------------------------

    def bytes_at(self, address: int, count: int) -> bytes:
        """Exactly so many bytes; OSError EFAULT where they are not all there."""
        if count > PAGE or not 0 <= address < 1 << 63:
            raise OSError(errno.EFAULT, "no memory there")
        _theirs.address = address
        _ours.length = _theirs.length = count
        if _number(NR_PROCESS_VM_READV, self.thread, _OURS, 1, _THEIRS, 1, 0) != count:
            raise OSError(errno.EFAULT, "no memory there")
        return bytes(_view[:count])

    def expect(self, first: int, second: int) -> None:
        """Read the pages of two addresses at once, where both are there."""
        one, other = first // PAGE, second // PAGE
        if one == other or max(first, second) >= 1 << 63:
            return
        _theirs.address, _others.address = one * PAGE, other * PAGE
        _theirs.length = _others.length = PAGE
        _ours.length = 2 * PAGE
        if _number(NR_PROCESS_VM_READV, self.thread, _OURS, 1, _THEIRS, 2, 0) == 2 * PAGE:
            self._pages[one] = bytes(_view[:PAGE])
            self._pages[other] = bytes(_view[PAGE:])

    def _page(self, number: int) -> bytes:
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = self.bytes_at(number * PAGE, PAGE)
        return page

    def string(self, address: int, most: int) -> bytes:
        """The bytes up to the NUL behind them; OSError ENAMETOOLONG past `most`."""
        number, offset = divmod(address, PAGE)
        page = self._page(number)
        end = page.find(b"\0", offset)
        if 0 <= end < offset + most:
            return page[offset:end]
        parts = [page[offset:]]
        length = len(parts[0])
        while end < 0:
            if length > most:
                raise OSError(errno.ENAMETOOLONG, "a string is too long")
            number += 1
            page = self._page(number)
            end = page.find(b"\0")
            parts.append(page if end < 0 else page[:end])
            length += len(parts[-1])
        if length > most:
            raise OSError(errno.ENAMETOOLONG, "a string is too long")
        return b"".join(parts)

    def path(self, address: int) -> bytes:
        return self.string(address, PATH_MAX - 1)

    def arguments(self, address: int) -> list[bytes]:
        """argv; TooLongError. A list of none counts as one empty argument, as the kernel has it."""
        found: list[bytes] = []
        left = MOST_ARGUMENTS
        while address:
            number, offset = divmod(address, PAGE)
            words = self._page(number)[offset:]
            if len(words) < POINTER:  # a pointer across two pages
                words = self.bytes_at(address, POINTER)
            for at in range(0, len(words) - POINTER + 1, POINTER):
                pointer = int.from_bytes(words[at : at + POINTER], "little")
                if not pointer:
                    return found or [b""]
                try:
                    text = self.string(pointer, left)
                except OSError as error:
                    if error.errno == errno.ENAMETOOLONG:
                        raise TooLongError from error
                    raise
                found.append(text)
                left -= len(text) + 1
                if left < 0:
                    raise TooLongError
            address += len(words) // POINTER * POINTER
        return [b""]

# SPDX-License-Identifier: Apache-2.0
"""Files as the kernel's own structures number them, where fstat(2) may show other numbers.

btrfs and overlayfs do. Source: proc_pid_fdinfo(5), proc_pid_mountinfo(5), include/linux/kdev_t.h.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

# (device, inode)
Identity = tuple[int, int]


def kernel_device(major: int, minor: int) -> int:
    """dev_t inside the kernel."""
    return major << 20 | minor


def described(descriptor: int) -> tuple[str, int]:
    """(the id of its mount, inode) of an open file. OSError."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    # Not told before Linux 5.14.
    inode = int(fields["ino"]) if "ino" in fields else os.fstat(descriptor).st_ino
    return fields["mnt_id"].strip(), inode


def devices(mountinfo: Iterable[str]) -> Iterator[tuple[str, int]]:
    """(the id of a mount, its device) of each line of a mountinfo."""
    for line in mountinfo:
        mount, _parent, device, _rest = line.split(" ", 3)
        yield mount, kernel_device(*map(int, device.split(":")))


class Identities:
    """Remembers file systems whose st_dev and st_ino are what the kernel has inside."""

    def __init__(self) -> None:
        self._plain: set[int] = set()

    def known(self, found: os.stat_result) -> Identity | None:
        """That of a file, where fstat(2) is known to say it."""
        return _shown(found) if found.st_dev in self._plain else None

    def of(
        self, descriptor: int, found: os.stat_result, device: Callable[[str], int | None]
    ) -> Identity:
        """That of an open file, of which fstat(2) says `found`. OSError.

        `device` is that of a mount by its id; None: it is not known, and st_dev must do.
        """
        shown = _shown(found)
        if found.st_dev in self._plain:
            return shown
        mount, inode = described(descriptor)
        known = device(mount)
        inside = shown[0] if known is None else known, inode
        if inside == shown:
            self._plain.add(found.st_dev)
        return inside


def _shown(found: os.stat_result) -> Identity:
    return kernel_device(os.major(found.st_dev), os.minor(found.st_dev)), found.st_ino

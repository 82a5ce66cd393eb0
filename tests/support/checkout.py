# SPDX-License-Identifier: Apache-2.0
"""Where this checkout is, at a path that the tests' ordinary users can reach.

A checkout below /root, or in a folder that mktemp(1) made, is closed to them; and they have to run
its launcher. Then it is mounted a second time, for as long as the tests run.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import tempfile
from pathlib import Path

from monitor.kernel.libc import LIBC, MS_BIND, mount

MNT_DETACH = 2  # linux/mount.h
OTHERS_MAY_SEARCH = 0o001


def _reachable(path: Path) -> bool:
    return all(each.stat().st_mode & OTHERS_MAY_SEARCH for each in (path, *path.parents))


def _mounted(path: Path) -> Path:
    """`path` at another place; undone when this process ends."""
    place = Path(tempfile.mkdtemp(prefix="ri-checkout-", dir="/run"))
    mount(str(path), str(place), None, MS_BIND)
    owner = os.getpid()

    def undo() -> None:
        if os.getpid() == owner:  # not in a child that a test forked
            LIBC.umount2(os.fsencode(place), ctypes.c_int(MNT_DETACH))
            place.rmdir()

    atexit.register(undo)
    return place


def find() -> Path:
    """The checkout's root."""
    path = Path(__file__).resolve().parents[2]
    return _mounted(path) if os.geteuid() == 0 and not _reachable(path) else path


ROOT = find()

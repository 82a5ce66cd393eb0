# SPDX-License-Identifier: Apache-2.0
"""Everything that a session may not write becomes read-only in its view.

Landlock governs contents and names; modes, owners, times and extended attributes are left to the
user's own permissions by it. A read-only mount refuses those too. Device nodes, sockets and pipes
go on working on one.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack

from monitor.daemon.view.request import ViewError
from monitor.kernel import mounts
from monitor.kernel.mounts import open_plain


def read_only_rest(root: int, writable: list[str]) -> None:
    """Make all mounts read-only but for `writable`, of which none is beneath another.

    These trees are copied before, so that what the host has mounted read-only in them stays so,
    and then mounted where they were found. One that is not there now stays out: Landlock has no
    rule for it either.
    """
    if "/" in writable:
        return
    with ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        trees = [tree for path in writable for tree in _copy(root, path, keep)]
        mounts.add_attributes(root, mounts.MOUNT_ATTR_RDONLY, "/")
        for path, place, copy in trees:
            mounts.attach(copy, place, path)
        for path, _place, copy in trees:
            _look_again(root, path, copy)


def _look_again(root: int, path: str, copy: int) -> None:
    """The name must lead to the mount made there: else it was swapped in between."""
    here = open_plain(root, path)
    if here is not None:
        try:
            if mounts.mount_id(here) == mounts.mount_id(copy):
                return
        finally:
            os.close(here)
    raise ViewError(f"cannot keep {path} writable: it was moved away meanwhile")


def _copy(root: int, path: str, keep: Callable[[int], int]) -> list[tuple[str, int, int]]:
    """(path, what is there, a detached mount of it), where that is a file or a folder."""
    place = open_plain(root, path)
    if place is None:
        return []
    mode = os.fstat(keep(place)).st_mode
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        return []
    return [(path, place, keep(mounts.clone(place, path)))]

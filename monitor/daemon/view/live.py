# SPDX-License-Identifier: Apache-2.0
"""Masks made in the view of a session that runs.

They go straight onto the object, on the mount that its processes stand on already: a new mount over
a folder above would be passed by whoever has that folder as its working directory. What is open, or
stood in, when a mask comes stays so.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack

from monitor.daemon.view.request import Identity, ViewError
from monitor.daemon.view.room import ATTRIBUTES, EMPTY_FILE, EMPTY_FOLDER, new_room
from monitor.daemon.view.ssh import Copies
from monitor.kernel import mounts
from monitor.policy.plan import MaskKind

# A name that is swapped while it is being masked is masked again so many times.
TRIES = 8
FLAGS = {
    MaskKind.READ_ONLY: os.ST_RDONLY,
    MaskKind.NO_EXEC: os.ST_RDONLY | os.ST_NOEXEC,
}


def mask(root: int, targets: dict[str, set[MaskKind]]) -> list[str]:
    """Mask what of `targets` is not yet; those that were. ViewError where one cannot be."""
    wanted = {path: kinds for path, kinds in targets.items() if not is_masked(root, path, kinds)}
    if not wanted:
        return []
    with ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        try:
            room = keep(new_room(Copies(), Identity(0, 0, False)))
            # Attached for a moment: only what is in a namespace can be mounted again elsewhere.
            # Nobody looks up through the root's own place.
            mounts.attach(room, root, "/")
            stack.callback(mounts.unmount, room, "/")
            empty = (
                keep(mounts.open_entry(room, EMPTY_FILE)),
                keep(mounts.open_entry(room, EMPTY_FOLDER)),
            )
            return [
                path for path, kinds in sorted(wanted.items()) if _mask(root, path, kinds, empty)
            ]
        except OSError as error:
            raise ViewError(f"cannot mask {error.filename}: {error.strerror}") from error


def is_masked(root: int, path: str, kinds: set[MaskKind]) -> bool:
    """Whether `path` is under a mask of `kinds` already; True too where it is not there."""
    here = mounts.open_plain(root, path)
    if here is None:
        return True
    try:
        above = mounts.open_plain(root, os.path.dirname(path))  # noqa: PTH120 - on text
        if above is None:
            return True
        try:
            mounted = mounts.mount_id(above) != mounts.mount_id(here)
        finally:
            os.close(above)
        if not mounted:
            return False
        facts = os.fstat(here)
        if MaskKind.HIDE in kinds:
            return stat.S_IMODE(facts.st_mode) == 0 and facts.st_uid == 0
        flags = os.fstatvfs(here).f_flag
        return all(flags & FLAGS[kind] == FLAGS[kind] for kind in kinds)
    finally:
        os.close(here)


def _mask(root: int, path: str, kinds: set[MaskKind], empty: tuple[int, int]) -> bool:
    """Mask one path; False where it is gone, or is a symbolic link."""
    for _ in range(TRIES):
        here = mounts.open_plain(root, path)
        if here is None or stat.S_ISLNK(os.fstat(here).st_mode):
            if here is not None:
                os.close(here)
            return False
        try:
            made = _attach(here, path, kinds, empty)
        except FileNotFoundError:
            continue  # removed in between
        finally:
            os.close(here)
        seen = mounts.open_plain(root, path)
        if seen is None:
            return False
        try:
            if mounts.mount_id(seen) == made:
                return True
        finally:
            os.close(seen)
    raise ViewError(f"cannot mask {path}: something else took its place {TRIES} times")


def _attach(here: int, path: str, kinds: set[MaskKind], empty: tuple[int, int]) -> int:
    """Mount the mask over what `here` stands for; the id of the mount."""
    if MaskKind.HIDE in kinds:
        folder = stat.S_ISDIR(os.fstat(here).st_mode)
        top = mounts.clone(empty[folder], path, recursive=False)
    else:
        top = mounts.clone(here, path)
    try:
        if MaskKind.HIDE not in kinds:
            for kind in kinds:
                mounts.add_attributes(top, ATTRIBUTES[kind], path)
        mounts.attach(top, here, path)
        return mounts.mount_id(top)
    finally:
        os.close(top)

# SPDX-License-Identifier: Apache-2.0
"""Other paths at which masked objects are seen: other mounts of the same file systems."""

from __future__ import annotations

import os
from collections.abc import Iterator

from monitor.daemon.view.patterns import Reach
from monitor.kernel import mounts
from monitor.policy.patterns import is_within
from monitor.policy.plan import MaskKind


def aliases(targets: dict[str, set[MaskKind]], reach: Reach) -> dict[str, set[MaskKind]]:
    """Other paths at which the same objects are seen, through other mounts of their file systems.

    Only those within reach count: Landlock refuses the others by their own place in the tree.
    """
    table = mounts.mounts()
    by_device: dict[str, list[mounts.Mount]] = {}
    for mount in table:
        by_device.setdefault(mount.device, []).append(mount)
    if all(len(same) == 1 for same in by_device.values()):
        return {}
    by_id = {mount.id: mount for mount in table}
    found: dict[str, set[MaskKind]] = {}
    root = mounts.open_root()
    try:
        for path, kinds in targets.items():
            for other in _elsewhere(root, path, by_id, by_device, reach):
                if other not in targets:
                    found.setdefault(other, set()).update(kinds)
    finally:
        os.close(root)
    return found


def _elsewhere(
    root: int,
    path: str,
    by_id: dict[int, mounts.Mount],
    by_device: dict[str, list[mounts.Mount]],
    reach: Reach,
) -> Iterator[str]:
    """The other paths of the object at `path`; checked to be the same object."""
    opened = mounts.open_plain(root, path)
    if opened is None:
        return
    try:
        mine = by_id.get(mounts.mount_id(opened))
        if mine is None or not is_within(path, mine.point):
            return
        inside = _join(mine.root, _beneath(mine.point, path))
        for mount in by_device[mine.device]:
            if mount.id == mine.id or not is_within(inside, mount.root):
                continue
            other = _join(mount.point, _beneath(mount.root, inside))
            if other == path or not reach.touches(other):
                continue
            seen = mounts.open_plain(root, other)
            if seen is None:
                continue
            try:
                if os.path.sameopenfile(seen, opened):
                    yield other
            finally:
                os.close(seen)
    finally:
        os.close(opened)


def _beneath(root: str, path: str) -> str:
    """What follows `root` in `path`, without a leading slash."""
    return path[len(root) :].lstrip("/")


def _join(root: str, rest: str) -> str:
    return f"{root.rstrip('/')}/{rest}" if rest else root

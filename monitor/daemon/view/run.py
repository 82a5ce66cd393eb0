# SPDX-License-Identifier: Apache-2.0
"""/run in a view: a small file system of ours in which only what rules name appears."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import ExitStack

from monitor.daemon.view.patterns import outermost
from monitor.daemon.view.request import ViewRequest
from monitor.kernel import mounts
from monitor.kernel.mounts import open_plain
from monitor.policy.patterns import is_within

# /var/run is a link to /run nearly everywhere; where it is a folder, sockets stand in both.
RUN_FOLDERS = ("/run", "/var/run")
NOTHING_RUNS = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NODEV | mounts.MOUNT_ATTR_NOEXEC
OPTIONS = {"size": "1m", "mode": "0755"}
OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def hide_run(root: int, place: str, request: ViewRequest, notes: list[str]) -> None:
    """A read-only file system over `place` in which only what rules name appears.

    It is filled while nobody else can reach it: folders in it may belong to the session's user.
    """
    named = [path for link in request.rules for path, _writes in link]
    if place in named:
        notes.append(f"{place} is left as it is: a file rule names all of it")
        return
    with ExitStack() as stack:

        def keep(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        old = open_plain(root, place)
        if old is None:
            return
        keep(old)
        if not stat.S_ISDIR(os.fstat(old).st_mode):
            return  # /var/run is a symbolic link to /run
        new = keep(mounts.new_filesystem("tmpfs", OPTIONS, NOTHING_RUNS))
        skeleton = _Skeleton(old, new, keep)
        shown = []
        beneath = [path for path in (*named, *request.sockets) if is_within(path, place)]
        for path in outermost(path for path in beneath if path != place):
            rest = path[len(place) + 1 :]
            found = open_plain(old, rest)
            if found is not None:
                shown.append((path, keep(found), skeleton.placeholder(rest, found)))
        skeleton.finish()
        mounts.add_attributes(new, mounts.MOUNT_ATTR_RDONLY, place)
        mounts.attach(new, old, place)
        for path, found, placeholder in shown:
            mounts.attach(keep(mounts.clone(found, path)), placeholder, path)


class _Skeleton:
    """The folders above what is shown, with the owners and modes that they have in `old`."""

    def __init__(self, old: int, new: int, keep: Callable[[int], int]) -> None:
        self._keep = keep
        self._folders = {"": (old, new)}

    def placeholder(self, path: str, shown: int) -> int:
        """An empty object at `path`, of the kind that `shown` is; its descriptor."""
        above, _, name = path.rpartition("/")
        _theirs, ours = self._folder(above)
        if stat.S_ISDIR(os.fstat(shown).st_mode):
            os.mkdir(name, dir_fd=ours)  # noqa: PTH102 - relative to a descriptor
        else:
            os.mknod(name, stat.S_IFREG, dir_fd=ours)
        return self._keep(mounts.open_entry(ours, name))

    def finish(self) -> None:
        """Give the folders to whom they belong, when nothing more is made in them."""
        for path, (theirs, ours) in self._folders.items():
            if path:
                facts = os.fstat(theirs)
                os.fchown(ours, facts.st_uid, facts.st_gid)
                # Whose group new files get matters little where nothing can be made.
                os.fchmod(ours, stat.S_IMODE(facts.st_mode) & ~(stat.S_ISUID | stat.S_ISGID))

    def _folder(self, path: str) -> tuple[int, int]:
        """(the old one, the new one) at `path`, made where it is not yet."""
        if path not in self._folders:
            above, _, name = path.rpartition("/")
            theirs, ours = self._folder(above)
            os.mkdir(name, 0o700, dir_fd=ours)  # noqa: PTH102
            mine = os.open(name, OPEN_FOLDER, dir_fd=ours)
            self._folders[path] = (
                self._keep(mounts.open_entry(theirs, name)),
                self._keep(mine),
            )
        return self._folders[path]

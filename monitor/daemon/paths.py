# SPDX-License-Identifier: Apache-2.0
"""Names of files made free of symbolic links, following only what root alone controls.

A rule is written with names (`/bin`, `/etc/alternatives/cc`) that are links on many hosts, and the
launcher opens every rule's path with RESOLVE_NO_SYMLINKS. The daemon resolves names for it as root,
so it must not follow what another could have put there: a name with such a link stays as it is, and
the launcher leaves its rule out.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

MAX_LINKS = 40  # MAXSYMLINKS in linux/namei.h
# Links there name another object for each process that looks.
PROC = "/proc/"


@dataclass(frozen=True, slots=True)
class _Name:
    """What a name stands for. `target`: where the link leads, when root made it.

    `only_root`: a directory whose entries only root can change.
    """

    target: str | None = None
    only_root: bool = False


class Resolver:
    """Looks each name up once: all paths of one plan are resolved in one state of the host."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}

    def __call__(self, path: str) -> str:
        """`path` without symbolic links that root owns and that stand where only root may write.

        ValueError where it is not absolute. What does not exist stays as it is.
        """
        if not path.startswith("/"):
            raise ValueError(f"{path} is not an absolute path")
        waiting = _parts(path)[::-1]
        done: list[str] = []
        links = 0
        # Whether only root can change which object the names up to here stand for.
        trusted = [self._look("/").only_root]
        while waiting:
            part = waiting.pop()
            if part == "..":
                if done:
                    done.pop()
                    trusted.pop()
                continue
            found = self._look(f"{'/'.join(('', *done))}/{part}")
            if found.target is not None and trusted[-1] and links < MAX_LINKS:
                links += 1
                waiting += _parts(found.target)[::-1]
                if found.target.startswith("/"):
                    done, trusted = [], trusted[:1]
                continue
            done.append(part)
            trusted.append(trusted[-1] and found.only_root)
        return "/" + "/".join(done)

    def _look(self, path: str) -> _Name:
        found = self._names.get(path)
        if found is None:
            found = self._names[path] = _look(path)
        return found


def resolve(path: str) -> str:
    """One path by itself; see Resolver."""
    return Resolver()(path)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _look(path: str) -> _Name:
    try:
        found = os.lstat(path)
        if found.st_uid != 0:
            return _Name()
        if stat.S_ISLNK(found.st_mode):
            # A plan has hundreds of names, and each Path costs as much as its system call.
            target = None if path.startswith(PROC) else os.readlink(path)  # noqa: PTH115
            return _Name(target)
    except OSError:
        return _Name()
    writable = stat.S_IWGRP | stat.S_IWOTH
    return _Name(only_root=stat.S_ISDIR(found.st_mode) and not found.st_mode & writable)

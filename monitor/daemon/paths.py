# SPDX-License-Identifier: Apache-2.0
"""Names of files made free of symbolic links, following only what root alone controls.

A rule is written with names (`/bin`, `/etc/alternatives/cc`) that are links on many hosts, and the
launcher opens every rule's path with RESOLVE_NO_SYMLINKS. The daemon resolves names for it as root,
so it must not follow what another could have put there: a name with such a link stays as it is, and
the launcher refuses it with ELOOP.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

MAX_LINKS = 40  # MAXSYMLINKS in linux/namei.h
# Links there name another object for each process that looks.
PROC = Path("/proc")


def resolve(path: str) -> str:
    """`path` without symbolic links that root owns and that stand where only root may write.

    ValueError where it is not absolute. What does not exist stays as it is.
    """
    if not path.startswith("/"):
        raise ValueError(f"{path} is not an absolute path")
    waiting = _parts(path)
    done: list[str] = []
    links = 0
    # Whether only root can change which object the names up to here stand for.
    trusted = [_only_root("/")]
    while waiting:
        name = waiting.pop(0)
        if name == "..":
            if done:
                done.pop()
                trusted.pop()
            continue
        here = "/" + "/".join((*done, name))
        target = _link(here) if trusted[-1] else None
        if target is not None and links < MAX_LINKS:
            links += 1
            waiting = _parts(target) + waiting
            if target.startswith("/"):
                done, trusted = [], trusted[:1]
            continue
        done.append(name)
        trusted.append(trusted[-1] and target is None and _only_root(here))
    return "/" + "/".join(done)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _link(path: str) -> str | None:
    """Where the link at `path` leads when root made it; None for anything else."""
    try:
        if os.lstat(path).st_uid != 0 or PROC in Path(path).parents:
            return None
        return str(Path(path).readlink())
    except OSError:
        return None


def _only_root(path: str) -> bool:
    """Whether `path` is a directory whose entries only root can change."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    writable = stat.S_IWGRP | stat.S_IWOTH
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & writable

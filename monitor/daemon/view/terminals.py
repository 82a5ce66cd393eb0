# SPDX-License-Identifier: Apache-2.0
"""Terminals in a view: a devpts of the session's own, in which nobody else's terminals are.

The terminal that the session was started from is not in it: it is used by its descriptors and as
/dev/tty, and has no name of its own inside.
"""

from __future__ import annotations

import grp
import os
import stat
from contextlib import suppress
from functools import cache

from monitor.daemon.view.patterns import Reach
from monitor.kernel import mounts
from monitor.kernel.mounts import open_plain
from monitor.policy.plan import TERMINALS

# Its two ends: opening one makes a new terminal, of the devpts that it belongs to.
MULTIPLEXER = "/dev/ptmx"
MULTIPLEXER_NAME = "ptmx"
NO_PROGRAMS = mounts.MOUNT_ATTR_NOSUID | mounts.MOUNT_ATTR_NOEXEC


def new_terminals() -> int:
    """A detached devpts, as hosts mount theirs: the group may write (write(1)), not read."""
    options = {"mode": "0620", "ptmxmode": "0666"} | _group()
    return mounts.new_filesystem("devpts", options, NO_PROGRAMS)


@cache
def _group() -> dict[str, str]:
    """The host's group of terminals; looked up before any namespace is entered."""
    with suppress(KeyError):
        return {"gid": str(grp.getgrnam("tty").gr_gid)}
    return {}


def own_terminals(root: int, new: int, reach: Reach) -> list[str]:
    """Mount `new` in place of the host's terminals; other paths at which those are in reach."""
    place = open_plain(root, TERMINALS)
    if place is None:
        return []
    try:
        facts = os.fstat(place)
        mounts.attach(new, place, TERMINALS)
    finally:
        os.close(place)
    _replace_multiplexer(root, new)
    device = f"{os.major(facts.st_dev)}:{os.minor(facts.st_dev)}"
    return [
        mount.point
        for mount in mounts.mounts()
        if mount.device == device
        and mount.point not in (TERMINALS, MULTIPLEXER)
        and reach.touches(mount.point)
    ]


def _replace_multiplexer(root: int, new: int) -> None:
    """Mount the multiplexer of `new` over the host's; a link leads to it by itself."""
    place = open_plain(root, MULTIPLEXER)
    if place is None:
        return
    try:
        if not stat.S_ISLNK(os.fstat(place).st_mode):
            mounts.attach_entry(new, MULTIPLEXER_NAME, place, MULTIPLEXER)
    finally:
        os.close(place)

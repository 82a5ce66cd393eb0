# SPDX-License-Identifier: Apache-2.0
"""The file system of the masks: what is mounted over objects that are taken away."""

from __future__ import annotations

import os
import stat

from monitor.daemon.view.request import Identity
from monitor.daemon.view.run import NOTHING_RUNS, OPTIONS
from monitor.daemon.view.ssh import Copies
from monitor.kernel import mounts
from monitor.policy.plan import MaskKind

EMPTY_FILE = "file"
EMPTY_FOLDER = "folder"
ATTRIBUTES = {
    MaskKind.READ_ONLY: mounts.MOUNT_ATTR_RDONLY,
    MaskKind.NO_EXEC: mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOEXEC,
}


def new_room(copies: Copies, identity: Identity) -> int:
    """A detached, read-only file system: an empty file and folder of mode 000, ssh's files."""
    room = mounts.new_filesystem("tmpfs", OPTIONS, NOTHING_RUNS)
    os.mknod(EMPTY_FILE, stat.S_IFREG, dir_fd=room)
    os.mkdir(EMPTY_FOLDER, 0, dir_fd=room)  # noqa: PTH102 - relative to a descriptor
    copies.write(room, identity.uid, identity.gid)
    mounts.add_attributes(room, mounts.MOUNT_ATTR_RDONLY, "tmpfs")
    return room

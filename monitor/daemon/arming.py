# SPDX-License-Identifier: Apache-2.0
"""Which sessions the LSM programs judge: armed when the first process wears its floor.

Before that it is the launcher's own code that runs, which reads what no rule grants.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from monitor.kernel.inodes import Identities, devices
from monitor.session.session import Session
from monitor.wire.file_rows import FileRows, Object, file_rows

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

MOUNTINFO = Path("/proc/self/mountinfo")
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


class Objects:
    """Paths of this mount namespace, as the objects that the kernel has for them."""

    def __init__(self) -> None:
        self._identities = Identities()
        self._devices: dict[str, int] = {}

    def find(self, path: str) -> Object | None:
        """(device, inode); None: there is none. OSError: it cannot be looked at."""
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _ABSENT:
                return None
            raise
        try:
            return self._identities.of(descriptor, os.fstat(descriptor), self._device)
        finally:
            os.close(descriptor)

    def is_folder(self, path: str) -> bool:
        try:
            return Path(path).is_dir()
        except OSError:
            return False

    def _device(self, mount: str) -> int:
        if mount not in self._devices:
            with MOUNTINFO.open(encoding="utf-8", errors="surrogateescape") as file:
                self._devices = dict(devices(file))
        if mount not in self._devices:
            raise OSError(errno.ENODEV, "a mount that this namespace does not have", mount)
        return self._devices[mount]


def arm(context: Context, session: Session) -> None:
    """Let the LSM programs judge `session` from now on, where there are any.

    OSError E2BIG, ENOSPC: they have no room.
    """
    arms = context.tables.arms
    if not arms.active:
        return
    plan = context.registry.whole(session).plan
    rules = None if plan.observe else rules_of(session, context)
    arms.arm(session.cgroup_id, rules)


def again(context: Context, session: Session) -> None:
    """Judge an armed session by what its plan says now. OSError as of arm."""
    if context.tables.arms.holds(session.cgroup_id):
        arm(context, session)


def rules_of(session: Session, context: Context) -> FileRows:
    """The rows of all links above and of its own."""
    objects = Objects()
    return file_rows(context.registry.whole(session).plan.policies, objects.find, objects.is_folder)

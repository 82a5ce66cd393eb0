# SPDX-License-Identifier: Apache-2.0
"""Names that are removed: counted against the budget of each link that has one.

A rename counts where it takes the place of another name. Whether the call then succeeds is the
kernel's affair: a try counts.
"""

from __future__ import annotations

import errno
import os

from monitor.daemon.gate import walk
from monitor.daemon.gate.calls import Call, Calls
from monitor.daemon.gate.execs import refuse_spent
from monitor.policy.action import Verb
from monitor.policy.syscalls import NAMES
from monitor.wire.layout import BudgetKind

AT_FDCWD = -100
RENAME_EXCHANGE = 2
# Which arguments are the directory (None: there is none) and the name that goes, by call.
PLACES = {
    "unlink": (None, 0),
    "rmdir": (None, 0),
    "unlinkat": (0, 1),
    "rename": (None, 1),
    "renameat": (2, 3),
    "renameat2": (2, 3),
}


def handle(calls: Calls, call: Call) -> None:
    """Let it go on where every budget has room for it."""
    name = NAMES[call.notification.number]
    facts, office, numbers = call.known.facts, calls.office, call.notification.arguments
    limits = [
        (link, policy.budgets.deletes)
        for link, policy in enumerate(facts.policies)
        if policy.budgets.deletes is not None
    ]
    renames = name.startswith("rename")
    if not limits or (name == "renameat2" and numbers[4] & RENAME_EXCHANGE):
        calls.go_on(call)
        return
    try:
        path = _path(calls, call, *PLACES[name])
    except OSError:
        calls.go_on(call)  # the kernel fails as well
        return
    if renames and not _exists(calls, call, path):
        calls.go_on(call)
        return
    if not calls.is_waiting(call):
        calls.drop(call)
        return
    for link, limit in limits:
        if office.authority.count(facts.numbers[link], BudgetKind.DELETES) > limit:
            verb = Verb.FILE_RENAME if renames else Verb.FILE_UNLINK
            refuse_spent(calls, call, link, BudgetKind.DELETES, verb, path)
            return
    calls.go_on(call)


def _path(calls: Calls, call: Call, folder: int | None, name: int) -> str:
    """The name that goes, absolute, its last part as it is. OSError."""
    numbers = call.notification.arguments
    path = os.fsdecode(call.task.path(numbers[name]))
    if not path:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if path.startswith("/"):
        return path
    descriptor = AT_FDCWD if folder is None else _signed(numbers[folder])
    if descriptor == AT_FDCWD:
        return f"{call.task.folder.rstrip('/')}/{path}"
    opened = call.task.descriptor(descriptor)
    try:
        return f"{walk.name_of(opened).rstrip('/')}/{path}"
    finally:
        os.close(opened)


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _exists(calls: Calls, call: Call, path: str) -> bool:
    folder, _, name = path.rstrip("/").rpartition("/")
    try:
        parent = walk.resolve(call.task, calls.root, os.fsencode(folder or "/"))
    except OSError:
        return False
    try:
        os.stat(name or ".", dir_fd=parent, follow_symlinks=False)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(parent)

# SPDX-License-Identifier: Apache-2.0
"""What the system calls in RI_PATH_CALL records do to files. Numbers: asm/unistd_64.h (x86_64)."""

from __future__ import annotations

from monitor.wire.events import FileOperation
from monitor.wire.layout import Hook

OPERATIONS = {
    **dict.fromkeys((2, 85, 257, 437), FileOperation.OPEN),  # open creat openat openat2
    **dict.fromkeys((59, 322), FileOperation.EXEC),  # execve execveat
    **dict.fromkeys((87, 263, 84), FileOperation.UNLINK),  # unlink unlinkat rmdir
    **dict.fromkeys((82, 264, 316), FileOperation.RENAME),  # rename renameat renameat2
    **dict.fromkeys((86, 265, 88, 266), FileOperation.LINK),  # link linkat symlink symlinkat
    # mkdir mkdirat mknod mknodat, and bind of a unix socket's name
    **dict.fromkeys((83, 258, 133, 259, 49), FileOperation.MKDIR),
    # chmod fchmod fchmodat chown fchown lchown fchownat
    **dict.fromkeys((90, 91, 268, 92, 93, 94, 260), FileOperation.CHMOD),
    # setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr
    **dict.fromkeys((188, 189, 190, 197, 198, 199), FileOperation.CHMOD),
    **dict.fromkeys((76, 77), FileOperation.TRUNCATE),  # truncate ftruncate
}

# What a call did that an LSM program refused.
HOOKS = {
    Hook.FILE_OPEN: FileOperation.OPEN,
    Hook.FILE_PERMISSION: FileOperation.USE,
    Hook.FILE_TRUNCATE: FileOperation.TRUNCATE,
    Hook.BPRM_CHECK: FileOperation.EXEC,
    Hook.MMAP_FILE: FileOperation.MAP,
    Hook.FILE_MPROTECT: FileOperation.MAP,
    Hook.PATH_UNLINK: FileOperation.UNLINK,
    Hook.PATH_RMDIR: FileOperation.UNLINK,
    Hook.PATH_MKNOD: FileOperation.OPEN,
    Hook.PATH_MKDIR: FileOperation.MKDIR,
    Hook.PATH_SYMLINK: FileOperation.LINK,
    Hook.PATH_RENAME: FileOperation.RENAME,
    Hook.PATH_LINK: FileOperation.LINK,
    Hook.PATH_TRUNCATE: FileOperation.TRUNCATE,
    Hook.PATH_CHMOD: FileOperation.CHMOD,
    Hook.PATH_CHOWN: FileOperation.CHMOD,
    Hook.SETXATTR: FileOperation.CHMOD,
    Hook.REMOVEXATTR: FileOperation.CHMOD,
}
# Hooks of calls whose exit tells of no path.
UNTOLD = frozenset((Hook.FILE_PERMISSION, Hook.MMAP_FILE, Hook.FILE_MPROTECT))
# Hooks that do not know the whole path: the exit of the call tells it.
PATHLESS = frozenset((Hook.SETXATTR, Hook.REMOVEXATTR))

# fchmod fchown fsetxattr fremovexattr ftruncate: no path is passed, the descriptor's own is told.
BY_DESCRIPTOR = frozenset((91, 93, 190, 199, 77))

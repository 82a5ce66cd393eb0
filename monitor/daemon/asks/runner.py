# SPDX-License-Identifier: Apache-2.0
"""Starts an approver's program so that it ends with the worker, as another user where asked.

Runs as `python3 -I -S runner.py PARENT UID GID GROUP,… PROGRAM ARGUMENT…`; UID is `-` for the
daemon's own. Whoever changes their user loses the wish to be told of a parent's end, so that is
said last.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9
CANNOT_RUN = 127


def main() -> None:
    parent, uid, gid, groups, *command = sys.argv[1:]
    if uid != "-":
        os.setgroups([int(group) for group in groups.split(",") if group])
        os.setgid(int(gid))
        os.setuid(int(uid))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        os._exit(CANNOT_RUN)  # it has died in between
    os.umask(0o022)
    try:
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, f"cannot run {command[0]}: {error.strerror}\n".encode())
    os._exit(CANNOT_RUN)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""A terminal of the test's own, with an interactive shell in it: types, and waits for output."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.daemon import User

SECONDS = 15.0


class Terminal:
    """A pseudo-terminal in which `argv` runs as `user`, as the leader of its session."""

    def __init__(
        self, argv: Sequence[str], user: User, environment: Mapping[str, str], rows: int = 24
    ) -> None:
        self.seen = ""
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                os.fchown(0, user.uid, -1)
                os.setgroups([])
                os.setgid(user.gid)
                os.setuid(user.uid)
                os.chdir(user.home)
                os.execvpe(argv[0], list(argv), dict(environment))
            os._exit(111)
        self.resize(rows, 80)

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, size)

    def wait_for(self, text: str) -> str:
        """Read until `text` comes; what came before it. AssertionError past the time."""
        deadline = time.monotonic() + SECONDS
        while text not in self.seen:
            readable, _, _ = select.select([self.descriptor], [], [], deadline - time.monotonic())
            assert readable, f"{text!r} did not come: {self.seen!r}"
            try:
                data = os.read(self.descriptor, 65536)
            except OSError:  # EIO: everyone has closed the other end
                data = b""
            assert data, f"the terminal ended before {text!r}: {self.seen!r}"
            self.seen += data.decode("utf-8", "replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def foreground(self) -> int:
        """The process group that has the terminal."""
        return os.tcgetpgrp(self.descriptor)

    def close(self) -> int:
        """Hang up, and wait for the leader; its wait status."""
        os.close(self.descriptor)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise AssertionError("the terminal's leader outlived the hang-up")


def state_of(pid: int) -> str:
    """The state letter of a process (proc_pid_stat(5))."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text.rpartition(")")[2].split()[0]

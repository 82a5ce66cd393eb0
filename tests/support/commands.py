# SPDX-License-Identifier: Apache-2.0
"""Command lines of documents, typed as a user of a test daemon would."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.daemon import PYTHON, Daemon, User

COMMANDS = {
    "rictl": f'exec {PYTHON} -m monitor.cli.rictl "$@"',
    "ri-exec": f'exec /usr/bin/python3 -I -S {ROOT}/monitor/launch/ri_exec.py "$@"',
}


class Shell:
    """Types lines for `user` in `folder`; `rictl` and `ri-exec` are the checkout's."""

    def __init__(self, daemon: Daemon, user: User, folder: Path) -> None:
        self.daemon = daemon
        self.user = user
        self.folder = folder
        self._bin = daemon.folder / "bin"
        self._bin.mkdir(exist_ok=True)
        for name, command in COMMANDS.items():
            (self._bin / name).write_text(f"#!/bin/sh\n{command}\n")
            (self._bin / name).chmod(0o755)

    def start(self, line: str) -> subprocess.Popen[str]:
        """Type `line` and go on."""
        environment = self.daemon.environment(self.user) | {
            "PATH": f"{self._bin}:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "USER": self.user.name,
        }
        return subprocess.Popen(
            ["/bin/bash", "-c", line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=environment,
            user=self.user.uid,
            group=self.user.gid,
            extra_groups=[],
        )

    def type(self, line: str, keys: str = "") -> subprocess.CompletedProcess[str]:
        """Type `line`, and `keys` into what it starts, and wait for the end."""
        started = self.start(line)
        output, errors = started.communicate(keys, timeout=90)
        return subprocess.CompletedProcess(line, started.returncode, output, errors)

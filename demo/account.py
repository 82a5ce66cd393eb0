# SPDX-License-Identifier: Apache-2.0
"""The unprivileged user the agent runs as, with a home that has something to steal."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from demo.failure import DemoError
from demo.scene import Secrets

# Found again by this comment field: a user of the same name that somebody else made is not touched.
_COMMENT = "made by ri for its demo"
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this host; `run` and `start` act as that user, with its login environment."""

    name: str
    uid: int
    gid: int
    home: Path

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "PATH": _PATH,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            **(extra or {}),
        }

    def start(
        self,
        argv: Sequence[str],
        *,
        cwd: Path | None = None,
        extra: Mapping[str, str] | None = None,
        output: int | None = subprocess.PIPE,
        errors: int = subprocess.STDOUT,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv,
            cwd=cwd or self.home,
            env=self.environment(extra),
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            umask=0o022,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            text=True,
        )

    def run(self, argv: Sequence[str], *, cwd: Path | None = None, timeout: float = 60) -> str:
        """Output of a command that must succeed; raises DemoError with its output otherwise."""
        process = self.start(argv, cwd=cwd)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            process.wait()
            raise DemoError(
                f"{' '.join(argv)} as {self.name}: not done in {timeout:g} s"
            ) from error
        if process.returncode:
            raise DemoError(
                f"{' '.join(argv)} as {self.name}: exit status {process.returncode}\n{output}"
            )
        return output

    def give(self, path: Path) -> None:
        """Make `path` and all beneath it this user's, without following symbolic links."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        for folder, directories, files in os.walk(path):
            for name in (*directories, *files):
                os.chown(Path(folder, name), self.uid, self.gid, follow_symlinks=False)


def create(name: str) -> Account:
    """The user `name` with an empty home; one left over from an earlier run is made anew."""
    remove(name)
    subprocess.run(
        ["useradd", "--create-home", "--user-group", "--comment", _COMMENT]
        + ["--shell", "/bin/bash", name],
        check=True,
        capture_output=True,
    )
    entry = pwd.getpwnam(name)
    home = Path(entry.pw_dir)
    home.chmod(0o755)
    return Account(name, entry.pw_uid, entry.pw_gid, home)


def remove(name: str) -> None:
    """Take away the user that `create` made; nothing happens where there is none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return
    if entry.pw_gecos.split(",")[0] != _COMMENT:
        raise DemoError(f"user {name} exists and is not the demo's own: rename or remove it")
    end_processes(entry.pw_uid)
    subprocess.run(["userdel", name], check=True, capture_output=True)
    shutil.rmtree(entry.pw_dir, ignore_errors=True)


def end_processes(uid: int) -> None:
    """SIGKILL whatever still runs as `uid`: the user is the demo's own."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.uids().real == uid:
                process.kill()


def furnish(account: Account, secrets: Secrets) -> None:
    """Put into the home what an attacker looks for: a key, a shell start-up file."""
    ssh = account.home / ".ssh"
    ssh.mkdir(mode=0o700)
    key = ssh / "id_ed25519"
    key.write_text(
        "-----BEGIN OPENSSH PRIVATE KEY-----\n"
        f"{secrets.ssh_key}\n"
        "-----END OPENSSH PRIVATE KEY-----\n"
    )
    key.chmod(0o600)
    (account.home / ".bashrc").write_text("# shell start-up of the demo's user\n")
    (account.home / ".gitconfig").write_text(
        "[user]\n\tname = Demo Agent\n\temail = agent@demo.invalid\n"
        "[init]\n\tdefaultBranch = main\n"
    )
    account.give(account.home)

# SPDX-License-Identifier: Apache-2.0
"""The scene of the bypass suite: one daemon, one workspace, and what lies outside of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from monitor.prove import scene as scenes
from monitor.prove.case import PROFILE
from monitor.prove.scene import furnish
from tests.host.conftest import daemon, make_user, user, users
from tests.support.daemon import Daemon, User

__all__ = ["PROFILE", "daemon", "make_user", "user", "users"]

PROGRAMS = Path(__file__).parent / "programs"
FILES_PROFILE = """\
include: [base]
files:
  read: ["{workspace}/**", "{home}/workspace/**"]
  write: ["{workspace}/**"]
  execute: ["{workspace}/**"]
  deny: ["{workspace}/**/.env"]
  read_only: ["{workspace}/.git/hooks", "{workspace}/.git/config"]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A session is the kernel's: without root there is none to break out of."""
    if os.geteuid() != 0:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="the bypass suite needs root"))


@dataclass(frozen=True, slots=True)
class Scene:
    """`words` fill in a case's program; everything belongs to `user` unless it must not."""

    user: User
    daemon: Daemon
    workspace: Path
    words: dict[str, str]
    slow: socket.socket  # listens, and takes next to nothing
    made: scenes.Scene

    def bare(self, command: list[str], root: bool = False) -> subprocess.CompletedProcess[str]:
        """Run `command` without ri-exec."""
        return subprocess.run(
            command,
            user=0 if root else self.user.uid,
            group=0 if root else self.user.gid,
            extra_groups=[],
            cwd=self.workspace,
            env=self.daemon.environment(self.user),
            capture_output=True,
            text=True,
            timeout=30,
        )


@pytest.fixture(scope="module")
def scene(user: User, daemon: Daemon) -> Iterator[Scene]:
    """What `rictl doctor --prove` makes, in the user's home, and what only the tests need."""
    with ExitStack() as stack:
        home = user.home
        stack.callback(shutil.rmtree, home / "workspace")
        made = furnish(stack, home, user.uid, user.gid, daemon.socket)
        made.words["namespace"] = "own"  # the sessions are started by the user
        for program in PROGRAMS.glob("*.py"):
            shutil.copy(program, made.words["programs"])
        slow = stack.enter_context(socket.socket())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.bind(("127.0.0.1", 0))
        slow.listen(1)
        port = made.words["port"]
        for name, text in made.profiles.items():
            with_slow = text.replace(f':{port}"', f':{port},{slow.getsockname()[1]}"')
            daemon.profile(name, with_slow)
        yield Scene(user, daemon, made.workspace, made.words, slow, made)


@pytest.fixture
def repository(scene: Scene) -> Iterator[Path]:
    folder = scene.user.home / "repository"
    script = f"""
set -e
git init -q {folder}; cd {folder}; git config user.email a@example; git config user.name a
echo .env > .gitignore; mkdir sub; echo SECRET > .env; echo SECRET > sub/.env; echo 1 > file
git add -A; git commit -qm first
"""
    assert scene.bare(["sh", "-c", script]).returncode == 0
    scene.daemon.profile("files", FILES_PROFILE)
    yield folder
    shutil.rmtree(folder)

# SPDX-License-Identifier: Apache-2.0
"""The scene of the bypass suite: one daemon, one workspace, and what lies outside of it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from monitor.kernel.cgroup import unified_mount
from tests.host.conftest import daemon, make_user, user, users
from tests.support.daemon import Daemon, User

__all__ = ["daemon", "make_user", "user", "users"]

PROGRAMS = Path(__file__).parent / "programs"
PROFILE = "bypass"
PROFILE_TEXT = """\
include: [base]
files:
  read: ["{workspace}/**"]
  write: ["{workspace}/**"]
  execute: ["{workspace}/**"]
exec:
  deny: ["{workspace}/denied"]
network:
  connect: ["127.0.0.1:PORT,SLOW", "127.0.0.1:PORT/udp"]
"""
FILES_PROFILE = """\
include: [base]
files:
  read: ["{workspace}/**", "{home}/workspace/**"]
  write: ["{workspace}/**"]
  execute: ["{workspace}/**"]
  deny: ["{workspace}/**/.env"]
  read_only: ["{workspace}/.git/hooks", "{workspace}/.git/config"]
"""
STRICT = """\
syscalls:
  preset: strict
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


def listeners(stack: ExitStack) -> tuple[int, int]:
    """Two ports on which TCP and UDP are served on both loopback addresses."""

    def serve(port: int) -> int:
        for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                server = stack.enter_context(socket.socket(family, kind))
                server.bind((address, port))
                port = server.getsockname()[1]
                if kind == socket.SOCK_STREAM:
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
                    server.listen(64)
        return port

    return serve(0), serve(0)


@pytest.fixture(scope="module")
def scene(user: User, daemon: Daemon) -> Iterator[Scene]:
    """Everything that the cases speak of."""
    with ExitStack() as stack:
        user.home.chmod(0o755)
        workspace = user.home / "workspace"
        programs = workspace / "programs"
        shutil.copytree(PROGRAMS, programs, ignore=shutil.ignore_patterns("__pycache__"))
        stack.callback(shutil.rmtree, workspace)
        for name in ("compat", "show_euid"):
            compiler = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]
            source = PROGRAMS / f"{name}.c"
            subprocess.run([*compiler, programs / name, source], check=True, capture_output=True)
        shutil.copy("/usr/bin/true", workspace / "denied")
        (workspace / "own").write_text("the agent's\n")
        (user.home / "secret").write_text("a secret\n")
        port, other = listeners(stack)
        slow = stack.enter_context(socket.socket())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.bind(("127.0.0.1", 0))
        slow.listen(1)
        abstract = f"ri-test-{secrets.token_hex(4)}"
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(f"\0{abstract}")
        server.listen(64)
        datagrams = user.home / "datagrams"
        stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(str(datagrams))
        stack.callback(datagrams.unlink)
        for path in (workspace, *workspace.rglob("*"), user.home / "secret", datagrams):
            os.chown(path, user.uid, user.gid)
        setuid = programs / "show_euid"
        os.chown(setuid, 0, 0)
        setuid.chmod(0o4755)
        delegated = unified_mount() / f"{daemon.instance}-delegated"
        delegated.mkdir()
        stack.callback(delegated.rmdir)
        os.chown(delegated / "cgroup.procs", user.uid, user.gid)
        victim = subprocess.Popen(["sleep", "600"], user=user.uid, group=user.gid, extra_groups=[])
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        text = PROFILE_TEXT.replace("PORT", str(port)).replace("SLOW", str(slow.getsockname()[1]))
        daemon.profile(PROFILE, text)
        daemon.profile(f"{PROFILE}-strict", text + STRICT)
        words = {
            "programs": str(programs),
            "workspace": str(workspace),
            "secret": str(user.home / "secret"),
            "own": str(workspace / "own"),
            "denied": str(workspace / "denied"),
            "setuid": str(setuid),
            "delegated": str(delegated / "cgroup.procs"),
            "victim": str(victim.pid),
            "abstract": abstract,
            "datagrams": str(datagrams),
            "port": str(port),
            "other": str(other),
        }
        yield Scene(user, daemon, workspace, words, slow)


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

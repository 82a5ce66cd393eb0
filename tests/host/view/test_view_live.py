# SPDX-License-Identifier: Apache-2.0
"""Masks made while a session runs: names that appear, and a plan that takes more away."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from monitor.daemon.view import viewing
from monitor.daemon.view.request import ViewError, WatchRequest
from monitor.kernel import fanotify
from monitor.policy.plan import MaskKind, Plan
from monitor.policy.watched import watched_masks
from monitor.wire.opens import OpensMemory
from tests.support.daemon import User
from tests.support.views import SECRET, Child, as_user, plan_of

# Runs each line of a fifo in the view; its own shell's folder is the one that CMD started in.
RUNNER = """
while read -r line < {fifo}; do
    eval "$line" > {answer}.new 2>&1
    mv {answer}.new {answer}
done
"""


class Running:
    """A session's process that does as it is told."""

    def __init__(self, user: User, workspace: Path, plan: Plan) -> None:
        self.fifo, self.answer = workspace.parent / "live-fifo", workspace.parent / "live-answer"
        as_user(user, f"rm -f {self.answer} {self.fifo}; mkfifo {self.fifo}")
        script = RUNNER.format(fifo=self.fifo, answer=self.answer)
        self.child = Child(user, script, workspace)
        self.child.view(plan)
        assert self.child.process.stdin is not None
        self.child.process.stdin.write("go\n")
        self.child.process.stdin.flush()

    def do(self, command: str) -> str:
        self.answer.unlink(missing_ok=True)
        self.fifo.write_text(command + "\n")
        deadline = time.monotonic() + 5
        while not self.answer.exists():
            assert time.monotonic() < deadline, command
            time.sleep(0.005)
        return self.answer.read_text()

    def end(self) -> None:
        self.child.end()
        self.fifo.unlink()
        self.answer.unlink(missing_ok=True)


@contextmanager
def watched(running: Running, plan: Plan) -> Iterator[socket.socket]:
    """A watcher in the session's namespace; nothing has its opens wait."""
    with ExitStack() as stack:
        opens, names = fanotify.permission_group(), fanotify.name_group()
        memory = os.memfd_create("opens")
        namespace = os.open(f"/proc/{running.child.process.pid}/ns/mnt", os.O_RDONLY)
        for fd in (opens, names, memory, namespace):
            stack.callback(os.close, fd)
        OpensMemory(memory).prepare()
        request = WatchRequest.of(plan, watched_masks(plan), (), True)
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with mine:
            with its:
                asyncio.run(viewing.watch(namespace, request, its.fileno(), opens, names, memory))
            yield mine


@pytest.fixture
def plan(workspace: Path) -> Plan:
    return plan_of(
        workspace,
        [(f"{workspace}/**/.env", MaskKind.HIDE), (f"{workspace}/**/hooks", MaskKind.READ_ONLY)],
        own_proc=True,
    )


@pytest.fixture
def running(user: User, workspace: Path, plan: Plan) -> Iterator[Running]:
    made = Running(user, workspace, plan)
    yield made
    made.end()


def until(running: Running, command: str, refused: str) -> None:
    """Masking follows the name's appearing within a moment."""
    deadline = time.monotonic() + 5
    while refused not in (said := running.do(command)):
        assert time.monotonic() < deadline, said


CREATIONS = (
    ("written", "echo TOKEN > new/.env", "new/.env"),
    ("renamed in", "echo TOKEN > draft; mv draft new/.env", "new/.env"),
    ("saved anew over a masked one", "echo TOKEN > draft; mv draft .env", ".env"),
    ("in a new folder", "mkdir -p new/a/b/c; echo TOKEN > new/a/b/c/.env", "new/a/b/c/.env"),
    ("moved in", "mkdir ../out; echo TOKEN > ../out/.env; mv ../out new", "new/out/.env"),
    ("a folder of the name", "mkdir new/.env; echo TOKEN > new/.env/x", "new/.env/x"),
)  # fmt: skip


@pytest.mark.parametrize(("way", "script", "name"), CREATIONS, ids=[each[0] for each in CREATIONS])
def test_a_name_that_appears_is_masked(
    user: User, workspace: Path, running: Running, plan: Plan, way: str, script: str, name: str
) -> None:
    as_user(user, f"mkdir {workspace}/new")
    assert running.do(f"cat {workspace}/.env").endswith("Permission denied\n")
    with watched(running, plan):
        as_user(user, f"cd {workspace}; {script}")
        until(running, f"cat {workspace}/{name}", "denied" if "x" not in name else "x")
        # By a name relative to where the program has stood all the time, and from outside.
        assert "TOKEN" not in running.do(f"cat {name}")
        assert (workspace / name).read_text() == "TOKEN\n", way


def test_without_a_watcher_it_is_open(user: User, workspace: Path, running: Running) -> None:
    """The same with the control off."""
    as_user(user, f"mkdir {workspace}/new; echo TOKEN > {workspace}/new/.env")
    assert running.do(f"cat {workspace}/new/.env") == "TOKEN\n"


def test_what_the_session_makes_is_masked_too(
    workspace: Path, running: Running, plan: Plan
) -> None:
    with watched(running, plan):
        assert running.do("mkdir -p deep/x/hooks && echo 1 > deep/x/.env") == ""
        until(running, "cat deep/x/.env", "Permission denied")
        until(running, "echo 1 > deep/x/hooks/run", "Read-only file system")
        # A mount point stays where it is.
        assert "busy" in running.do("mv deep/x/hooks deep/y").lower()
        assert not (workspace / "deep/y").exists()


def test_masks_survive_names_that_come_and_go(
    user: User, workspace: Path, running: Running, plan: Plan
) -> None:
    script = "for i in $(seq 300); do mkdir -p n; echo TOKEN > n/.env; rm -r n; done"
    with watched(running, plan) as channel:
        as_user(user, f"cd {workspace}; {script}")
        as_user(user, f"mkdir {workspace}/last; echo TOKEN > {workspace}/last/.env")
        until(running, f"cat {workspace}/last/.env", "Permission denied")
        channel.setblocking(False)
        said = []
        with pytest.raises(BlockingIOError):
            while True:
                said.append(channel.recv(4096))
        assert not [each for each in said if b"failed" in each]


def test_a_session_is_narrowed(workspace: Path, running: Running) -> None:
    narrower = plan_of(
        workspace,
        [(f"{workspace}/tools/**", MaskKind.HIDE), (f"{workspace}/f", MaskKind.READ_ONLY)],
    )
    assert running.do("cat tools/curl | wc -c") != "0\n"
    assert running.do("echo 2 > f") == ""
    made = asyncio.run(viewing.narrow(running.child.process.pid, narrower))
    assert made.masked == 2
    assert "denied" in running.do("ls tools")
    assert "Read-only file system" in running.do("echo 3 > f")
    assert running.do("cat f") == "2\n"
    # Nothing is masked twice.
    assert asyncio.run(viewing.narrow(running.child.process.pid, narrower)).masked == 0


def test_what_has_no_view_is_not_narrowed(workspace: Path) -> None:
    with pytest.raises(ViewError, match="no view of its own"):
        asyncio.run(viewing.narrow(os.getpid(), plan_of(workspace)))
    assert SECRET not in str(workspace)

# SPDX-License-Identifier: Apache-2.0
"""Ways out that are about a session as a whole: its begin, its end, and what it leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.prove.case import PYTHON
from tests.bypass.conftest import PROFILE, Scene
from tests.support.checkout import ROOT
from tests.support.daemon import wait_until

NO_SUCH_CALL = 999
REFUSED_BY_US = 125


def program(scene: Scene, name: str, *arguments: str) -> list[str]:
    return [PYTHON, f"{scene.words['programs']}/{name}", *arguments]


# -- row 20: what leaves the tree stays in the session -----------------------------------------


def test_a_process_that_left_the_tree_ends_with_the_session(scene: Scene) -> None:
    marker = scene.workspace / "outlived"
    command = program(scene, "daemonize.py", str(marker))
    assert scene.daemon.exec(PROFILE, command, cwd=scene.workspace).returncode == 0
    time.sleep(1.0)
    assert not marker.exists()
    assert scene.bare(command).returncode == 0
    wait_until(marker.exists)
    marker.unlink()


# -- row 37: descriptors that were left open ---------------------------------------------------


def test_descriptors_of_the_caller_do_not_get_in(scene: Scene) -> None:
    with Path(scene.words["secret"]).open("rb") as secret:
        number = secret.fileno()
        command = program(scene, "read_descriptor.py", str(number))
        governed = scene.daemon.exec(PROFILE, command, cwd=scene.workspace, pass_fds=[number])
        assert governed.stdout.splitlines()[-1] == "REFUSED EBADF"
        free = subprocess.run(command, pass_fds=[number], capture_output=True, text=True)
        assert free.stdout.startswith("DONE")


# -- row 52: bytes that are queued at the end --------------------------------------------------


def received(scene: Scene) -> int:
    """What arrives at the slow listener after the sender has ended."""
    connection, _ = scene.slow.accept()
    total = 0
    with connection:
        connection.settimeout(5)
        try:
            while data := connection.recv(1 << 16):
                total += len(data)
        except ConnectionResetError:
            pass
    return total


def test_bytes_queued_at_the_end_do_not_leave(scene: Scene) -> None:
    port = str(scene.slow.getsockname()[1])
    command = program(scene, "fill_socket.py", "127.0.0.1", port)
    governed = scene.daemon.exec(PROFILE, command, cwd=scene.workspace)
    scene.daemon.settled()
    queued = int(governed.stdout.split()[-1])
    assert received(scene) < queued
    free = scene.bare(command)
    assert received(scene) == int(free.stdout.split()[-1])


# -- row 65: started inside another sandbox ----------------------------------------------------


@pytest.fixture
def launcher(scene: Scene) -> Iterator[Path]:
    """ri-exec where a session can read it."""
    folder = scene.workspace / "ri"
    shutil.copytree(ROOT / "monitor" / "launch", folder / "monitor" / "launch")
    shutil.copy(ROOT / "monitor" / "__init__.py", folder / "monitor")
    yield folder / "monitor" / "launch" / "ri_exec.py"
    shutil.rmtree(folder)


def ri_exec(scene: Scene, launcher: Path, marker: Path) -> list[str]:
    tail = ["--profile", PROFILE, "--", "touch", str(marker)]
    return [PYTHON, "-I", "-S", str(launcher), *tail]


# landlock_restrict_self, landlock_create_ruleset, seccomp, unshare
@pytest.mark.parametrize("missing", [446, 444, 317, 272, NO_SUCH_CALL])
def test_nothing_runs_half_confined(scene: Scene, launcher: Path, missing: int) -> None:
    marker = scene.workspace / "ran"
    command = ri_exec(scene, launcher, marker)
    done = scene.bare(program(scene, "under_filter.py", str(missing), *command))
    if missing == NO_SUCH_CALL:  # so that the others fail for what they lack
        assert done.returncode == 0, done.stderr
        marker.unlink()
    else:
        assert done.returncode == REFUSED_BY_US, done.stderr
        assert not marker.exists()


def test_a_user_namespace_of_another_is_no_place_for_a_session(
    scene: Scene, launcher: Path
) -> None:
    marker = scene.workspace / "ran"
    command = ri_exec(scene, launcher, marker)
    done = scene.bare(["unshare", "--user", "--map-root-user", *command])
    assert done.returncode == REFUSED_BY_US, done.stderr
    assert not marker.exists()
    assert scene.bare(command).returncode == 0
    marker.unlink()


def test_a_session_in_a_session_needs_to_be_let(scene: Scene, launcher: Path) -> None:
    """The launch socket is one like any other: no rule lists it."""
    marker = scene.workspace / "ran"
    command = ["env", f"RI_SOCKET={scene.daemon.socket}", *ri_exec(scene, launcher, marker)]
    done = scene.daemon.exec(PROFILE, command, cwd=scene.workspace)
    assert done.returncode == REFUSED_BY_US, done.stderr
    assert not marker.exists()


# -- row 67: what is left behind ---------------------------------------------------------------


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every name with its mode and inode."""
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_ino)
        for path in folder.rglob("*")
        if ".git/objects" not in str(path)
    }


def test_the_workspace_is_the_agent_s_own(scene: Scene, repository: Path) -> None:
    """git sees no object of ours, and none is there afterwards."""
    before = listing(repository)
    script = "git status --porcelain; git add -A && git status --porcelain && cat .env"
    done = scene.daemon.exec("files", ["sh", "-c", script], cwd=repository)
    assert done.stdout == "", done.stderr
    assert "Permission denied" in done.stderr
    scene.daemon.settled()
    after = listing(repository)
    # git writes its index anew.
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {
        str(repository / ".git" / "index")
    }
    assert (repository / ".env").read_text() == "SECRET\n"


def test_nothing_lives_on_after_a_killed_launcher(scene: Scene, repository: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    ready = repository / "ready"
    script = f"sleep 300 & echo $! > {ready}.new; mv {ready}.new {ready}; setsid sleep 300"
    launcher = scene.daemon.spawn("files", ["sh", "-c", script], cwd=repository)
    wait_until(ready.exists)
    inside = int(ready.read_text())
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    scene.daemon.settled()
    # Killed and gone from its cgroup; init collects what is left of it a moment later.
    wait_until(lambda: not Path(f"/proc/{inside}").exists())
    sleepers = [
        process
        for process in Path("/proc").glob("[0-9]*/cmdline")
        if process.read_bytes() == b"sleep\x00300\x00"
    ]
    assert sleepers == []
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_what_is_allowed_is_reached(scene: Scene) -> None:
    """The scene's allowed port is reached, so that refusals elsewhere are the rules'."""
    command = program(scene, "connect_tcp.py", "127.0.0.1", scene.words["port"])
    assert scene.daemon.exec(PROFILE, command, cwd=scene.workspace).stdout.startswith("DONE")

# SPDX-License-Identifier: Apache-2.0
"""Opens in real sessions: asks, labels, names that appear, and the deaths of those who answer."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, User, wait_until

PROFILE = """\
include: [base]
files:
  read: ["{workspace}/**"]
  write: ["{workspace}/**"]
  execute: ["{workspace}/**"]
  deny: ["{workspace}/**/.env"]
  ask:
    - {path: "{workspace}/**/plan", why: plans are looked at}
network:
  connect: ["127.0.0.0/8:*"]
labels:
  customers:
    files: ["{workspace}/customers/**"]
    then: {network: {only: ["127.0.0.9:*"]}}
"""


@pytest.fixture
def workspace(user: User) -> Iterator[Path]:
    folder = user.home / "opens"
    as_user(user, f"mkdir -p {folder}/customers; echo names > {folder}/customers/list")
    as_user(user, f"echo text > {folder}/plan; echo free > {folder}/free")
    yield folder
    shutil.rmtree(folder)


def as_user(user: User, script: str) -> None:
    subprocess.run(
        ["/bin/sh", "-ec", script], user=user.uid, group=user.gid, extra_groups=[], check=True
    )


@pytest.fixture
def governed(daemon: Daemon) -> Iterator[Daemon]:
    daemon.profile("opens", PROFILE)
    yield daemon
    daemon.settled()


def asks(daemon: Daemon) -> list[dict[str, Any]]:
    status, body = daemon.request("GET", "/v1/asks")
    assert status == 200, body
    return list(body["asks"])


def waiting(daemon: Daemon, count: int = 1) -> list[dict[str, Any]]:
    """The asks, once so many actions wait."""
    wait_until(lambda: sum(each["count"] for each in asks(daemon)) == count)
    return asks(daemon)


def answer(daemon: Daemon, ask: dict[str, Any], verb: str = "approve") -> None:
    status, body = daemon.request("POST", f"/v1/asks/{ask['id']}/{verb}", {"why": "the test"})
    assert status == 200, body


def label_numbers(daemon: Daemon) -> list[str]:
    (session,) = daemon.sessions()
    return list(session["labels"])


# -- asks ------------------------------------------------------------------------------------------


def test_an_open_is_held_until_somebody_approves(governed: Daemon, workspace: Path) -> None:
    process = governed.spawn("opens", ["cat", workspace / "plan"], cwd=workspace)
    (ask,) = waiting(governed)
    assert ask["object"] == str(workspace / "plan")
    assert ask["why"] == "plans are looked at"
    assert process.poll() is None
    answer(governed, ask)
    output, errors = process.communicate(timeout=10)
    assert output == "text\n", errors


def test_an_open_that_is_denied_is_recorded(governed: Daemon, workspace: Path) -> None:
    process = governed.spawn("opens", ["cat", workspace / "plan"], cwd=workspace)
    answer(governed, waiting(governed)[0], "deny")
    output, errors = process.communicate(timeout=10)
    assert output == ""
    assert "Operation not permitted" in errors
    path = str(workspace / "plan")
    wait_until(
        lambda: any(
            path in each["object"] for each in governed.records(verb="file.open", verdict="deny")
        )
    )


def test_observed_it_is_not_held(governed: Daemon, workspace: Path) -> None:
    done = governed.exec("opens", ["cat", workspace / "plan"], cwd=workspace, observe=True)
    assert done.stdout == "text\n", done.stderr


def test_what_is_not_named_is_not_held(governed: Daemon, workspace: Path) -> None:
    done = governed.exec("opens", ["cat", workspace / "free"], cwd=workspace)
    assert done.stdout == "free\n", done.stderr


def test_a_plan_that_appears_is_held(governed: Daemon, workspace: Path) -> None:
    script = "while ! [ -e a/plan ]; do sleep 0.01; done; sleep 0.3; cat a/plan"
    process = governed.spawn("opens", ["sh", "-c", script], cwd=workspace)
    governed.launched(process)
    as_user(governed.user, f"cd {workspace}; mkdir a; echo new > draft; mv draft a/plan")
    answer(governed, waiting(governed)[0])
    assert process.communicate(timeout=10)[0] == "new\n"


# -- labels ----------------------------------------------------------------------------------------

# Eight threads read the labelled file, and connect to a host that is lost then, as fast as they
# can. What they tell: connections before it, and those begun after the first read that succeeded.
RACE = """
import os, socket, sys, threading, time
path, port = sys.argv[1], int(sys.argv[2])
made, read = [], []
def connect():
    began = time.monotonic_ns()
    with socket.socket() as s:
        try:
            s.connect(("127.0.0.1", port))
        except OSError:
            return
    made.append(began)
def loop():
    end = time.monotonic() + 0.7
    while time.monotonic() < end:
        connect()
        if time.monotonic() > begin:
            fd = os.open(path, os.O_RDONLY)
            os.read(fd, 100)
            read.append(time.monotonic_ns())
            os.close(fd)
begin = time.monotonic() + 0.2
threads = [threading.Thread(target=loop) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
print(len(made), sum(began > min(read) for began in made))
"""


@contextlib.contextmanager
def listening() -> Iterator[int]:
    """A port on which everything is taken."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(4096)
        server.settimeout(0.1)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    server.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("turn", range(5))
@pytest.mark.once
def test_nothing_leaves_after_the_read_returned(
    governed: Daemon, workspace: Path, turn: int
) -> None:
    command = ["python3", "-c", RACE, str(workspace / "customers" / "list")]
    with listening() as port:
        done = governed.exec("opens", [*command, str(port)], cwd=workspace)
        made, after = map(int, done.stdout.split())
        assert made > 0, done.stderr
        assert after == 0, turn
        # The same with a file that earns nothing.
        command[-1] = str(workspace / "free")
        for _attempt in range(10):  # a busy machine may let no thread run in between
            done = governed.exec("opens", [*command, str(port)], cwd=workspace)
            made, after = map(int, done.stdout.split())
            if after:
                break
        assert after > 0
    assert any(each["object"] == "customers" for each in governed.records(verb="label.earn"))


def test_a_label_that_is_taken_off_is_earned_again(governed: Daemon, workspace: Path) -> None:
    fifo = workspace / "go"
    os.mkfifo(fifo, 0o666)
    fifo.chmod(0o666)
    script = "cat customers/list; while :; do read -r line < go && cat customers/list; done"
    process = governed.spawn("opens", ["sh", "-c", script], cwd=workspace)
    session = governed.launched(process)

    def named() -> list[dict[str, Any]]:
        return governed.records(verb="label.earn", session=session["id"])

    try:
        wait_until(lambda: len(named()) == 1)
        fifo.write_text("again\n")
        time.sleep(0.3)
        assert len(named()) == 1
        removed = governed.rictl("label", "remove", session["id"], "customers", "--why", "test")
        assert removed.returncode == 0, removed.stderr
        fifo.write_text("again\n")
        wait_until(lambda: len(named()) == 2)
    finally:
        process.terminate()
        process.communicate()


# -- names that appear -----------------------------------------------------------------------------


def test_a_denied_name_that_appears_is_masked(governed: Daemon, workspace: Path) -> None:
    script = "while ! [ -e a/.env ]; do sleep 0.01; done; sleep 0.3; cat a/.env"
    process = governed.spawn("opens", ["sh", "-c", script], cwd=workspace)
    governed.launched(process)
    as_user(governed.user, f"cd {workspace}; mkdir a; echo TOKEN > a/.env")
    output, errors = process.communicate(timeout=10)
    assert output == ""
    assert "ermi" in errors
    path = str(workspace / "a" / ".env")
    wait_until(
        lambda: any(
            path in each["object"] for each in governed.records(verb="file.open", verdict="deny")
        )
    )
    assert (workspace / "a" / ".env").read_text() == "TOKEN\n"


# -- deaths ----------------------------------------------------------------------------------------


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def test_a_dead_worker_makes_opens_wait(governed: Daemon, workspace: Path) -> None:
    process = governed.spawn("opens", ["cat", workspace / "plan"], cwd=workspace)
    (ask,) = waiting(governed)
    with governed.without_worker():
        time.sleep(0.5)
        assert process.poll() is None
    (again,) = waiting(governed)
    assert again["id"] == ask["id"]
    assert process.poll() is None
    answer(governed, again)
    assert process.communicate(timeout=10)[0] == "text\n"


def test_a_dead_gate_makes_opens_wait(governed: Daemon, workspace: Path) -> None:
    process = governed.spawn("opens", ["cat", workspace / "plan"], cwd=workspace)
    waiting(governed)
    (gate,) = [p for p in children_of(governed.worker_pid()) if "gate.process" in command_of(p)]
    os.kill(gate, signal.SIGKILL)
    wait_until(lambda: gate not in children_of(governed.worker_pid()))
    time.sleep(0.3)
    assert process.poll() is None
    answer(governed, waiting(governed)[0])
    assert process.communicate(timeout=10)[0] == "text\n"


def test_names_are_masked_while_the_worker_is_dead(governed: Daemon, workspace: Path) -> None:
    script = "while ! [ -e go ]; do sleep 0.01; done; cat a/.env"
    process = governed.spawn("opens", ["sh", "-c", script], cwd=workspace)
    governed.launched(process)
    with governed.without_worker():
        as_user(governed.user, f"cd {workspace}; mkdir a; echo TOKEN > a/.env; sleep 0.3; : > go")
        output, errors = process.communicate(timeout=10)
    assert output == ""
    assert "ermission denied" in errors


def test_a_watcher_that_dies_is_started_again(governed: Daemon, workspace: Path) -> None:
    script = "while ! [ -e go ]; do sleep 0.01; done; cat a/.env"
    process = governed.spawn("opens", ["sh", "-c", script], cwd=workspace)
    session = governed.launched(process)
    namespace = os.readlink(f"/proc/{session['pid']}/ns/mnt")  # noqa: PTH115
    watchers = [
        int(each.name)
        for each in Path("/proc").iterdir()
        if each.name.isdigit()
        and "view/helper.py" in command_of(int(each.name))
        and _namespace(int(each.name)) == namespace
    ]
    (watcher,) = watchers
    os.kill(watcher, signal.SIGKILL)
    as_user(governed.user, f"cd {workspace}; mkdir a; echo TOKEN > a/.env; sleep 0.5; : > go")
    output, errors = process.communicate(timeout=10)
    assert output == ""
    assert "ermission denied" in errors
    governed.settled()
    # The one that followed is gone with the session.
    wait_until(lambda: namespace not in _namespaces())


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115
    except OSError:
        return ""


def _namespaces() -> set[str]:
    return {_namespace(int(each.name)) for each in Path("/proc").iterdir() if each.name.isdigit()}


def test_nothing_is_left_of_a_session(governed: Daemon, workspace: Path) -> None:
    worker = governed.worker_pid()
    assert governed.process is not None

    def held() -> tuple[int, ...]:
        pids = [worker, governed.process.pid if governed.process else 0]
        pids += [p for p in children_of(worker) if "gate.process" in command_of(p)]
        return tuple(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)

    governed.exec("opens", ["true"], cwd=workspace)
    governed.settled()
    before = held()
    for _ in range(5):
        governed.exec("opens", ["cat", workspace / "customers" / "list"], cwd=workspace)
    governed.settled()
    wait_until(lambda: held() <= before)

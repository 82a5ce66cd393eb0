# SPDX-License-Identifier: Apache-2.0
"""The gate and the worker die: what is held stays held, what is denied stays denied."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, User, wait_until

PROFILE = """
include: [base]
files: {execute: ["/usr/**"], write: ["{workspace}/**"], read: ["{workspace}/**"]}
exec:
  ask:
    - {path: /usr/bin/id, why: who are you}
  deny:
    - {path: /usr/bin/echo, args: ["...", secret]}
"""
LATE = 30.0


@pytest.fixture
def gated(make_daemon: Any) -> Iterator[Daemon]:
    daemon: Daemon = make_daemon()
    daemon.start()
    daemon.profile("gated", PROFILE)
    yield daemon


def gate_pid(daemon: Daemon) -> int:
    """The gate's process: a child of the worker."""
    worker = daemon.worker_pid()
    for child in Path(f"/proc/{worker}/task/{worker}/children").read_text().split():
        if b"gate.process" in Path(f"/proc/{child}/cmdline").read_bytes():
            return int(child)
    return 0


def asks(daemon: Daemon) -> list[dict[str, Any]]:
    status, body = daemon.request("GET", "/v1/asks")
    assert status == 200, body
    return list(body["asks"])


def held(daemon: Daemon, known: str = "") -> dict[str, Any]:
    """The one ask that waits (again, as `known`), once something waits for it."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        try:
            found[:] = asks(daemon)
        except OSError:
            return False
        return len(found) == 1 and found[0]["count"] == 1 and known in ("", found[0]["id"])

    wait_until(there, LATE)
    return found[0]


def approve(daemon: Daemon, ask: dict[str, Any]) -> None:
    done = daemon.rictl("approve", ask["id"])
    assert done.returncode == 0, done.stderr


def shell(daemon: Daemon, script: str) -> subprocess.Popen[str]:
    return daemon.spawn("gated", ["/usr/bin/bash", "-c", script])


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=LATE)
    return process.returncode, output, errors


def test_a_killed_gate_is_followed_by_one_that_asks_again(gated: Daemon, user: User) -> None:
    process = shell(gated, "id -u; echo after")
    ask = held(gated)
    dead = gate_pid(gated)
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: gate_pid(gated) not in (0, dead), LATE)
    time.sleep(0.5)
    assert process.poll() is None
    again = held(gated)
    assert (again["object"], again["argv"]) == (ask["object"], ask["argv"])
    approve(gated, again)
    assert finished(process)[:2] == (0, f"{user.uid}\nafter\n")


def test_a_killed_worker_is_followed_by_one_that_asks_again(gated: Daemon, user: User) -> None:
    process = shell(gated, "id -u; echo after")
    ask = held(gated)
    with gated.without_worker():
        time.sleep(0.5)
        assert process.poll() is None
    again = held(gated, ask["id"])
    approve(gated, again)
    assert finished(process)[:2] == (0, f"{user.uid}\nafter\n")


def test_without_a_gate_starts_wait(gated: Daemon, user: User) -> None:
    """Nothing is let through while there is none, and nothing is lost."""
    process = shell(
        gated,
        "touch ready; while [ ! -e go ]; do :; done;"
        " /usr/bin/echo fine; /usr/bin/echo secret; echo $?",
    )
    wait_until((user.home / "ready").exists, LATE)
    with gated.without_worker():
        (user.home / "go").touch()
        time.sleep(1.0)
        assert process.poll() is None
    assert finished(process)[1] == "fine\n126\n"


def test_starts_go_on_while_gates_are_killed(gated: Daemon) -> None:
    """A gate that dies between any two steps leaves nothing let through and nothing stuck."""
    script = (
        "for i in $(seq 300); do /usr/bin/echo $i || echo lost;"
        " /usr/bin/echo secret 2>/dev/null; done"
    )
    process = shell(gated, script)
    killed = 0
    while process.poll() is None and killed < 12:
        time.sleep(0.15)
        pid = gate_pid(gated)
        if pid:
            os.kill(pid, signal.SIGKILL)
            killed += 1
    status, output, errors = finished(process)
    lines = output.split()
    assert "secret" not in lines
    # One that a gate had let go on when it died keeps its ticket.
    assert [line for line in lines if line != "lost"] == [str(i) for i in range(1, 301)], errors
    assert killed > 2


def test_a_held_process_that_is_killed_withdraws(gated: Daemon) -> None:
    process = shell(gated, "id & sleep 0.3; kill -9 $!; wait $!; echo $?")
    assert finished(process)[1] == "137\n"
    wait_until(lambda: not asks(gated), LATE)

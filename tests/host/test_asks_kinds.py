# SPDX-License-Identifier: Apache-2.0
"""Asks of every kind, side by side: programs, connections, files; and a gate that is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, User, wait_until

PROFILE = """
include: [base]
files:
  execute: ["/usr/**"]
  read: ["{home}/**"]
  ask:
    - {{path: "{home}/secret.txt", why: it is secret}}
exec:
  ask:
    - {{path: /usr/bin/id, why: who are you}}
network:
  ask:
    - {{to: "127.0.0.1:{port}", why: far away}}
limits: {{asks_per_minute: 1000}}
"""
CONNECT = """
import socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60).close()
    print("connected")
except OSError as error:
    print(error.strerror)
"""
LATE = 30.0


class Door:
    """A server outside of all sessions."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.socket.getsockname()[1]
        self.came = 0
        threading.Thread(target=self._welcome, daemon=True).start()

    def _welcome(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.socket.accept()[0].close()
                self.came += 1

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    made = Door()
    yield made
    made.close()


@pytest.fixture(scope="module")
def daemon(user: User, door: Door) -> Iterator[Daemon]:
    made = Daemon(user)
    (user.home / "secret.txt").write_text("42\n")
    os.chown(user.home / "secret.txt", user.uid, user.gid)
    try:
        made.start()
        made.profile("asked", PROFILE.format(home=user.home, port=door.port))
        yield made
    finally:
        made.clean()


def asks(daemon: Daemon, count: int = 1) -> list[dict[str, Any]]:
    """What waits, once there are so many."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = daemon.request("GET", "/v1/asks")[1]["asks"]
        return len(found) == count and all(each["count"] for each in found)

    try:
        wait_until(there, LATE)
    except AssertionError:
        shown = [(each["id"], each["verb"], each["count"]) for each in found]
        raise AssertionError(f"{shown} wait, not {count}: {daemon.log_text()}") from None
    return found


def start(daemon: Daemon, *argv: str) -> subprocess.Popen[str]:
    return daemon.spawn("asked", argv)


def connect(daemon: Daemon, door: Door) -> subprocess.Popen[str]:
    return start(daemon, "/usr/bin/python3", "-I", "-c", CONNECT, str(door.port))


def gate_pid(daemon: Daemon) -> int:
    worker = daemon.worker_pid()
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    found = [
        int(each)
        for each in children
        if b"gate.process" in Path(f"/proc/{each}/cmdline").read_bytes()
    ]
    assert len(found) == 1, children
    return found[0]


def test_a_connection_waits_and_reaches_nobody_before(daemon: Daemon, door: Door) -> None:
    before = door.came
    process = connect(daemon, door)
    (ask,) = asks(daemon)
    assert ask["verb"] == "net.connect"
    assert ask["object"].startswith(f"127.0.0.1:{door.port}")
    assert ask["why"] == "far away"
    assert door.came == before
    assert daemon.rictl("approve", ask["id"]).returncode == 0
    output, errors = process.communicate(timeout=LATE)
    assert output == "connected\n", errors
    wait_until(lambda: door.came == before + 1)
    process = connect(daemon, door)
    (ask,) = asks(daemon)
    assert daemon.rictl("deny", ask["id"]).returncode == 0
    output, errors = process.communicate(timeout=LATE)
    assert output == "Operation not permitted\n", errors
    assert "denied by user:root" in errors
    assert door.came == before + 1


def test_a_file_waits(daemon: Daemon, user: User) -> None:
    process = start(daemon, "/usr/bin/cat", f"{user.home}/secret.txt")
    (ask,) = asks(daemon)
    assert (ask["verb"], ask["object"]) == ("file.open", f"{user.home}/secret.txt")
    assert ask["why"] == "it is secret"
    assert daemon.rictl("approve", ask["id"]).returncode == 0
    assert process.communicate(timeout=LATE)[0] == "42\n"
    process = start(daemon, "/usr/bin/cat", f"{user.home}/secret.txt")
    (ask,) = asks(daemon)
    assert daemon.rictl("deny", ask["id"]).returncode == 0
    output, errors = process.communicate(timeout=LATE)
    assert (output, process.returncode) == ("", 1), errors
    assert "not permitted" in errors


def test_an_approval_of_one_kind_is_none_of_another(daemon: Daemon, door: Door, user: User) -> None:
    script = f"id; cat {user.home}/secret.txt; python3 -I -c '{CONNECT}' {door.port}"
    process = start(daemon, "/usr/bin/bash", "-c", script)
    seen = []
    for _ in range(3):
        (ask,) = asks(daemon)
        seen.append(ask["verb"])
        assert daemon.rictl("approve", ask["id"], "--session").returncode == 0
        wait_until(lambda ask=ask: _gone(daemon, ask["id"]), LATE)  # type: ignore[misc]
    assert seen == ["proc.exec", "file.open", "net.connect"]
    output, errors = process.communicate(timeout=LATE)
    assert output.endswith("42\nconnected\n"), errors


def _gone(daemon: Daemon, identity: str) -> bool:
    return all(each["id"] != identity for each in daemon.request("GET", "/v1/asks")[1]["asks"])


def kill(daemon: Daemon, victim: str) -> None:
    """kill -9, and wait until the next one is there."""
    if victim == "worker":
        daemon.restart_worker()
        return
    dead = gate_pid(daemon)
    os.kill(dead, signal.SIGKILL)
    wait_until(lambda: _other_gate(daemon, dead), LATE)


@pytest.mark.parametrize("victim", ["gate", "worker"])
def test_what_is_held_stays_held_and_stands_under_its_id(
    daemon: Daemon, door: Door, user: User, victim: str
) -> None:
    before = door.came
    held = [start(daemon, "/usr/bin/bash", "-c", "id -u"), connect(daemon, door)]
    known = {each["id"]: each["verb"] for each in asks(daemon, 2)}
    assert sorted(known.values()) == ["net.connect", "proc.exec"]
    for _ in range(3):
        kill(daemon, victim)
        assert {each["id"]: each["verb"] for each in asks(daemon, 2)} == known
        assert door.came == before
        assert [each.poll() for each in held] == [None] * 2
    for identity in known:
        assert daemon.rictl("approve", identity).returncode == 0
    outputs = [each.communicate(timeout=LATE) for each in held]
    assert [output for output, _errors in outputs] == [f"{user.uid}\n", "connected\n"]


@pytest.mark.parametrize("victim", ["gate", "worker"])
def test_a_file_that_waits_is_asked_about_again(daemon: Daemon, user: User, victim: str) -> None:
    process = start(daemon, "/usr/bin/cat", f"{user.home}/secret.txt")
    (ask,) = asks(daemon)
    for _ in range(3):
        kill(daemon, victim)
        (again,) = asks(daemon)
        assert again["id"] == ask["id"]
        assert process.poll() is None
    assert daemon.rictl("approve", ask["id"]).returncode == 0
    output, errors = process.communicate(timeout=LATE)
    assert output == "42\n", errors


def _other_gate(daemon: Daemon, dead: int) -> bool:
    with contextlib.suppress(AssertionError, OSError):
        return gate_pid(daemon) != dead
    return False


def test_hundreds_at_once(daemon: Daemon) -> None:
    process = start(
        daemon, "/usr/bin/bash", "-c", "for each in {1..300}; do id -u $each & done; wait"
    )
    found = asks(daemon, 300)
    assert len({each["id"] for each in found}) == 300
    done = daemon.rictl("deny", *[each["id"] for each in found], "--why", "too many")
    assert done.returncode == 0, done.stderr
    asks(daemon, 0)
    output, _errors = process.communicate(timeout=LATE)
    assert output == ""

# SPDX-License-Identifier: Apache-2.0
"""The state folder on a file system that is full: loud, nothing widens, nothing is lost."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, User, wait_until

REQUIRED = "include: [base]\naudit: {required: true}\n"


class FullDisk:
    """A daemon whose state lies on a small tmpfs, and what fills that."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        daemon.state.mkdir(mode=0o700)
        options = ["-o", "size=4m,mode=0700"]
        subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(daemon.state)], check=True)
        self.filler = daemon.state / "filler"

    def fill(self) -> None:
        """Leave not one page."""
        with self.filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self.filler.unlink()

    def failing(self) -> bool:
        return bool(self.daemon.status()["audit"]["state"] == "failing")

    def provoke(self) -> None:
        """Have sessions recorded until the log cannot take more."""
        deadline = time.monotonic() + 30
        while not self.failing():
            assert time.monotonic() < deadline
            self.fill()
            self.daemon.exec("base", ["/bin/cat", "/etc/shadow"])

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.daemon.state)], check=True)


@pytest.fixture
def disk(make_daemon: Callable[..., Daemon]) -> Iterator[FullDisk]:
    made = FullDisk(make_daemon())
    try:
        made.daemon.start()
        yield made
    finally:
        made.unmount()


def test_a_full_disk_is_loud_and_loses_nothing(disk: FullDisk) -> None:
    daemon = disk.daemon
    disk.provoke()
    status = daemon.status()
    assert "disk" in status["audit"]["problem"] or "full" in status["audit"]["problem"]
    assert status["audit"]["waiting"] > 0
    report = daemon.doctor()
    assert any("the audit log cannot be written" in each for each in report["problems"])
    (control,) = [each for each in report["controls"] if each["name"] == "audit log"]
    assert not control["active"]
    assert "ri_audit_ok 0" in daemon.request("GET", "/v1/metrics")[1]
    assert daemon.log_text().count("the audit log cannot be written") == 1
    # What is stored is answered, and denials are enforced as ever.
    stored = len(daemon.records(limit=10_000))
    result = daemon.exec("base", ["/bin/cat", "/etc/shadow"], "--agent", "demo/while-full")
    assert (result.returncode, "Permission denied" in result.stderr) in ((1, True), (125, False))
    assert len(daemon.records(limit=10_000)) == stored
    disk.free()
    wait_until(lambda: not disk.failing())
    wait_until(lambda: daemon.status()["audit"]["waiting"] == 0)
    assert daemon.status()["lost"] == 0
    assert daemon.doctor()["problems"] == []
    (gap,) = daemon.records(verb="daemon.gap")
    details = daemon.details(gap["id"])
    assert details["lost"] == 0
    assert details["from"] < details["to"]
    assert daemon.request("GET", "/v1/log/verify")[1]["ok"]
    # Each session that started is told to its end.
    launches = daemon.records(verb="session.launch", verdict="allow", limit=10_000)
    ends = {each["session"] for each in daemon.records(verb="session.end", limit=10_000)}
    assert {each["session"] for each in launches} <= ends
    assert "the audit log is written again" in daemon.log_text()


class TestRequired:
    """Sessions whose profile says `audit: required`."""

    def test_they_are_frozen_until_records_are_written(self, disk: FullDisk, user: User) -> None:
        daemon = disk.daemon
        file = user.home / f"ticks-{time.monotonic_ns()}"
        text = REQUIRED + f"files: {{read: [{user.home}/**], write: [{user.home}/**]}}\n"
        script = f"while :; do echo x >> {file}; sleep 0.02; done"
        process = daemon.spawn(daemon.profile("required", text), ["/bin/sh", "-c", script])
        session = daemon.launched(process)["id"]
        other = daemon.spawn("base", ["/bin/sleep", "600"])
        plain = daemon.launched(other)["id"]
        wait_until(lambda: file.exists() and file.stat().st_size > 4)
        disk.provoke()
        wait_until(lambda: state(daemon, session) == ("frozen", "audit"))
        assert state(daemon, plain) == ("running", None)
        size = file.stat().st_size
        time.sleep(0.3)
        assert file.stat().st_size == size
        # No word of a person's lets it run unrecorded.
        assert daemon.request("POST", f"/v1/sessions/{session}/thaw")[0] == 409
        assert daemon.request("POST", f"/v1/sessions/{session}/freeze")[0] == 200
        assert state(daemon, session) == ("frozen", "person")
        assert daemon.request("POST", f"/v1/sessions/{session}/thaw")[0] == 200
        assert state(daemon, session) == ("frozen", "audit")
        disk.free()
        wait_until(lambda: state(daemon, session) == ("running", None))
        wait_until(lambda: file.stat().st_size > size)
        for each in (process, other):
            each.kill()
            each.communicate(timeout=30)

    def test_none_starts_meanwhile(self, disk: FullDisk) -> None:
        daemon = disk.daemon
        name = daemon.profile("required", REQUIRED)
        disk.provoke()
        result = daemon.exec(name, ["/bin/true"])
        assert result.returncode == 125
        disk.free()
        wait_until(lambda: not disk.failing())
        assert daemon.exec(name, ["/bin/true"]).returncode == 0

    def test_they_can_be_killed_while_frozen(self, disk: FullDisk) -> None:
        daemon = disk.daemon
        process = daemon.spawn(daemon.profile("required", REQUIRED), ["/bin/sleep", "600"])
        session = daemon.launched(process)["id"]
        disk.provoke()
        wait_until(lambda: state(daemon, session) == ("frozen", "audit"))
        assert daemon.request("POST", f"/v1/sessions/{session}/kill")[0] == 200
        process.communicate(timeout=30)
        assert not daemon.cgroup(session).exists()
        disk.free()
        wait_until(lambda: not disk.failing())
        (end,) = daemon.records(session=session, verb="session.end")
        assert end["object"].startswith("killed by")


def state(daemon: Daemon, session: str) -> tuple[str, str | None]:
    (found,) = [each for each in daemon.sessions() if each["id"] == session]
    return found["state"], found["hold"]


def test_a_worker_that_is_killed_while_the_disk_is_full_comes_back(disk: FullDisk) -> None:
    daemon = disk.daemon
    process = daemon.spawn("base", ["/bin/sleep", "600"])
    session = daemon.launched(process)["id"]
    disk.provoke()
    daemon.restart_worker()
    assert state(daemon, session) == ("running", None)
    disk.free()
    wait_until(lambda: not disk.failing())
    assert daemon.request("GET", "/v1/log/verify")[1]["ok"]
    assert daemon.request("POST", f"/v1/sessions/{session}/kill")[0] == 200
    process.communicate(timeout=30)


def test_nothing_is_left_of_a_session_that_cannot_be_saved(disk: FullDisk) -> None:
    daemon = disk.daemon
    disk.provoke()
    for _ in range(20):
        daemon.exec("base", ["/bin/true"])
    daemon.settled()
    root: Path = daemon.cgroup("x").parent
    assert [each for each in root.iterdir() if each.is_dir()] == []

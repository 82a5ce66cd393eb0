# SPDX-License-Identifier: Apache-2.0
"""rictl and a real daemon: what is printed is what happened, and what is asked for is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT
from tests.support.daemon import Daemon, User, wait_until

FILES = 'include: [base]\nfiles:\n  read: ["{workspace}/**"]\n  write: ["{workspace}/**"]\n'
KEYS = ["id", "time", "session", "agent", "chain", "pid", "exe", "verb", "object", "verdict"]
KEYS += ["reason", "rule", "mechanism", "count"]


@pytest.fixture(scope="module")
def denied(daemon: Daemon, user: User) -> dict[str, Any]:
    """The record of an open that was refused."""
    daemon.profile("files", FILES)
    secret = user.home / "secret"
    secret.write_text("key")
    secret.chmod(0o644)
    workspace = user.home / "work"
    workspace.mkdir()
    os.chown(workspace, user.uid, user.gid)
    done = daemon.exec("files", ["/bin/cat", secret], "--workspace", str(workspace))
    assert done.returncode == 1, done.stderr
    found: list[dict[str, Any]] = []

    def recorded() -> bool:
        found[:] = [
            record for record in daemon.records(verdict="deny") if record["object"] == str(secret)
        ]
        return bool(found)

    wait_until(recorded)
    return found[0]


@pytest.fixture
def running(daemon: Daemon, denied: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A session that sleeps."""
    process = daemon.spawn("files", ["/bin/sleep", "600"], "--purpose", "a nap")
    try:
        wait_until(lambda: any(each["state"] == "running" for each in daemon.sessions()))
        yield daemon.sessions()[0]
    finally:
        process.kill()
        process.communicate()
        daemon.settled()


def test_ps(daemon: Daemon, running: dict[str, Any], user: User) -> None:
    row = daemon.rictl("ps").stdout.splitlines()[1]
    for part in (running["id"], f"user:{user.name} > files", "running", str(running["pid"])):
        assert part in row
    answer = json.loads(daemon.rictl("ps", "--json").stdout)
    assert [each["id"] for each in answer["sessions"]] == [running["id"]]
    assert answer["sessions"][0]["purpose"] == "a nap"


def test_ps_all_has_the_sessions_that_ended(daemon: Daemon, denied: dict[str, Any]) -> None:
    daemon.settled()
    assert denied["session"] in daemon.rictl("ps", "--all").stdout
    assert denied["session"] not in daemon.rictl("ps").stdout


def test_log_has_the_denial(daemon: Daemon, denied: dict[str, Any]) -> None:
    done = daemon.rictl("log", "--verdict", "deny", "--verb", "file.open", "--since", "10m")
    assert done.returncode == 0
    assert denied["object"] in done.stdout
    lines = daemon.rictl("log", "--json", "--session", denied["session"]).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert all(list(record) == KEYS for record in records)
    assert denied in records
    verbs = [record["verb"] for record in records]
    assert "session.launch" in verbs
    assert verbs[-1] == "session.end"
    assert [record["id"] for record in records] == sorted(record["id"] for record in records)


def test_log_filters(daemon: Daemon, denied: dict[str, Any]) -> None:
    def ids(*options: str) -> set[int]:
        done = daemon.rictl("log", "--json", *options)
        assert done.returncode == 0, done.stderr
        return {json.loads(line)["id"] for line in done.stdout.splitlines()}

    everything = ids()
    assert denied["id"] in everything
    assert ids("--agent", "*/files") < everything
    assert denied["id"] in ids("--agent", "*/files")
    assert denied["id"] not in ids("--agent", "*/nobody")
    assert denied["id"] not in ids("--verdict", "allow")
    assert denied["id"] in ids("--since", "today")
    assert denied["id"] not in ids("--since", "2099-01-01")
    assert ids("--limit", "1") == {max(everything)}
    done = daemon.rictl("log", "--session", "00000000")
    assert (done.returncode, done.stdout) == (1, "")


def test_log_follow_prints_what_comes_and_survives_the_worker(
    daemon: Daemon, denied: dict[str, Any], user: User
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "monitor.cli.rictl", *("log", "-f", "--json", "--limit", "0")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"RI_SOCKET": str(daemon.socket), "PATH": os.environ["PATH"]},
    )
    assert process.stdout is not None

    def until_end() -> list[str]:
        verbs = []
        for line in process.stdout or ():
            verbs.append(json.loads(line)["verb"])
            if verbs[-1] == "session.end":
                return verbs
        return verbs

    try:
        time.sleep(0.5)
        daemon.exec("files", ["/bin/true"])
        assert "session.launch" in until_end()
        daemon.kill_worker()
        wait_until(lambda: daemon.request("GET", "/v1/status")[0] == 200)
        daemon.exec("files", ["/bin/true"])
        assert "session.launch" in until_end()
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (-signal.SIGINT, "")


def test_log_verify(make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    daemon.start()
    done = daemon.rictl("log", "verify")
    assert done.returncode == 0
    assert "the log is whole" in done.stdout
    daemon.stop()


def test_explain(daemon: Daemon, denied: dict[str, Any]) -> None:
    done = daemon.rictl("explain", str(denied["id"]))
    assert done.returncode == 0
    for part in (denied["object"], "files", "landlock"):
        assert part in done.stdout.lower()
    answer = json.loads(daemon.rictl("explain", str(denied["id"]), "--json").stdout)
    assert {name: answer["record"][name] for name in KEYS} == denied
    assert daemon.rictl("explain", "999999999").returncode == 1


def test_freeze_thaw_kill(daemon: Daemon, running: dict[str, Any]) -> None:
    short = running["id"][-8:]
    done = daemon.rictl("freeze", short, "--why", "let me look")
    assert done.returncode == 0, done.stderr
    assert f"session {running['id']} is frozen" in done.stdout
    state = Path(f"/proc/{running['pid']}/wchan")
    assert state.exists()  # it is still there
    assert daemon.sessions()[0]["state"] == "frozen"
    again = daemon.rictl("freeze", short)
    assert again.returncode == 1
    assert "is frozen" in again.stderr
    assert daemon.rictl("thaw", short).returncode == 0
    assert daemon.sessions()[0]["state"] == "running"
    done = daemon.rictl("kill", short, "--why", "enough")
    assert done.returncode == 0
    wait_until(lambda: not Path(f"/proc/{running['pid']}").exists())
    assert daemon.rictl("thaw", short).returncode == 1
    whys = daemon.rictl("log", "--session", running["id"]).stdout
    assert "let me look" in whys
    assert "enough" in whys


def test_others_do_not_see_what_is_not_theirs(
    daemon: Daemon, running: dict[str, Any], user: User, stranger: User
) -> None:
    assert running["id"] in daemon.rictl_as(user, "ps").stdout
    assert running["id"] not in daemon.rictl_as(stranger, "ps").stdout
    assert daemon.rictl_as(stranger, "kill", running["id"]).returncode == 1
    assert daemon.rictl_as(stranger, "log").stdout == ""
    assert daemon.rictl_as(stranger, "log", "verify").returncode == 1
    assert daemon.rictl_as(user, "kill", running["id"]).returncode == 0


def test_doctor(daemon: Daemon) -> None:
    done = daemon.rictl("doctor")
    answer = json.loads(daemon.rictl("doctor", "--json").stdout)
    assert done.returncode == int(bool(answer["problems"]))
    for control in answer["controls"]:
        assert control["name"] in done.stdout


def test_without_a_daemon(make_daemon: Callable[..., Daemon]) -> None:
    done = make_daemon().rictl("ps")
    assert done.returncode == 3
    assert "cannot reach the daemon" in done.stderr

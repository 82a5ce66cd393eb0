# SPDX-License-Identifier: Apache-2.0
"""Sessions of a real daemon: what is made for one, how it is stopped, and that nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monitor.daemon.creation import DEFAULT_PROCESSES
from monitor.daemon.probes.tables import KernelTables
from monitor.kernel.cgroup import legacy_mount, unified_mount
from monitor.policy.plan import Policy
from tests.support.daemon import Daemon, User, wait_until

COUNT = "while :; do echo x >> {file}; sleep 0.02; done"


def rows(daemon: Daemon) -> set[int]:
    """Cgroup ids that have a row in the kernel."""
    tables = KernelTables(daemon.instance)
    tables.open()
    try:
        return tables.sessions()
    finally:
        tables.close()


def ended(daemon: Daemon, session: str) -> dict[str, Any]:
    """The session.end record of a session, with its details."""
    found = daemon.records(session=session, verb="session.end")
    assert len(found) == 1, found
    return found[0] | {"details": daemon.details(found[0]["id"])}


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit status, standard error)"""
    _output, errors = process.communicate(timeout=30)
    return process.returncode, errors


def dead(pid: int) -> bool:
    """Whether a process has ended; its parent may not have waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture
def writable(daemon: Daemon, user: User) -> tuple[str, Path]:
    """A profile that may write one folder, and a file in it."""
    folder = user.home / f"work-{time.monotonic_ns()}"
    folder.mkdir()
    os.chown(folder, user.uid, user.gid)
    name = daemon.profile(
        f"writes-{time.monotonic_ns()}",
        f"include: [base]\nfiles:\n  read: [{folder}/**]\n  write: [{folder}/**]\n",
    )
    return name, folder / "file"


def test_a_session_is_shown_while_it_runs_and_recorded_when_it_ended(
    daemon: Daemon, user: User
) -> None:
    options = ("--agent", "demo/sleeper", "--ttl", "10m", "--purpose", "to sleep")
    process = daemon.spawn("base", ["/bin/sleep", "60"], *options)
    session = daemon.launched(process)
    assert (
        session
        | {
            "agent": "spiffe://test.example/agent/demo/sleeper",
            "chain": [f"user:{user.name}", "spiffe://test.example/agent/demo/sleeper"],
            "user": user.name,
            "profile": "base",
            "state": "running",
            "hold": None,
            "why": "",
            "purpose": "to sleep",
            "observe": False,
        }
        == session
    )
    assert session["expires"] - session["created"] == pytest.approx(600, abs=1)
    assert session["counts"]["allow"] > 0
    cgroup = daemon.cgroup(session["id"])
    assert session["pid"] in map(int, (cgroup / "cgroup.procs").read_text().split())
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 128 + signal.SIGTERM
    daemon.settled()
    assert not cgroup.exists()
    end = ended(daemon, session["id"])
    assert [step["name"] for step in end["details"]["steps"]] == [
        "deny", "freeze", "cut", "kill", "cut", "records", "rules", "packets", "cgroup",
    ]  # fmt: skip
    assert all(step["milliseconds"] >= 0 for step in end["details"]["steps"])
    assert end["details"]["lost"] == 0
    (shown,) = [each for each in daemon.sessions(True) if each["id"] == session["id"]]
    assert shown["state"] == "ended"
    stored = daemon.records(session=session["id"], limit=10_000)
    allowed = sum(each["count"] for each in stored if each["verdict"] == "allow")
    # All but the record of the end itself, in which the figure stands.
    assert shown["counts"]["allow"] == allowed - 1 == end["details"]["counts"]["allow"]
    assert stored[0]["verb"] == "session.launch"
    assert stored[-1]["verb"] == "session.end"


def test_what_the_command_left_behind_ends_with_it(daemon: Daemon, writable: Any) -> None:
    profile, file = writable
    script = f"setsid sh -c '{COUNT.format(file=file)}' > /dev/null 2>&1 & sleep 0.3"
    assert daemon.exec(profile, ["/bin/sh", "-c", script]).returncode == 0
    daemon.settled()
    size = file.stat().st_size
    assert size > 0
    time.sleep(0.2)
    assert file.stat().st_size == size


def test_a_killed_launcher_ends_its_session(daemon: Daemon) -> None:
    process = daemon.spawn("base", ["/bin/sleep", "60"])
    session = daemon.launched(process)
    process.kill()
    finish(process)
    daemon.settled()
    assert not daemon.cgroup(session["id"]).exists()
    assert dead(session["pid"])
    assert ended(daemon, session["id"])["object"] == "its launcher ended"


def test_nothing_of_a_session_stays_on_the_host(daemon: Daemon) -> None:
    name = daemon.profile(
        "limited",
        "include: [base]\nlimits: {processes: 32, memory: 256M}\n"
        "network: {connect: ['127.0.0.1:9']}\n",
    )
    process = daemon.spawn(name, ["/bin/sleep", "60"])
    session = daemon.launched(process)
    twins = [
        mount / daemon.instance / session["id"]
        for mount in (unified_mount(), legacy_mount("pids"), legacy_mount("memory"))
        if mount is not None
    ]
    assert all(twin.is_dir() for twin in twins)
    assert rows(daemon) == {daemon.cgroup(session["id"]).stat().st_ino}
    process.kill()
    finish(process)
    daemon.settled()
    assert rows(daemon) == set()
    assert not any(twin.exists() for twin in twins)


def test_freeze_and_thaw(daemon: Daemon, writable: Any) -> None:
    profile, file = writable
    process = daemon.spawn(profile, ["/bin/sh", "-c", COUNT.format(file=file)])
    session = daemon.launched(process)
    wait_until(lambda: file.exists() and file.stat().st_size > 4)
    path = f"/v1/sessions/{session['id']}"
    status, body = daemon.request("POST", f"{path}/freeze", {"why": "to look"})
    assert status == 200, body
    assert (
        body["session"] | {"state": "frozen", "hold": "person", "why": "to look"}
        == (body["session"])
    )
    assert [step["name"] for step in body["steps"]] == ["freeze"]
    size = file.stat().st_size
    time.sleep(0.2)
    assert file.stat().st_size == size
    assert daemon.request("POST", f"{path}/freeze")[0] == 409
    status, body = daemon.request("POST", f"{path}/thaw")
    assert (status, body["session"]["state"]) == (200, "running")
    wait_until(lambda: file.stat().st_size > size)
    assert daemon.request("POST", f"{path}/thaw")[0] == 409
    states = daemon.records(session=session["id"], verb="session.state")
    assert [each["object"] for each in states] == ["frozen", "thawed"]
    assert daemon.details(states[0]["id"])["by"] == "user:root"
    process.kill()
    finish(process)


def test_a_frozen_session_can_be_killed(daemon: Daemon) -> None:
    process = daemon.spawn("base", ["/bin/sleep", "60"])
    session = daemon.launched(process)
    path = f"/v1/sessions/{session['id']}"
    assert daemon.request("POST", f"{path}/freeze")[0] == 200
    status, body = daemon.request("POST", f"{path}/kill", {"why": "enough"})
    assert status == 200
    assert body["session"]["state"] == "ended"
    assert body["session"]["why"] == "killed by user:root: enough"
    assert {"deny", "freeze", "cut", "kill", "rules"} <= {step["name"] for step in body["steps"]}
    code, errors = finish(process)
    assert code == 128 + signal.SIGKILL
    assert "killed by user:root: enough" in errors
    assert daemon.request("POST", f"{path}/kill")[0] == 409
    (state,) = daemon.records(session=session["id"], verb="session.state", verdict="kill")
    assert state["object"] == "killed"


def test_a_session_ends_when_its_time_is_over(daemon: Daemon) -> None:
    began = time.monotonic()
    process = daemon.spawn("base", ["/bin/sleep", "60"], "--ttl", "1s")
    code, errors = finish(process)
    assert code == 128 + signal.SIGKILL
    assert 0.9 < time.monotonic() - began < 10
    assert "expired" in errors
    daemon.settled()
    (session,) = [each for each in daemon.sessions(True) if each["why"] == "expired"]
    states = daemon.records(session=session["id"], verb="session.state")
    assert [each["object"] for each in states] == ["expired"]


def test_the_shortest_ttl_holds(daemon: Daemon) -> None:
    name = daemon.profile("an-hour", "include: [base]\nlimits: {ttl: 1h}\n")
    for option, seconds in (("30m", 1800), ("2h", 3600)):
        process = daemon.spawn(name, ["/bin/sleep", "60"], "--ttl", option)
        session = daemon.launched(process)
        assert session["expires"] - session["created"] == pytest.approx(seconds, abs=1)
        process.kill()
        finish(process)


def test_processes_are_limited_where_no_profile_says_so(daemon: Daemon) -> None:
    process = daemon.spawn("base", ["/bin/sleep", "60"])
    session = daemon.launched(process)
    mount = legacy_mount("pids") or unified_mount()
    limit = mount / daemon.instance / session["id"] / "pids.max"
    assert int(limit.read_text()) == DEFAULT_PROCESSES
    (launch,) = daemon.records(session=session["id"], verb="session.launch")
    assert daemon.details(launch["id"])["limits"]["processes"] == DEFAULT_PROCESSES
    process.kill()
    finish(process)


def test_a_refusal_is_told_to_whoever_runs_the_agent(daemon: Daemon) -> None:
    script = "exec 2>&1; cat /etc/shadow; cat /etc/shadow; sleep 2"
    process = daemon.spawn("base", ["/bin/sh", "-c", script], stdout=subprocess.DEVNULL)
    _code, errors = finish(process)
    told = [line for line in errors.splitlines() if line.startswith("ri-exec: denied")]
    assert len(told) == 1, errors
    assert "file.open /etc/shadow" in told[0]


class TestLimits:
    """How many sessions there may be."""

    def refused(self, daemon: Daemon, user: User | None = None, *options: str) -> str:
        result = daemon.exec("base", ["/bin/true"], *options, user=user)
        assert result.returncode == 125, result
        return result.stderr

    def test_of_one_user(self, make_daemon: Callable[..., Daemon], user: User) -> None:
        daemon = make_daemon(limits={"per_user": 1})
        daemon.start()
        process = daemon.spawn("base", ["/bin/sleep", "60"])
        daemon.launched(process)
        assert "the limit for one user" in self.refused(daemon)
        # Not a matter of the user it runs as: root's are counted for root.
        options = ("--user", user.name)
        root = User("root")
        assert daemon.exec("base", ["/bin/true"], *options, user=root).returncode == 0
        process.kill()
        finish(process)
        daemon.settled()
        assert daemon.exec("base", ["/bin/true"]).returncode == 0

    def test_of_the_host(self, make_daemon: Callable[..., Daemon]) -> None:
        daemon = make_daemon(limits={"sessions": 2})
        daemon.start()
        processes = [daemon.spawn("base", ["/bin/sleep", "60"]) for _ in range(2)]
        for process in processes:
            daemon.launched(process)
        assert "this host's limit" in self.refused(daemon)
        for process in processes:
            process.kill()
            finish(process)


def test_full_tables_refuse_a_session_and_nothing_of_it_stays(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon()
    daemon.start()
    # By then it has cleared away the rows that no session has.
    assert daemon.exec("base", ["/bin/true"]).returncode == 0
    daemon.settled()
    nothing = Policy("filler", "", (), (), (), (), (), (), ())
    tables = KernelTables(daemon.instance)
    tables.open()
    fillers = []
    with pytest.raises(OSError, match="sessions"):
        # Ids of cgroups that are not there.
        for number in range(1 << 40, (1 << 40) + 100_000):
            tables.install(number, [(4_000_000, nothing)])
            fillers.append(number)
    result = daemon.exec("base", ["/bin/true"])
    assert result.returncode == 125
    assert "cannot be put in force" in result.stderr
    assert not [each for each in daemon.cgroup("x").parent.iterdir() if each.is_dir()]
    assert tables.sessions() == set(fillers)
    assert len(daemon.sessions(True)) == 1
    tables.remove(fillers[0])
    assert daemon.exec("base", ["/bin/true"]).returncode == 0
    tables.close()


class TestOfASession:
    """What a process inside a session may do to the daemon: nothing, not even when observed."""

    def test_it_gets_no_session_beside_its_own(self, daemon: Daemon) -> None:
        # The profile keeps no such variable.
        command = ["/usr/bin/env", f"RI_SOCKET={daemon.socket}"]
        command += daemon.exec_command("base", ["/bin/true"])
        result = daemon.exec("base", command, observe=True)
        assert result.returncode == 125
        assert "a process of this session cannot start another session" in result.stderr

    def test_it_may_not_use_the_api(self, daemon: Daemon) -> None:
        script = (
            f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{daemon.socket}');"
            "s.sendall(b'GET /v1/sessions HTTP/1.1\\r\\nHost: ri\\r\\n\\r\\n');"
            "print(s.recv(20).decode().split()[1])"
        )
        command = ["/usr/bin/python3", "-I", "-c", script]
        assert daemon.exec("base", command, observe=True).stdout == "403\n"


def test_an_orderly_stop_ends_every_session_with_a_record(
    make_daemon: Callable[..., Daemon],
) -> None:
    daemon = make_daemon()
    daemon.start()
    processes = [daemon.spawn("base", ["/bin/sleep", "60"]) for _ in range(3)]
    sessions = [daemon.launched(process)["id"] for process in processes]
    assert daemon.stop() == 0
    for process in processes:
        code, errors = finish(process)
        assert code == 128 + signal.SIGKILL
        assert "the daemon was stopped" in errors
    assert not any(daemon.cgroup(session).exists() for session in sessions)
    daemon.start()
    for session in sessions:
        assert ended(daemon, session)["object"] == "the daemon was stopped"
    # Nothing ran meanwhile, so there is no gap.
    assert daemon.records(verb="daemon.gap") == []

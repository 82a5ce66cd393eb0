# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the worker: nothing widens, sessions are found again, leftovers go, gaps are told."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from monitor.daemon.probes.tables import KernelTables
from monitor.kernel.cgroup import unified_mount
from monitor.policy.plan import Policy
from tests.support.daemon import Daemon, User, wait_until

# Every 20 ms: reads a denied file, connects to the denied port and to the allowed one, and says
# what each came to.
AGENT = """
import socket, sys, time
def attempt(action):
    try:
        action()
        return "allowed"
    except OSError as error:
        return str(error.errno)
def connect(port):
    with socket.create_connection(("127.0.0.1", port), 5):
        pass
while True:
    outcome = [attempt(lambda: open("/etc/shadow").close())]
    outcome += [attempt(lambda: connect(int(port))) for port in sys.argv[2:]]
    with open(sys.argv[1], "a") as file:
        print(*outcome, file=file)
    time.sleep(0.02)
"""
CONFINED = "13 1 allowed"  # EACCES, EPERM


@pytest.fixture
def daemon(user: User) -> Iterator[Daemon]:
    made = Daemon(user)
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Two ports of this host that somebody listens on."""
    made = [socket.create_server(("127.0.0.1", 0), backlog=4096) for _ in range(2)]
    yield made[0].getsockname()[1], made[1].getsockname()[1]
    for each in made:
        each.close()


class Agent:
    """An agent that tries what it may not, all the time."""

    def __init__(self, daemon: Daemon, user: User, denied: int, allowed: int) -> None:
        self.folder = user.home / f"agent-{time.monotonic_ns()}"
        self.folder.mkdir()
        os.chown(self.folder, user.uid, user.gid)
        self.file = self.folder / "outcomes"
        name = daemon.profile(
            "agent",
            f"include: [base]\nfiles:\n  read: [{self.folder}/**]\n  write: [{self.folder}/**]\n"
            f"network:\n  connect: ['127.0.0.1:{allowed}']\n",
        )
        command = ["/usr/bin/python3", "-I", "-c", AGENT, self.file, denied, allowed]
        self.process = daemon.spawn(name, [str(each) for each in command])
        self.session = daemon.launched(self.process)
        wait_until(lambda: len(self.outcomes()) > 2)

    def outcomes(self) -> list[str]:
        text = self.file.read_text() if self.file.exists() else ""
        return [line for line in text.split("\n")[:-1] if line]

    def goes_on(self) -> None:
        """Wait until it has tried again."""
        before = len(self.outcomes())
        wait_until(lambda: len(self.outcomes()) > before + 3)

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


@pytest.fixture
def agent(daemon: Daemon, user: User, ports: tuple[int, int]) -> Iterator[Agent]:
    made = Agent(daemon, user, *ports)
    yield made
    made.stop()


def test_a_running_session_is_found_again(daemon: Daemon, agent: Agent) -> None:
    before = {name: agent.session[name] for name in ("id", "pid", "created", "chain", "state")}
    daemon.restart_worker()
    (session,) = daemon.sessions()
    assert {name: session[name] for name in before} == before
    wait_until(lambda: daemon.sessions()[0]["counts"]["deny"] > 2)
    known = daemon.sessions()[0]["counts"]["deny"]
    agent.goes_on()
    wait_until(lambda: daemon.sessions()[0]["counts"]["deny"] > known)
    status, body = daemon.request("POST", f"/v1/sessions/{session['id']}/kill")
    assert (status, body["session"]["state"]) == (200, "ended")
    assert agent.process.wait(30) == 128 + signal.SIGKILL
    assert set(agent.outcomes()) == {CONFINED}


def test_the_end_of_a_launcher_is_noticed_by_the_next_worker(daemon: Daemon, agent: Agent) -> None:
    daemon.restart_worker()
    agent.stop()
    daemon.settled()
    (end,) = daemon.records(session=agent.session["id"], verb="session.end")
    assert end["object"] == "its launcher ended"


def test_everything_goes_on_being_denied_while_no_worker_lives(
    daemon: Daemon, agent: Agent
) -> None:
    with daemon.without_worker() as dead:
        assert not Path(f"/proc/{dead}/cmdline").read_bytes()
        began = time.time()
        agent.goes_on()
        time.sleep(1.0)
        agent.goes_on()
        ended = time.time()
    assert set(agent.outcomes()) == {CONFINED}
    # What happened meanwhile was kept in the ring, and is told now.
    wait_until(lambda: bool(meanwhile(daemon, agent, began, ended)))
    objects = {each["object"] for each in meanwhile(daemon, agent, began, ended)}
    assert "/etc/shadow" in objects
    assert any(each.startswith("127.0.0.1:") for each in objects)
    (gap,) = daemon.records(verb="daemon.gap")
    details = daemon.details(gap["id"])
    assert details["from"] <= began
    assert details["to"] >= ended
    assert daemon.records(verb="daemon.start")[-1]["id"] > gap["id"]
    assert daemon.request("GET", "/v1/log/verify")[1]["ok"]


def meanwhile(daemon: Daemon, agent: Agent, began: float, ended: float) -> list[dict[str, Any]]:
    found = daemon.records(session=agent.session["id"], verdict="deny", limit=10_000)
    times = [datetime.fromisoformat(each["time"]).timestamp() for each in found]
    return [each for each, at in zip(found, times, strict=True) if began < at < ended]


def test_a_launcher_that_ended_meanwhile_leaves_nothing(daemon: Daemon, agent: Agent) -> None:
    with daemon.without_worker():
        agent.process.kill()
        agent.process.wait(30)
        # Nobody is there to end it; what it may do is still what it might.
        agent.goes_on()
        assert set(agent.outcomes()) == {CONFINED}
    daemon.settled()
    assert not daemon.cgroup(agent.session["id"]).exists()
    size = len(agent.outcomes())
    time.sleep(0.2)
    assert len(agent.outcomes()) == size


def test_a_frozen_session_stays_frozen(daemon: Daemon, agent: Agent) -> None:
    path = f"/v1/sessions/{agent.session['id']}"
    assert daemon.request("POST", f"{path}/freeze", {"why": "to look"})[0] == 200
    size = len(agent.outcomes())
    daemon.restart_worker()
    (session,) = daemon.sessions()
    assert (session["state"], session["hold"], session["why"]) == ("frozen", "person", "to look")
    assert len(agent.outcomes()) == size
    assert daemon.request("POST", f"{path}/thaw")[0] == 200
    agent.goes_on()


def test_a_session_that_is_found_frozen_is_not_thawed(daemon: Daemon, agent: Agent) -> None:
    with daemon.without_worker():
        (daemon.cgroup(agent.session["id"]) / "cgroup.freeze").write_text("1")
    (session,) = daemon.sessions()
    assert (session["state"], session["hold"]) == ("frozen", "person")


def test_a_session_whose_time_ran_out_meanwhile_is_ended(
    daemon: Daemon, user: User, ports: tuple[int, int]
) -> None:
    name = daemon.profile(
        "short", f"include: [base]\nnetwork: {{connect: ['127.0.0.1:{ports[0]}']}}\n"
    )
    script = (
        "import socket, time\n"
        "while True:\n"
        f"    try: socket.create_connection(('127.0.0.1', {ports[0]}), 5); print('allowed')\n"
        "    except OSError as error: print(error.errno)\n"
        "    time.sleep(0.05)\n"
    )
    command = ["/usr/bin/python3", "-I", "-u", "-c", script]
    process = daemon.spawn(name, command, "--ttl", "3s")
    session = daemon.launched(process)
    with daemon.without_worker():
        time.sleep(max(0.0, session["expires"] - time.time()) + 1)
    output, _errors = process.communicate(timeout=30)
    # The kernel refused by itself, at the moment itself.
    assert output.startswith("allowed\n")
    assert output.endswith("1\n1\n")
    daemon.settled()
    (end,) = daemon.records(session=session["id"], verb="session.end")
    assert end["object"] == "expired"


def test_rows_that_are_missing_are_installed_again(daemon: Daemon, agent: Agent) -> None:
    cgroup = daemon.cgroup(agent.session["id"]).stat().st_ino
    with daemon.without_worker():
        tables = KernelTables(daemon.instance)
        tables.open()
        before = tables.session(cgroup)
        tables.remove(cgroup)
        tables.close()
        # Without a row everything is refused, the allowed port too.
        wait_until(lambda: agent.outcomes()[-1] == "13 1 1")
    wait_until(lambda: agent.outcomes()[-1] == CONFINED)
    tables.open()
    assert tables.session(cgroup) == before
    tables.close()


def test_what_belongs_to_no_session_is_removed(daemon: Daemon) -> None:
    stray = unified_mount() / daemon.instance / "stray"
    nothing = Policy("stray", "", (), (), (), (), (), (), ())
    with daemon.without_worker():
        stray.mkdir()
        with subprocess.Popen(["/bin/sleep", "600"]) as sleeper:
            (stray / "cgroup.procs").write_text(str(sleeper.pid))
            tables = KernelTables(daemon.instance)
            tables.open()
            tables.install(stray.stat().st_ino, [(4_000_000, nothing)])
            daemon_continues(daemon)
            assert sleeper.wait(30) == -signal.SIGKILL
    wait_until(lambda: not stray.exists())
    wait_until(lambda: tables.sessions() == set())
    tables.close()


def daemon_continues(daemon: Daemon) -> None:
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGCONT)


def test_a_launch_in_the_middle_ends(daemon: Daemon, user: User) -> None:
    """The launcher is held before its child is confined; then the worker dies."""
    process = daemon.spawn("base", ["/bin/true"])
    deadline = time.monotonic() + 10
    while not daemon.sessions() and time.monotonic() < deadline and process.poll() is None:
        pass
    process.send_signal(signal.SIGSTOP)
    daemon.restart_worker()
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    daemon.settled()
    assert [each for each in (unified_mount() / daemon.instance).iterdir() if each.is_dir()] == []
    assert daemon.exec("base", ["/bin/true"]).returncode == 0


def test_many_restarts_in_a_row(daemon: Daemon, agent: Agent) -> None:
    for _ in range(5):
        daemon.restart_worker()
    agent.goes_on()
    assert [each["id"] for each in daemon.sessions()] == [agent.session["id"]]
    assert set(agent.outcomes()) == {CONFINED}
    assert daemon.request("GET", "/v1/log/verify")[1]["ok"]
    assert len(daemon.records(verb="daemon.gap")) == 5


def test_a_killed_keeper_takes_the_worker_with_it(daemon: Daemon, agent: Agent) -> None:
    worker = daemon.worker_pid()
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait(10)
    wait_until(
        lambda: (
            not Path(f"/proc/{worker}/cmdline").exists()
            or not (Path(f"/proc/{worker}/cmdline").read_bytes())
        )
    )
    # Nobody watches over it, but it is confined as before.
    agent.goes_on()
    assert set(agent.outcomes()) == {CONFINED}
    daemon.start()
    daemon.settled()
    (end,) = daemon.records(session=agent.session["id"], verb="session.end")
    assert end["object"] == "its launcher is gone"
    assert len(daemon.records(verb="daemon.gap")) == 1

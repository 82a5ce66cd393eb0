# SPDX-License-Identifier: Apache-2.0
"""Sub-agents end, stop and lose their rights with the session that they were started in."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from monitor.kernel.cgroup import Cgroup, legacy_mount, unified_mount
from monitor.session.registry import Registry
from tests.support.daemon import Daemon, User, delegations_for, wait_until

PATIENCE = 30.0  # seconds, on a busy host
# Connects in a loop, and says what that came to when it changes.
TALK = """
import errno, socket, sys, time
said = ""
while True:
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5).close()
        outcome = "ok"
    except OSError as error:
        outcome = errno.errorcode.get(error.errno, str(error))
    if outcome != said:
        said = outcome
        print(outcome, flush=True)
    time.sleep(0.005)
"""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)

    def welcome() -> None:
        with contextlib.suppress(OSError):
            while True:
                listener.accept()[0].close()

    threading.Thread(target=welcome, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)  # the thread waits in it
    listener.close()


def make(user: User, port: int) -> Daemon:
    """A daemon that lets the user have sub-agents, two deep."""
    made = Daemon(user)
    rights = delegations_for(user)
    rights["delegations"][0]["depth"] = 2
    made.write(made.delegations, rights)
    network = f"network: {{connect: ['127.0.0.1:{port}']}}\n"
    made.profile("talks", f"include: [base]\n{network}")
    made.profile("brief", f"include: [base]\n{network}limits: {{ttl: 15s, on_expiry: deny}}\n")
    return made


@pytest.fixture(scope="module")
def daemon(user: User, port: int) -> Iterator[Daemon]:
    made = make(user, port)
    try:
        made.start()
        yield made
    finally:
        made.clean()


class Family:
    """A session that has a sub-agent, and that one another; all three talk."""

    def __init__(self, daemon: Daemon, port: int, *options: str, profile: str = "talks") -> None:
        self.daemon = daemon
        talk = ["/usr/bin/python3", "-I", "-S", "-c", TALK, str(port)]
        third = self.with_child(talk, daemon.exec_command("talks", talk, "--agent", "third"))
        second = daemon.exec_command("talks", third, "--agent", "second")
        command = self.with_child(talk, second)
        self.process = daemon.spawn(profile, command, "--agent", "first", *options)
        wait_until(lambda: len(self.running()) == 3, PATIENCE)
        self.first, self.second, self.third = (self.running()[each] for each in self.names())

    @staticmethod
    def names() -> tuple[str, str, str]:
        return "first", "second", "third"

    @staticmethod
    def with_child(talk: list[str], child: list[str]) -> list[str]:
        """Runs `child` beside `talk`."""
        both = 'shift; python3 -I -S -c "$TALK" "$PORT" & "$@" & wait'
        return ["env", f"TALK={TALK}", f"PORT={talk[-1]}", "sh", "-c", both, "sh", "-", *child]

    def running(self) -> dict[str, dict[str, Any]]:
        return {
            each["agent"].rpartition("/")[2]: each
            for each in self.daemon.sessions()
            if each["state"] == "running"
        }

    def talking(self) -> bool:
        """Whether each of them has connected."""
        return all(
            self.daemon.records(session=each["id"], verb="net.connect")
            for each in (self.first, self.second, self.third)
        )

    def cgroup(self, session: dict[str, Any]) -> Cgroup:
        path = unified_mount() / self.daemon.instance / self.first["id"]
        for each in (self.second, self.third):
            if session["id"] == self.first["id"]:
                break
            path /= each["id"]
            if session["id"] == each["id"]:
                break
        return Cgroup(path)

    def wait(self) -> tuple[int, str]:
        output, errors = self.process.communicate(timeout=30)
        return self.process.returncode, output + errors


def ended(daemon: Daemon) -> dict[str, dict[str, Any]]:
    daemon.settled()
    last = sorted(daemon.sessions(everything=True), key=lambda each: str(each["id"]))
    found = {each["agent"].rpartition("/")[2]: each for each in last}
    return {name: found[name] for name in Family.names()}


def nothing_left(daemon: Daemon) -> None:
    """No cgroup, no twin for limits, and no row of any session."""
    for mount in (unified_mount(), legacy_mount("pids"), legacy_mount("memory")):
        if mount is not None and (mount / daemon.instance).is_dir():
            assert [each for each in (mount / daemon.instance).iterdir() if each.is_dir()] == []


# -- the end ---------------------------------------------------------------------------------------


def test_a_family_lives_in_one_tree(daemon: Daemon, port: int) -> None:
    family = Family(daemon, port)
    for session in (family.first, family.second, family.third):
        cgroup = family.cgroup(session)
        assert session["pid"] in cgroup.processes()
    assert [each["depth"] for each in (family.first, family.second, family.third)] == [2, 1, 0]
    shown = daemon.rictl("ps", "--tree").stdout.splitlines()
    depths = {
        line.split()[0]: len(line) - len(line.lstrip())
        for line in shown
        if line.split()[0] in family.names()
    }
    assert depths == {"first": 2, "second": 6, "third": 10}, shown
    done = daemon.rictl("kill", family.first["id"])
    assert done.returncode == 0, done.stderr
    family.wait()
    why = {name: each["why"] for name, each in ended(daemon).items()}
    assert why["first"].startswith("killed by ")
    assert why["second"] == f"session {family.first['id']}, which it ran in, ended: {why['first']}"
    assert why["third"].startswith(f"session {family.first['id']}, which it ran in, ended")
    nothing_left(daemon)
    for session in (family.second, family.third):
        (record,) = daemon.records(session=session["id"], verb="session.end")
        assert record["chain"] == session["chain"]


def test_a_sub_agent_ends_alone(daemon: Daemon, port: int) -> None:
    family = Family(daemon, port)
    daemon.rictl("kill", family.second["id"])
    wait_until(lambda: set(family.running()) == {"first"}, PATIENCE)
    assert family.process.poll() is None
    family.process.terminate()
    family.wait()
    ended(daemon)
    nothing_left(daemon)


def test_the_end_of_the_command_ends_what_it_left_behind(daemon: Daemon) -> None:
    inner = daemon.exec_command("talks", ["sleep", "60"])
    done = daemon.exec("talks", ["sh", "-c", '"$@" & sleep 1', "sh", *inner])
    assert done.returncode == 0
    daemon.settled()
    nothing_left(daemon)
    assert (
        "which it ran in, ended"
        in max(daemon.sessions(everything=True), key=lambda each: each["id"])["why"]
    )


def test_a_sub_agent_that_leaves_its_launcher_behind_ends(daemon: Daemon) -> None:
    """What it forked off does not live on in the session above."""
    inner = daemon.exec_command("talks", ["sh", "-c", "setsid sleep 987 & exit 3"])
    done = daemon.exec("talks", ["sh", "-c", '"$@"; echo $?; sleep 0.5; ls /proc', "sh", *inner])
    assert done.stdout.split()[0] == "3"
    daemon.settled()
    running = subprocess.run(["pgrep", "-f", "sleep 987"], capture_output=True, text=True)
    assert running.stdout == ""


def test_revoking_takes_the_whole_family(daemon: Daemon, port: int) -> None:
    family = Family(daemon, port)
    done = daemon.rictl("revoke", family.first["id"], "--why", "enough")
    assert done.returncode == 0, done.stderr
    family.wait()
    why = {name: each["why"] for name, each in ended(daemon).items()}
    assert all(each.startswith("revoked by ") for each in why.values()), why
    nothing_left(daemon)


def test_revoking_can_leave_all_running_without_the_network(daemon: Daemon, port: int) -> None:
    family = Family(daemon, port)
    done = daemon.rictl("revoke", family.first["id"], "--then", "deny")
    assert done.returncode == 0, done.stderr
    assert {each["denied"] for each in daemon.sessions()} == {"revoked"}
    assert {each["state"] for each in daemon.sessions()} == {"running"}
    time.sleep(0.5)  # all three try again, and say it
    family.process.terminate()
    _status, output = family.wait()
    assert output.count("EPERM") == 3, output
    ended(daemon)


def test_revoking_an_agent_takes_its_sub_agents(daemon: Daemon, port: int) -> None:
    family = Family(daemon, port)
    done = daemon.rictl("revoke", "second")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: set(family.running()) == {"first"}, PATIENCE)
    family.process.terminate()
    family.wait()
    ended(daemon)


# -- time ------------------------------------------------------------------------------------------


def test_a_sub_agent_never_outlives_the_session_above(daemon: Daemon, port: int) -> None:
    inner = daemon.exec_command("talks", ["sleep", "60"], "--ttl", "1h")
    process = daemon.spawn("talks", inner, "--ttl", "3s")
    wait_until(lambda: len(daemon.sessions()) == 2)
    first, second = sorted(daemon.sessions(), key=lambda each: each["id"])
    assert second["expires"] <= first["expires"]
    process.communicate(timeout=20)
    daemon.settled()
    nothing_left(daemon)


def test_expiry_above_denies_beneath(daemon: Daemon, port: int) -> None:
    """In the kernel: the worker is not there to do it."""
    family = Family(daemon, port, profile="brief")
    wait_until(family.talking, PATIENCE)
    with daemon.without_worker():
        # Long enough for each of the three to try once more on a busy machine.
        time.sleep(max(0.0, family.first["expires"] - time.time()) + 3)
    wait_until(lambda: len(daemon.sessions()) <= 1, 15)
    family.process.terminate()
    _status, output = family.wait()
    assert output.count("EPERM") >= 3, output
    ended(daemon)


def test_a_sub_agent_follows_the_lease_above(daemon: Daemon, port: int) -> None:
    """It lives on while that is renewed, never past it, and ends with it in the kernel."""
    family = Family(daemon, port, "--lease", "3s")
    time.sleep(5)
    running = family.running()
    assert set(running) == set(family.names())
    ends = [running[name]["expires"] for name in family.names()]
    assert ends[2] <= ends[1] <= ends[0] < time.time() + 3.5
    os.kill(family.process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(family.process.pid, signal.SIGCONT)
    family.wait()
    why = {name: each["why"] for name, each in ended(daemon).items()}
    assert "expired" in why["first"], why


# -- freezing --------------------------------------------------------------------------------------


def test_freezing_stops_the_family_and_only_the_outermost_thaws_it(
    daemon: Daemon, port: int
) -> None:
    family = Family(daemon, port)
    assert daemon.rictl("freeze", family.first["id"]).returncode == 0
    for session in (family.first, family.second, family.third):
        assert family.cgroup(session).frozen()
    done = daemon.rictl("thaw", family.second["id"])
    assert done.returncode != 0
    assert daemon.rictl("freeze", family.second["id"]).returncode == 0
    done = daemon.rictl("thaw", family.second["id"])
    assert f"runs in session {family.first['id']}, which is frozen" in done.stderr, done
    assert daemon.rictl("thaw", family.first["id"]).returncode == 0
    assert not family.cgroup(family.first).frozen()
    assert family.cgroup(family.third).frozen()
    assert daemon.rictl("thaw", family.second["id"]).returncode == 0
    wait_until(lambda: not family.cgroup(family.third).frozen())
    # A frozen family ends too.
    daemon.rictl("freeze", family.first["id"])
    assert daemon.rictl("kill", family.first["id"]).returncode == 0
    family.wait()
    ended(daemon)
    nothing_left(daemon)


def test_a_frozen_or_denied_session_starts_no_sub_agent(daemon: Daemon, port: int) -> None:
    inner = daemon.exec_command("talks", ["true"])
    process = daemon.spawn("talks", ["sh", "-c", 'sleep 2; "$@"', "sh", *inner])
    session = daemon.launched(process)
    before = len(daemon.sessions(everything=True))
    assert daemon.rictl("revoke", session["id"], "--then", "deny").returncode == 0
    _output, errors = process.communicate(timeout=20)
    # The gate refuses to start the launcher, or the daemon to give it a session.
    assert process.returncode in (125, 126), errors
    assert len(daemon.sessions(everything=True)) == before


# -- faults ----------------------------------------------------------------------------------------


def test_a_family_survives_the_worker(daemon: Daemon, port: int) -> None:
    family = Family(daemon, port)
    before = {name: each["id"] for name, each in family.running().items()}
    daemon.restart_worker()
    assert {name: each["id"] for name, each in family.running().items()} == before
    registry = Registry(daemon.state / "state.db")
    try:
        third = registry.get(family.third["id"])
        whole = registry.whole(third)
        assert len(whole.policies) == 3 * len(registry.get(family.first["id"]).policies)
        assert [each.id for each in registry.above(third)] == [before["first"], before["second"]]
    finally:
        registry.close()
    # It goes on to start others, and to be revoked as one.
    assert daemon.rictl("revoke", family.first["id"]).returncode == 0
    family.wait()
    ended(daemon)
    nothing_left(daemon)


def test_a_worker_killed_while_a_family_ends_ends_it(daemon: Daemon, port: int) -> None:
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04):
        family = Family(daemon, port)
        kill = threading.Thread(target=_kill, args=(daemon, family.first["id"]))
        kill.start()
        time.sleep(delay)
        dead = daemon.worker_pid()
        daemon.kill_worker()
        kill.join(20)
        daemon.wait_for_worker(dead)
        if daemon.sessions():
            daemon.rictl("kill", family.first["id"])
        family.wait()
        daemon.settled()
        nothing_left(daemon)


def _kill(daemon: Daemon, session: str) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        daemon.request("POST", f"/v1/sessions/{session}/kill", {})


def test_a_worker_killed_while_a_sub_agent_is_launched_leaves_nothing(
    daemon: Daemon, port: int
) -> None:
    inner = daemon.exec_command("talks", ["sleep", "60"])
    process = daemon.spawn("talks", ["sh", "-c", 'while :; do "$@"; done', "sh", *inner])
    daemon.launched(process)
    for delay in (0.0, 0.01, 0.02, 0.03, 0.05):
        wait_until(lambda: len(daemon.sessions()) == 2, 20)
        (child,) = (each for each in daemon.sessions() if each["inside"])
        daemon.rictl("kill", child["id"])  # and the loop starts the next
        time.sleep(delay)
        daemon.restart_worker()
        live = {each["id"] for each in daemon.sessions()}
        wait_until(lambda: daemon.cgroup(daemon.launched(process)["id"]).is_dir())
        folders = set(_folders(daemon, daemon.launched(process)["id"]))
        assert len(folders - live - {each["id"] for each in daemon.sessions()}) == 0, folders
    process.terminate()
    process.communicate(timeout=20)
    daemon.settled()
    nothing_left(daemon)


def _folders(daemon: Daemon, session: str) -> list[str]:
    return [each.name for each in daemon.cgroup(session).iterdir() if each.is_dir()]


def test_a_daemon_told_to_stop_ends_families(user: User, port: int) -> None:
    made = make(user, port)
    try:
        made.start()
        family = Family(made, port)
        assert made.stop() == 0
        family.wait()
        assert not (unified_mount() / made.instance / family.first["id"]).exists()
    finally:
        made.clean()


def test_a_killed_launcher_ends_its_own_session_only(daemon: Daemon, port: int) -> None:
    family = Family(daemon, port)
    second = Cgroup(family.cgroup(family.second).path)
    launcher = _parent(family.second["pid"])
    assert launcher in family.cgroup(family.first).processes()
    assert launcher not in second.processes()
    os.kill(launcher, signal.SIGKILL)
    wait_until(lambda: set(family.running()) == {"first"}, PATIENCE)
    family.process.terminate()
    family.wait()
    ended(daemon)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# -- limits ----------------------------------------------------------------------------------------


def test_limits_nest(daemon: Daemon) -> None:
    """A limit holds for all beneath; one beneath may be smaller, and a larger one gains nothing."""
    bomb = (
        "import os, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 60:\n"
        "        if not os.fork(): time.sleep(30); os._exit(0)\n"
        "        made += 1\n"
        "except OSError as error: print(made, error.errno, flush=True)\n"
        "else: print(made, 0, flush=True)\n"
        "os.kill(0, 9)\n"
    )
    for name, most in (("few", 20), ("many", 500)):
        daemon.profile(f"{name}", f"include: [base]\nlimits: {{processes: {most}}}\n")
    command = ["setsid", "/usr/bin/python3", "-I", "-S", "-c", bomb]

    def made(*profiles: str) -> tuple[int, int]:
        argv: list[str] = command
        for profile in reversed(profiles[1:]):
            argv = daemon.exec_command(profile, argv)
        words = daemon.exec(profiles[0], argv).stdout.split()
        daemon.settled()
        return int(words[0]), int(words[1])

    assert made("many", "many") == (60, 0)
    for profiles in (("few", "many"), ("many", "few")):
        count, code = made(*profiles)
        assert code == errno.EAGAIN
        assert count < 20


def test_cgroups_of_shared_sessions_hold_their_own_processes_apart(daemon: Daemon) -> None:
    """Where limits live in cgroup v2, a cgroup holds processes or limits others, not both."""
    outer = Cgroup(unified_mount() / daemon.instance / "shared")
    inner = Cgroup(outer.path / "inner")
    outer.create(shared=True)
    processes = []
    try:
        inner.create()
        assert outer.home.name == "own"
        assert outer.id == (outer.path / "own").stat().st_ino
        assert [each.path for each in outer.others()] == [inner.path]
        for each in (outer, inner):
            processes.append(subprocess.Popen(["sleep", "60"]))
            each.enter(processes[-1].pid)
            assert each.processes() == [processes[-1].pid]
        outer.freeze()
        assert outer.wait("frozen", True, 5)
        assert inner.frozen()
        outer.kill()
        assert outer.wait("populated", False, 5)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for each in (inner, outer):
            with contextlib.suppress(FileNotFoundError):
                each.remove()
    assert not outer.path.exists()

# SPDX-License-Identifier: Apache-2.0
"""Limits of a session: time, processes, open files, memory. Each also without the limit.

They hold under --observe too: they are no rules about actions.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from monitor.kernel.cgroup import legacy_mount, unified_mount
from tests.support.daemon import Daemon, wait_until
from tests.support.sides import last_session, records_of

PYTHON = "/usr/bin/python3"


def limited(daemon: Daemon, name: str, more: str = "", **limits: Any) -> str:
    lines = [f"  {key}: {value}" for key, value in limits.items()]
    section = "\n".join(["limits:", *lines]) if lines else ""
    return daemon.profile(name, f"include: [base]\n{more}\n{section}\n")


def python(daemon: Daemon, profile: str, code: str, **more: Any) -> Any:
    return daemon.exec(profile, [PYTHON, "-I", "-S", "-c", code], **more)


# -- time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile_ttl", "asked"),
    [
        pytest.param("1s", None, id="the profile's"),
        pytest.param("1h", "1s", id="asked for less"),
        pytest.param(None, "1s", id="asked for"),
        pytest.param("1s", "1h", id="asked for more"),
    ],
)
def test_a_session_ends_with_its_time(
    daemon: Daemon, profile_ttl: str | None, asked: str | None
) -> None:
    limits = {"ttl": profile_ttl} if profile_ttl else {}
    name = limited(daemon, "ttl", **limits)
    options = ["--ttl", asked] if asked else []
    began = time.monotonic()
    done = daemon.exec(name, ["/usr/bin/sleep", "30"], *options)
    took = time.monotonic() - began
    assert done.returncode != 0
    assert 0.9 < took < 5
    session = last_session(daemon)
    assert "expired" in session["why"] or "time" in session["why"]
    assert abs(session["expires"] - session["created"] - 1) < 0.5
    assert session["ended"] >= session["expires"]
    verbs = [record["verb"] for record in records_of(daemon, session)]
    assert verbs[-1] == "session.end"
    assert "ri-exec" in done.stderr


# Says each second's worth of attempts: "net ok" or the errno, and whether a file can be read.
TALKER = """
import errno, socket, sys, time
kept = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
said = []
while True:
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5):
            outcome = "net ok"
    except OSError as error:
        outcome = "net " + errno.errorcode[error.errno]
    if outcome not in said:
        said.append(outcome)
        print(outcome, flush=True)
        open("/etc/hostname").close()
    time.sleep(0.05)
"""


def expiring(daemon: Daemon, port: int, on_expiry: str, *options: str) -> subprocess.Popen[str]:
    """A session of two seconds that has connected and goes on doing so."""
    more = f"files: {{read: [/etc/hostname]}}\nnetwork: {{connect: ['127.0.0.1:{port}']}}"
    name = limited(daemon, f"ends-{on_expiry}", more, ttl="2s", on_expiry=on_expiry)
    process = daemon.spawn(name, [PYTHON, "-I", "-S", "-c", TALKER, str(port)], *options)
    assert process.stdout is not None
    assert process.stdout.readline() == "net ok\n"
    return process


def was_reset(listener: socket.socket) -> None:
    """The first connection that came in is gone."""
    kept = listener.accept()[0]
    with kept:
        kept.settimeout(10)
        with pytest.raises(ConnectionResetError):
            kept.recv(1)


def test_on_expiry_deny(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        process = expiring(daemon, listener.getsockname()[1], "deny")
        assert process.stdout is not None
        assert process.stdout.readline() == "net EPERM\n"
        was_reset(listener)
        wait_until(lambda: daemon.sessions()[0]["denied"] == "expired")
        (session,) = daemon.sessions()
        assert (session["state"], session["why"]) == ("running", "expired")
        assert "expired" in daemon.rictl("ps").stdout
        (record,) = daemon.records(session=session["id"], verb="session.state")
        assert (record["object"], record["verdict"]) == ("expired", "deny")
        # Over a restart too, and once.
        daemon.restart_worker()
        for verb in ("freeze", "thaw"):
            assert daemon.rictl(verb, session["id"]).returncode == 0
        assert daemon.sessions()[0]["denied"] == "expired"
        assert process.poll() is None
        refusals = daemon.records(session=session["id"], verb="net.socket", verdict="deny")
        refusals += daemon.records(session=session["id"], verb="net.connect", verdict="deny")
        assert {each["reason"] for each in refusals} == {"the session's authority has expired"}
        assert daemon.rictl("kill", session["id"]).returncode == 0
        _, errors = process.communicate(timeout=10)
        assert "the network is denied from now on: expired" in errors
        states = daemon.records(session=session["id"], verb="session.state")
        assert [each["object"] for each in states] == ["expired", "frozen", "thawed", "killed"]


@pytest.mark.parametrize("held_before", [False, True])
def test_on_expiry_freeze(daemon: Daemon, held_before: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        process = expiring(daemon, listener.getsockname()[1], "freeze")
        (session,) = daemon.sessions()
        if held_before:
            assert daemon.rictl("freeze", session["id"]).returncode == 0
        wait_until(lambda: daemon.sessions()[0]["hold"] == "expiry")
        was_reset(listener)
        cgroup = daemon.cgroup(session["id"])
        wait_until(lambda: "frozen 1" in (cgroup / "cgroup.events").read_text())
        assert "frozen, expired" in daemon.rictl("ps").stdout
        for restarted in (False, True):
            if restarted:
                daemon.restart_worker()
            done = daemon.rictl("thaw", session["id"])
            assert done.returncode == 1
            assert "is frozen because its time is over" in done.stderr
            assert "frozen 1" in (cgroup / "cgroup.events").read_text()
        # Revoked without being killed, it stays as it is.
        assert daemon.rictl("revoke", session["id"], "--then", "deny").returncode == 0
        assert "frozen 1" in (cgroup / "cgroup.events").read_text()
        assert process.poll() is None
        assert daemon.rictl("revoke", session["id"]).returncode == 0
        process.communicate(timeout=10)
        assert daemon.sessions() == []


def test_the_strictest_end_of_a_chain_counts(daemon: Daemon) -> None:
    limited(daemon, "mild", ttl="1s", on_expiry="deny")
    name = daemon.profile("strict", "extends: mild\nlimits: {on_expiry: kill}\n")
    done = daemon.exec(name, ["/usr/bin/sleep", "30"])
    assert done.returncode != 0
    assert last_session(daemon)["why"] == "expired"


def test_without_a_limit_it_goes_on(daemon: Daemon) -> None:
    assert daemon.exec(limited(daemon, "free"), ["/usr/bin/sleep", "1.3"]).returncode == 0


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)
        yield sock.getsockname()[1]


def test_time_runs_out_in_the_kernel_while_the_worker_hangs(daemon: Daemon, listener: int) -> None:
    """Nobody ends the session, but what it may reach is gone with its time."""
    name = limited(daemon, "hang", f"network:\n  connect: ['127.0.0.1:{listener}/udp']", ttl="2s")
    code = f"""
import socket, sys, time
sock = socket.socket(type=socket.SOCK_DGRAM)
print("ready", flush=True)
began = time.time()
while time.time() < began + 20:
    try:
        sock.sendto(b"x", ("127.0.0.1", {listener}))
    except PermissionError:
        break
    time.sleep(0.01)
print(time.time(), flush=True)
time.sleep(30)
"""
    process = daemon.spawn(name, [PYTHON, "-I", "-S", "-c", code])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (session,) = daemon.sessions()
    worker = daemon.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    try:
        refused = float(process.stdout.readline())
        assert -0.1 < refused - session["expires"] < 0.5
        assert process.poll() is None
    finally:
        os.kill(worker, signal.SIGCONT)
    process.communicate(timeout=20)
    assert process.returncode != 0
    session = last_session(daemon)
    denied = [r for r in records_of(daemon, session) if r["verdict"] == "deny"]
    assert any(r["verb"] == "net.send" and "expired" in r["reason"] for r in denied), denied


# -- processes ------------------------------------------------------------------------------------

FORKS = """
import os, sys, time
count = 0
try:
    while count < 40:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        count += 1
except OSError as error:
    print(error.errno, count)
else:
    print(0, count)
"""


def test_processes(daemon: Daemon) -> None:
    done = python(daemon, limited(daemon, "processes", processes=10), FORKS)
    number, count = map(int, done.stdout.split())
    assert number == errno.EAGAIN
    assert 5 <= count <= 10
    done = python(daemon, limited(daemon, "free"), FORKS)
    assert done.stdout.split() == ["0", "40"]
    daemon.settled()


def test_a_fork_bomb_stays_in_its_session(daemon: Daemon) -> None:
    name = limited(daemon, "bomb", processes=30, ttl="2s")
    process = daemon.spawn(name, ["/bin/sh", "-c", "b() { b | b & }; b; sleep 30"])
    began = time.monotonic()
    assert subprocess.run(["/usr/bin/true"]).returncode == 0
    process.communicate(timeout=20)
    daemon.settled()
    assert time.monotonic() - began < 10


def test_processes_end_with_the_command(daemon: Daemon) -> None:
    """What CMD leaves behind is its session's, and ends with it."""
    code = "import os, time\nif os.fork() == 0:\n os.setsid()\n time.sleep(60)\nprint('gone')"
    done = python(daemon, limited(daemon, "free"), code, stderr=subprocess.DEVNULL)
    assert done.stdout == "gone\n"
    daemon.settled()
    session = last_session(daemon)
    exits = [r for r in records_of(daemon, session) if r["verb"] == "proc.exit"]
    assert len(exits) == 2


# -- open files -----------------------------------------------------------------------------------

OPENS = """
import os, resource
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000))
    raised = 1
except (ValueError, OSError):
    raised = 0
count = 0
try:
    while count < 200:
        os.open("/dev/null", os.O_RDONLY)
        count += 1
except OSError as error:
    print(error.errno, count, raised)
else:
    print(0, count, raised)
"""


def test_open_files(daemon: Daemon) -> None:
    name = limited(daemon, "open-files", open_files=64)
    number, count, raised = map(int, python(daemon, name, OPENS).stdout.split())
    assert (number, raised) == (errno.EMFILE, 0)
    assert 50 <= count < 64
    assert python(daemon, limited(daemon, "free"), OPENS).stdout.split() == ["0", "200", "1"]


# -- memory ---------------------------------------------------------------------------------------

FILL = """
block = bytearray(96 << 20)
for place in range(0, len(block), 4096):
    block[place] = 1
print("filled")
"""


def test_memory(daemon: Daemon) -> None:
    done = python(daemon, limited(daemon, "memory", memory="48M"), FILL)
    assert done.stdout == ""
    assert done.returncode in {1, 137}, done.stderr
    done = python(daemon, limited(daemon, "free"), FILL)
    assert (done.returncode, done.stdout) == (0, "filled\n")


def test_limits_of_a_session_that_observes(daemon: Daemon) -> None:
    name = limited(daemon, "observed", processes=10, ttl="1s")
    done = python(daemon, name, FORKS, observe=True)
    assert int(done.stdout.split()[0]) == errno.EAGAIN
    done = daemon.exec(name, ["/usr/bin/sleep", "30"], observe=True, timeout=15)
    assert done.returncode != 0


def test_nothing_of_the_limits_stays(daemon: Daemon) -> None:
    daemon.settled()
    mounts = {unified_mount(), legacy_mount("pids"), legacy_mount("memory")} - {None}

    def left() -> list[str]:
        return [
            str(entry)
            for mount in mounts
            if mount is not None and (mount / daemon.instance).is_dir()
            for entry in (mount / daemon.instance).iterdir()
            if entry.is_dir()
        ]

    wait_until(lambda: not left())

# SPDX-License-Identifier: Apache-2.0
"""Leases: renewed while launcher, right and daemon are there; run out in the kernel otherwise."""

from __future__ import annotations

import os
import signal
import time

import pytest
from ruamel.yaml import YAML

from tests.support.daemon import Daemon, User, delegations_for, wait_until
from tests.support.listening import accepting

PROFILE = """
files: {read: ["/**"], execute: ["/usr/**", "/lib/**", "/lib64/**"]}
network: {connect: ["127.0.0.1:*"]}
"""
LOOP = "while true; do sleep 0.05; done"


@pytest.fixture(scope="module")
def profile(daemon: Daemon) -> str:
    return daemon.profile("leased", PROFILE)


def left(daemon: Daemon, identity: str) -> float:
    (found,) = [each for each in daemon.sessions() if each["id"] == identity]
    return float(found["expires"]) - time.time()


def test_it_outlives_its_length_while_it_is_renewed(daemon: Daemon, profile: str) -> None:
    began = time.monotonic()
    done = daemon.exec(profile, ["/bin/sleep", "5"], "--lease", "3s")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began > 5


def test_a_session_without_a_lease_ends_by_what_is_sent(daemon: Daemon, profile: str) -> None:
    """The twin of the test above: `ttl` alone is never put ahead."""
    done = daemon.exec(profile, ["/bin/sleep", "6"], "--ttl", "2s")
    assert done.returncode == 128 + signal.SIGKILL


def test_a_stopped_launcher_lets_it_run_out(daemon: Daemon, profile: str) -> None:
    process = daemon.spawn(profile, ["/bin/sh", "-c", LOOP], "--lease", "3s")
    session = daemon.launched(process)
    assert left(daemon, session["id"]) <= 3
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: not daemon.sessions(), 8)
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(10) == 128 + signal.SIGKILL
    process.communicate()
    (record,) = [
        each
        for each in daemon.records(session=session["id"], verb="session.state")
        if each["object"] == "expired"
    ]
    assert record["verdict"] == "kill"


def test_the_ttl_is_the_last_end(daemon: Daemon, profile: str) -> None:
    began = time.monotonic()
    done = daemon.exec(profile, ["/bin/sleep", "20"], "--lease", "3s", "--ttl", "5s")
    assert done.returncode == 128 + signal.SIGKILL
    assert 4 < time.monotonic() - began < 8


def test_without_the_right_it_is_not_renewed(daemon: Daemon, profile: str, user: User) -> None:
    process = daemon.spawn(profile, ["/bin/sh", "-c", LOOP], "--lease", "3s")
    session = daemon.launched(process)
    time.sleep(2)
    with daemon.delegations.open("w", encoding="utf-8") as file:
        YAML().dump({"delegations": []}, file)
    try:
        wait_until(lambda: not daemon.sessions(), 8)
    finally:
        Daemon.write(daemon.delegations, delegations_for(user))
    _output, errors = process.communicate(timeout=10)
    assert "the lease is not renewed" in errors
    states = daemon.records(session=session["id"], verb="session.state")
    said = [each for each in states if each["object"] == "not renewed"]
    assert len(said) == 1
    assert said[0]["verdict"] == "deny"


def test_a_dead_worker_lets_it_run_out_in_the_kernel(daemon: Daemon, profile: str) -> None:
    """Nobody renews, nobody kills: the row of the session says it is over."""
    with accepting() as port:
        tries = (
            "import socket,time\n"
            "while True:\n"
            "  time.sleep(0.2)\n"
            "  try: s=socket.socket()\n"
            "  except OSError as error: print(error.errno, flush=True); continue\n"
            f"  print(s.connect_ex(('127.0.0.1',{port})), flush=True)\n"
        )
        process = daemon.spawn(profile, ["/usr/bin/python3", "-c", tries], "--lease", "3s")
        assert process.stdout is not None
        daemon.launched(process)
        with daemon.without_worker():
            answers = []
            deadline = time.monotonic() + 6
            while time.monotonic() < deadline:
                answers.append(int(process.stdout.readline()))
            assert answers[0] == 0
            assert answers[-1] == 1  # EPERM
        # The next worker ends what is over.
        wait_until(lambda: not daemon.sessions(), 10)
        process.communicate()


def test_it_is_renewed_after_a_restart(daemon: Daemon, profile: str) -> None:
    process = daemon.spawn(profile, ["/bin/sleep", "9"], "--lease", "4s")
    daemon.launched(process)
    daemon.restart_worker()
    assert process.wait(20) == 0, process.communicate()
    process.communicate()


@pytest.mark.parametrize("text", ["0s", "1s", "3", "abc", "3y", "-3s", "99999999999s"])
def test_nonsense_is_refused(daemon: Daemon, profile: str, text: str) -> None:
    done = daemon.exec(profile, ["/bin/true"], "--lease", text)
    assert done.returncode == 125
    assert "--lease" in done.stderr
    assert "Traceback" not in done.stderr

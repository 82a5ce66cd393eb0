# SPDX-License-Identifier: Apache-2.0
"""Profiles that change while the daemon dies, the disk is full, the session ends or is frozen."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.host.test_reload import Agent, changes, connects
from tests.support.daemon import Daemon, wait_until
from tests.support.listening import Server, serving

ROUNDS = 6


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    with serving() as one, serving() as two:
        yield one, two


def reload_in(daemon: Daemon) -> threading.Thread:
    """Ask for a reload beside the test; its answer may never come."""

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            daemon.request("POST", "/v1/reload")

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


@pytest.mark.slow
def test_killed_at_any_moment_it_is_the_old_plan_or_the_new(
    daemon: Daemon, servers: tuple[Server, Server]
) -> None:
    """Never both destinations at once beyond the old plan, and in the end the new one, and cut."""
    one, two = servers
    ports = one.port, two.port
    daemon.profile("killed", connects(*ports))
    agent = Agent(daemon, "killed")
    for turn in range(ROUNDS):
        _kill_in_the_middle(daemon, agent, ports, 0.004 * turn**2)
    agent.end()
    daemon.settled()


def _kill_in_the_middle(
    daemon: Daemon, agent: Agent, ports: tuple[int, int], seconds: float
) -> None:
    """One reload that narrows, with the worker killed so long after it was asked for."""
    used = agent.connected
    assert agent.do("connect", ports[1]) == 0
    daemon.profile("killed", connects(ports[0]))
    dead = daemon.worker_pid()
    thread = reload_in(daemon)
    time.sleep(seconds)
    os.kill(dead, signal.SIGKILL)
    thread.join()
    daemon.wait_for_worker(dead)
    wait_until(lambda: agent.do("connect", ports[1]) == 1, 20)
    wait_until(lambda: agent.do("use", used) < 0)
    daemon.profile("killed", connects(*ports))
    wait_until(lambda: agent.do("connect", ports[1]) == 0, 20)


def test_a_worker_that_died_before_the_cut_is_followed_by_one_that_cuts(
    daemon: Daemon, servers: tuple[Server, Server]
) -> None:
    """The state as it is between the switch and the cut, made by hand."""
    import sqlite3

    one, two = servers
    daemon.profile("between", connects(one.port, two.port))
    agent = Agent(daemon, "between")
    assert agent.do("connect", two.port) == 0
    with daemon.without_worker():
        database = sqlite3.connect(daemon.state / "state.db")
        (plan,) = database.execute(
            "SELECT plans.body FROM sessions JOIN plans ON plans.digest = sessions.plan"
            " WHERE sessions.id = ?",
            (agent.session,),
        ).fetchone()
        narrow = plan.replace(f'"first":{two.port},"label":-1,"last":{two.port}',
                              '"first":1,"label":-1,"last":1')  # fmt: skip
        assert narrow != plan
        database.execute("INSERT INTO plans VALUES ('narrow', ?)", (narrow,))
        database.execute(
            "UPDATE sessions SET plan = 'narrow',"
            " body = json_set(body, '$.policies', json('[9001]')) WHERE id = ?",
            (agent.session,),
        )
        database.execute("INSERT INTO changes (session, plan) VALUES (?, ?)", (agent.session, plan))
        database.commit()
        database.close()
        # As the worker stopped it for the moment of the switch.
        (daemon.cgroup(agent.session) / "cgroup.freeze").write_text("1")
    assert agent.do("use", 0) < 0 or wait_for(lambda: agent.do("use", 0) < 0)
    assert agent.do("connect", two.port) == 1
    (found,) = [each for each in daemon.sessions() if each["id"] == agent.session]
    assert found["state"] == "running"
    assert changes(daemon, agent.session)[0]["resumed"] is True
    agent.end()


def wait_for(condition: Callable[[], bool]) -> bool:
    wait_until(condition)
    return True


def test_a_frozen_session_changes_and_stays_frozen(
    daemon: Daemon, servers: tuple[Server, Server]
) -> None:
    one, two = servers
    daemon.profile("frozen", connects(one.port, two.port))
    agent = Agent(daemon, "frozen")
    assert agent.do("connect", two.port) == 0
    assert daemon.rictl("freeze", agent.session).returncode == 0
    daemon.profile("frozen", connects(one.port))
    assert daemon.rictl("reload").returncode == 0
    wait_until(lambda: bool(changes(daemon, agent.session)))
    (found,) = [each for each in daemon.sessions() if each["id"] == agent.session]
    assert found["state"] == "frozen"
    assert daemon.rictl("thaw", agent.session).returncode == 0
    assert agent.do("use", 0) < 0
    assert agent.do("connect", two.port) == 1
    agent.end()


def test_what_was_revoked_stays_so(daemon: Daemon, servers: tuple[Server, Server]) -> None:
    one, two = servers
    daemon.profile("revoked", connects(one.port))
    agent = Agent(daemon, "revoked")
    assert daemon.rictl("revoke", agent.session, "--then", "deny").returncode == 0
    daemon.profile("revoked", connects(one.port, two.port))
    assert daemon.rictl("reload").returncode == 0
    wait_until(lambda: bool(changes(daemon, agent.session)))
    for port in (one.port, two.port):
        assert agent.do("connect", port) == 1
    agent.end()


def test_sessions_that_come_and_go_meanwhile(
    daemon: Daemon, servers: tuple[Server, Server]
) -> None:
    """Whatever starts gets the file as it is in the end; whatever ends leaves nothing behind."""
    one, two = servers
    both, narrow = connects(one.port, two.port), connects(one.port)
    daemon.profile("races", both)
    running = [daemon.spawn("races", ["/bin/sleep", "0.2"]) for _ in range(6)]
    for text in (narrow, both, narrow):
        daemon.profile("races", text)
        assert daemon.rictl("reload").returncode == 0
    late = Agent(daemon, "races")
    for each in running:
        each.communicate(timeout=30)
    wait_until(lambda: late.do("connect", two.port) == 1)
    assert late.do("connect", one.port) == 0
    late.end()
    daemon.settled()
    assert daemon.doctor()["problems"] == []


def test_reloads_at_once_are_one_after_the_other(
    daemon: Daemon, servers: tuple[Server, Server]
) -> None:
    one, two = servers
    daemon.profile("atonce", connects(one.port, two.port))
    agent = Agent(daemon, "atonce")
    daemon.profile("atonce", connects(one.port))
    threads = [reload_in(daemon) for _ in range(8)]
    for thread in threads:
        thread.join()
    assert agent.do("connect", two.port) == 1
    assert len(changes(daemon, agent.session)) == 1
    agent.end()


def test_a_file_that_is_being_written_waits_for_its_end(
    daemon: Daemon, servers: tuple[Server, Server]
) -> None:
    one, two = servers
    daemon.profile("slowly", connects(one.port, two.port))
    agent = Agent(daemon, "slowly")
    path = daemon.profiles / "slowly.yaml"
    whole = "name: slowly\n" + connects(one.port)
    with path.open("w") as file:
        for each in whole:
            file.write(each)
            file.flush()
            time.sleep(3 / len(whole))
            assert not changes(daemon, agent.session)
    wait_until(lambda: agent.do("connect", two.port) == 1)
    wait_until(lambda: len(changes(daemon, agent.session)) == 1)
    agent.end()

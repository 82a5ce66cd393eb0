# SPDX-License-Identifier: Apache-2.0
"""What must hold all the time: time windows and the host's figures, also without a daemon."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.host.test_reload import FILES, Agent
from tests.support.daemon import Daemon, wait_until
from tests.support.listening import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def text(server: Server, conditions: str) -> str:
    return f'{FILES}network: {{connect: ["127.0.0.1:{server.port}"]}}\nconditions: {conditions}\n'


def window(start: timedelta, until: timedelta) -> str:
    now = datetime.now(UTC)
    first, last = (f"{now + each:%H:%M}" for each in (start, until))
    return f'time: [{{start: "{first}", until: "{last}", zone: UTC}}]'


OPEN = window(-timedelta(hours=1), timedelta(hours=2))
CLOSED = window(timedelta(hours=2), timedelta(hours=3))


def found(daemon: Daemon, agent: Agent) -> dict[str, Any]:
    (session,) = [each for each in daemon.sessions() if each["id"] == agent.session]
    return session


def states(daemon: Daemon, agent: Agent) -> list[str]:
    return [
        str(each["object"]) for each in daemon.records(session=agent.session, verb="session.state")
    ]


def test_outside_of_its_window_nothing_starts(daemon: Daemon, server: Server) -> None:
    daemon.profile("closed", text(server, f"{{{CLOSED}}}"))
    done = daemon.exec("closed", ["/bin/true"])
    assert done.returncode == 125
    assert "conditions.time: it may act" in done.stderr
    daemon.profile("open", text(server, f"{{{OPEN}}}"))
    assert daemon.exec("open", ["/bin/true"]).returncode == 0


def test_a_window_that_closes_denies_and_one_that_opens_lets_go_on(
    daemon: Daemon, server: Server
) -> None:
    daemon.profile("hours", text(server, f"{{{OPEN}}}"))
    agent = Agent(daemon, "hours")
    assert agent.do("connect", server.port) == 0
    daemon.profile("hours", text(server, f"{{{CLOSED}}}"))
    assert daemon.rictl("reload").returncode == 0
    assert agent.do("connect", server.port) == 1
    assert "paused" in states(daemon, agent)
    explained = daemon.records(session=agent.session, verdict="deny")
    assert any("condition" in each["reason"] for each in explained), explained
    daemon.profile("hours", text(server, f"{{{OPEN}}}"))
    assert daemon.rictl("reload").returncode == 0
    wait_until(lambda: agent.do("connect", server.port) == 0)
    # What was open before goes on: it was denied, not cut.
    assert agent.do("use", 0) == 1
    assert "resumed" in states(daemon, agent)
    assert "everything is denied until it holds again" in agent.end()


def test_the_end_of_a_window_stands_in_the_kernel(daemon: Daemon, server: Server) -> None:
    """No daemon is there when it comes."""
    now = datetime.now(UTC)
    if now.second < 35:
        time.sleep(35 - now.second)  # minutes are as exact as a window gets
    daemon.profile(
        "ending", text(server, f"{{{window(-timedelta(hours=1), timedelta(minutes=1))}}}")
    )
    agent = Agent(daemon, "ending")
    assert agent.do("connect", server.port) == 0
    with daemon.without_worker():
        wait_until(lambda: agent.do("connect", server.port) == 1, 40)
    assert datetime.now(UTC).minute != now.minute
    wait_until(lambda: "paused" in states(daemon, agent))
    assert found(daemon, agent)["state"] == "running"
    agent.end()


@pytest.mark.parametrize(("otherwise", "state"), [("freeze", "frozen"), ("kill", None)])
def test_what_follows_is_the_profiles_choice(
    daemon: Daemon, server: Server, otherwise: str, state: str | None
) -> None:
    name = f"then-{otherwise}"
    daemon.profile(name, text(server, f"{{otherwise: {otherwise}, {OPEN}}}"))
    agent = Agent(daemon, name)
    daemon.profile(name, text(server, f"{{otherwise: {otherwise}, {CLOSED}}}"))
    assert daemon.rictl("reload").returncode == 0
    if state is None:
        wait_until(lambda: agent.process.poll() is not None)
        assert "conditions.time" in agent.end()
        return
    wait_until(lambda: found(daemon, agent)["state"] == state)
    assert found(daemon, agent)["hold"] == "condition"
    # Nobody's word lets it go on, and a restart does not either.
    assert daemon.rictl("thaw", agent.session).returncode == 1
    daemon.restart_worker()
    assert found(daemon, agent)["state"] == state
    daemon.profile(name, text(server, f"{{otherwise: {otherwise}, {OPEN}}}"))
    assert daemon.rictl("reload").returncode == 0
    wait_until(lambda: found(daemon, agent)["state"] == "running")
    assert agent.do("connect", server.port) == 0
    agent.end()


def test_a_persons_hold_and_a_conditions(daemon: Daemon, server: Server) -> None:
    daemon.profile("both", text(server, f"{{otherwise: freeze, {OPEN}}}"))
    agent = Agent(daemon, "both")
    assert daemon.rictl("freeze", agent.session).returncode == 0
    daemon.profile("both", text(server, f"{{otherwise: freeze, {CLOSED}}}"))
    assert daemon.rictl("reload").returncode == 0
    wait_until(lambda: "paused" in states(daemon, agent))
    daemon.rictl("thaw", agent.session)
    assert found(daemon, agent)["state"] == "frozen"
    daemon.profile("both", text(server, f"{{otherwise: freeze, {OPEN}}}"))
    assert daemon.rictl("reload").returncode == 0
    wait_until(lambda: found(daemon, agent)["state"] == "running")
    agent.end()


def test_the_hosts_load_and_memory(daemon: Daemon, server: Server) -> None:
    daemon.profile("calm", text(server, "{load_below: 10000, memory_available: 1M}"))
    agent = Agent(daemon, "calm")
    assert agent.do("connect", server.port) == 0
    daemon.profile("calm", text(server, "{memory_available: 900T}"))
    assert daemon.rictl("reload").returncode == 0
    assert agent.do("connect", server.port) == 1
    daemon.profile("calm", text(server, "{load_below: 10000}"))
    assert daemon.rictl("reload").returncode == 0
    # Not at once: figures go up and down.
    wait_until(lambda: agent.do("connect", server.port) == 0, 20)
    agent.end()


def test_a_purpose_may_be_required(daemon: Daemon, server: Server) -> None:
    daemon.profile("why", text(server, "{purpose: required}"))
    done = daemon.exec("why", ["/bin/true"])
    assert done.returncode == 125
    assert "profile why requires a purpose" in done.stderr
    assert daemon.exec("why", ["/bin/true"], "--purpose", " ").returncode == 125
    assert daemon.exec("why", ["/bin/true"], "--purpose", "fix it").returncode == 0


def test_a_zone_that_this_host_does_not_know_is_refused(daemon: Daemon, server: Server) -> None:
    daemon.profile("mars", text(server, "{time: [{zone: Mars/Olympus}]}"))
    done = daemon.exec("mars", ["/bin/true"])
    assert done.returncode == 125
    assert "time zone" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.path.exists(daemon.socket)  # noqa: PTH110 - it is a socket

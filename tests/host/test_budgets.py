# SPDX-License-Identifier: Apache-2.0
"""What follows in a running daemon when a budget is used up: nothing more, a freeze, or an ask."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.daemon import Daemon, User, wait_until

MINUTE = 60 * 10**9
# Connects as often as it is told, and says how often it could.
AGENT = """
import socket, sys
place = ("127.0.0.1", int(sys.argv[1]))
for line in sys.stdin:
    done = 0
    for _time in range(int(line)):
        try:
            socket.create_connection(place, 5).close()
            done += 1
        except OSError:
            pass
    print(done, flush=True)
"""


class Agent:
    """A session that connects when it is told."""

    def __init__(self, daemon: Daemon, profile: str, port: int) -> None:
        command = ["/usr/bin/python3", "-I", "-c", AGENT, str(port)]
        self.process = daemon.spawn(profile, command, stdin=subprocess.PIPE)
        self.session = str(daemon.launched(self.process)["id"])

    def tell(self, times: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{times}\n")
        self.process.stdin.flush()

    def hear(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def connects(self, times: int) -> int:
        self.tell(times)
        return self.hear()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as made:
        yield made


@pytest.fixture(scope="module")
def daemon(user: User, server: socket.socket) -> Iterator[Daemon]:
    made = Daemon(user)
    port = server.getsockname()[1]
    network = f"include: [base]\nnetwork: {{connect: ['127.0.0.1:{port}']}}\n"
    made.profile("unlimited", network)
    for then in ("deny", "freeze", "ask"):
        limits = f"limits: {{connects_per_minute: 3, on_budget: {then}}}\n"
        made.profile(f"connects-{then}", network + limits)
    made.profile("egress-deny", network + "limits: {egress_bytes: '2000'}\n")
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def start(daemon: Daemon, server: socket.socket) -> Iterator[Callable[[str], Agent]]:
    made: list[Agent] = []
    left = MINUTE - time.clock_gettime_ns(time.CLOCK_BOOTTIME) % MINUTE
    if left < 15 * 10**9:  # a test should see one minute of boottime
        time.sleep(left / 1e9)

    def starts(profile: str) -> Agent:
        made.append(Agent(daemon, profile, server.getsockname()[1]))
        return made[-1]

    yield starts
    for each in made:
        each.stop()
    daemon.settled()


def state(daemon: Daemon) -> str:
    return str(daemon.sessions()[0]["state"])


def test_past_it_is_refused(daemon: Daemon, start: Callable[[str], Agent]) -> None:
    agent = start("connects-deny")
    assert agent.connects(5) == 3
    wait_until(lambda: len(daemon.records(session=agent.session, verdict="deny")) == 2)
    record = daemon.records(session=agent.session, verdict="deny")[0]
    assert record["reason"] == "the budget of 3 connections a minute is used up"
    assert record["mechanism"] == "budget"
    assert daemon.details(record["id"])["budget"] == "connects"
    assert state(daemon) == "running"


def test_without_one_nothing_is(start: Callable[[str], Agent]) -> None:
    assert start("unlimited").connects(50) == 50


def test_a_restart_gives_nothing_back(daemon: Daemon, start: Callable[[str], Agent]) -> None:
    agent = start("connects-deny")
    assert agent.connects(2) == 2
    daemon.restart_worker()
    assert agent.connects(5) == 1
    with daemon.without_worker():
        assert agent.connects(5) == 0


def test_a_profile_may_freeze(daemon: Daemon, start: Callable[[str], Agent]) -> None:
    agent = start("connects-freeze")
    agent.tell(4)
    wait_until(lambda: state(daemon) == "frozen")
    (record,) = daemon.records(session=agent.session, verb="session.state")
    assert record["reason"] == "the budget of 3 connections a minute is used up"
    assert daemon.request("POST", f"/v1/sessions/{agent.session}/thaw")[0] == 200
    assert agent.hear() == 3


def asks(daemon: Daemon) -> list[dict[str, Any]]:
    status, body = daemon.request("GET", "/v1/asks")
    assert status == 200, body
    return list(body["asks"])


def test_a_profile_may_ask(daemon: Daemon, start: Callable[[str], Agent]) -> None:
    agent = start("connects-ask")
    assert agent.connects(5) == 3
    wait_until(lambda: len(asks(daemon)) == 1)
    (ask,) = asks(daemon)
    done = daemon.rictl("approve", ask["id"])
    assert (done.returncode, done.stderr) == (0, "")
    assert agent.connects(5) == 3
    wait_until(lambda: len(asks(daemon)) == 1)
    (ask,) = asks(daemon)
    assert daemon.rictl("deny", ask["id"]).returncode == 0
    assert agent.connects(5) == 0
    time.sleep(0.3)
    assert asks(daemon) == []


def test_bytes_that_are_used_up_end_what_is_open(
    daemon: Daemon, start: Callable[[str], Agent]
) -> None:
    agent = start("egress-deny")
    assert 0 < agent.connects(40) < 40
    assert agent.connects(3) == 0
    wait_until(lambda: bool(daemon.records(session=agent.session, verdict="deny")))
    reasons = {each["reason"] for each in daemon.records(session=agent.session, verdict="deny")}
    assert reasons == {"the budget of 2000 bytes sent is used up"}

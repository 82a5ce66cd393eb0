# SPDX-License-Identifier: Apache-2.0
"""Labels in a running daemon: told, recorded, kept over a restart, taken off by a person only."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.daemon import Daemon, User, delegations_for, wait_until

EARNS, STAYS, LOST = "127.0.0.10", "127.0.0.11", "127.0.0.12"
# Does what it is told, one word at a time: connects to a host, or sends on what is open to it.
AGENT = """
import errno, socket, sys
port, kept = int(sys.argv[1]), {}
for line in sys.stdin:
    verb, host = line.split()
    try:
        if verb == "connect":
            socket.create_connection((host, port), 5).close()
        elif verb == "open":
            kept[host] = socket.create_connection((host, port), 5)
        else:
            kept[host].send(b"x")
        print("ok", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""


class Hosts:
    """Listeners on all three addresses, outside of all sessions."""

    def __init__(self) -> None:
        self.listeners = [socket.create_server((EARNS, 0), backlog=512)]
        self.port = int(self.listeners[0].getsockname()[1])
        self.listeners += [
            socket.create_server((host, self.port), backlog=512) for host in (STAYS, LOST)
        ]

    def close(self) -> None:
        for each in self.listeners:
            each.close()


class Agent:
    """A session that does one thing after the other."""

    def __init__(self, daemon: Daemon, profile: str, port: int, inner: str = "") -> None:
        """`inner`: the profile of a sub-agent that does it."""
        command: list[Any] = ["/usr/bin/python3", "-I", "-c", AGENT, str(port)]
        if inner:
            command = daemon.exec_command(inner, command)
        self.process = daemon.spawn(profile, command, stdin=subprocess.PIPE)
        self.session = str(daemon.launched(self.process)["id"])

    def does(self, verb: str, host: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{verb} {host}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def connects(self) -> list[str]:
        return [self.does("connect", host) for host in (STAYS, LOST, EARNS)]

    def stop(self) -> str:
        """End it; what it and the launcher said."""
        with contextlib.suppress(OSError, ValueError):
            self.process.kill()
        _output, errors = self.process.communicate(timeout=20)
        return errors


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.close()


def network(port: int) -> str:
    every = ", ".join(f"'{host}:{port}'" for host in (EARNS, STAYS, LOST))
    return f"include: [base]\nnetwork: {{connect: [{every}]}}\n"


@pytest.fixture(scope="module")
def daemon(user: User, hosts: Hosts) -> Iterator[Daemon]:
    made = Daemon(user)
    rights = delegations_for(user)
    rights["delegations"][0]["depth"] = 1
    made.write(made.delegations, rights)
    only = ", ".join(f"'{host}:{hosts.port}'" for host in (EARNS, STAYS))
    made.profile("plain", network(hosts.port))
    made.profile(
        "labelled",
        network(hosts.port)
        + f"labels:\n  seen:\n    connect: ['{EARNS}:{hosts.port}']\n"
        + f"    then: {{network: {{only: [{only}]}}}}\n",
    )
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def start(daemon: Daemon, hosts: Hosts) -> Iterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def starts(profile: str = "labelled", inner: str = "") -> Agent:
        made.append(Agent(daemon, profile, hosts.port, inner))
        return made[-1]

    yield starts
    for each in made:
        each.stop()
    daemon.settled()


def labels(daemon: Daemon, session: str, user: User | None = None) -> tuple[int, Any]:
    return daemon.request("GET", f"/v1/sessions/{session}/labels", user=user)


def remove(daemon: Daemon, session: str, body: Any = None, user: User | None = None,
           name: str = "seen") -> tuple[int, Any]:  # fmt: skip
    path = f"/v1/sessions/{session}/labels/{name}/remove"
    return daemon.request("POST", path, {"why": "test"} if body is None else body, user=user)


def test_a_label_takes_away_what_its_profile_says(
    daemon: Daemon, start: Callable[..., Agent]
) -> None:
    agent = start()
    assert agent.connects() == ["ok", "ok", "ok"]
    assert agent.connects() == ["ok", "EPERM", "ok"]
    wait_until(lambda: len(daemon.records(session=agent.session, verb="label.earn")) == 1)
    (earned,) = daemon.records(session=agent.session, verb="label.earn")
    assert (earned["object"], earned["mechanism"]) == ("seen", "cgroup-bpf")
    assert earned["rule"].startswith("labels: seen (")
    wait_until(lambda: bool(daemon.records(session=agent.session, verdict="deny")))
    (denied,) = daemon.records(session=agent.session, verdict="deny")
    assert denied["reason"] == "the session has the label seen, which takes it away"
    assert daemon.details(denied["id"])["label"] == "seen"
    assert "the session has the label seen from now on" in agent.stop()


def test_without_it_nothing_is_taken_away(start: Callable[..., Agent]) -> None:
    agent = start("plain")
    assert agent.connects() == ["ok", "ok", "ok"]
    assert agent.connects() == ["ok", "ok", "ok"]


def test_what_is_open_and_lost_is_cut(start: Callable[..., Agent]) -> None:
    agent = start()
    assert [agent.does("open", host) for host in (STAYS, LOST)] == ["ok", "ok"]
    assert [agent.does("send", host) for host in (STAYS, LOST)] == ["ok", "ok"]
    assert agent.does("connect", EARNS) == "ok"
    wait_until(lambda: agent.does("send", LOST) in ("ECONNABORTED", "EPIPE", "ECONNRESET"))
    assert agent.does("send", STAYS) == "ok"


def test_everybody_sees_it(daemon: Daemon, start: Callable[..., Agent]) -> None:
    agent = start()
    shown = labels(daemon, agent.session)[1]["labels"]
    assert [(each["name"], each["since"]) for each in shown] == [("seen", None)]
    assert "LABELS" not in daemon.rictl("ps").stdout
    agent.does("connect", EARNS)
    (shown,) = labels(daemon, agent.session)[1]["labels"]
    assert shown["since"] is not None
    assert daemon.sessions()[0]["labels"] == ["seen"]
    assert "LABELS" in daemon.rictl("ps").stdout
    assert "[seen]" in daemon.rictl("ps", "--tree").stdout
    listed = daemon.rictl("label", "list", agent.session)
    assert (listed.returncode, "seen" in listed.stdout) == (0, True)
    assert json.loads(daemon.rictl("label", "list", agent.session, "--json").stdout)["labels"]


def test_it_stays_over_a_restart(daemon: Daemon, start: Callable[..., Agent]) -> None:
    agent = start()
    agent.does("connect", EARNS)
    wait_until(lambda: bool(daemon.records(session=agent.session, verb="label.earn")))
    daemon.restart_worker()
    assert agent.connects() == ["ok", "EPERM", "ok"]
    assert daemon.sessions()[0]["labels"] == ["seen"]
    assert len(daemon.records(session=agent.session, verb="label.earn")) == 1


def test_it_is_earned_while_no_daemon_lives(daemon: Daemon, start: Callable[..., Agent]) -> None:
    agent = start()
    with daemon.without_worker():
        agent.does("connect", EARNS)
        assert agent.connects() == ["ok", "EPERM", "ok"]
    wait_until(lambda: len(daemon.records(session=agent.session, verb="label.earn")) == 1)
    assert agent.connects() == ["ok", "EPERM", "ok"]


def test_a_person_takes_it_off(daemon: Daemon, start: Callable[..., Agent]) -> None:
    agent = start()
    agent.does("connect", EARNS)
    assert agent.does("connect", LOST) == "EPERM"
    done = daemon.rictl("label", "remove", agent.session, "seen", "--why", "a mistake")
    assert (done.returncode, done.stderr) == (0, "")
    assert agent.does("connect", LOST) == "ok"
    (record,) = daemon.records(session=agent.session, verb="label.remove")
    assert (record["object"], record["reason"]) == ("seen", "a mistake")
    assert daemon.details(record["id"])["by"] == "user:root"
    # It can be earned again.
    assert agent.connects() == ["ok", "ok", "ok"]
    assert agent.connects() == ["ok", "EPERM", "ok"]
    wait_until(lambda: len(daemon.records(session=agent.session, verb="label.earn")) == 2)


def test_a_frozen_session_stays_frozen(daemon: Daemon, start: Callable[..., Agent]) -> None:
    agent = start()
    agent.does("connect", EARNS)
    assert daemon.request("POST", f"/v1/sessions/{agent.session}/freeze")[0] == 200
    assert remove(daemon, agent.session)[0] == 200
    assert daemon.sessions()[0]["state"] == "frozen"
    events = daemon.cgroup(agent.session) / "cgroup.events"
    assert "frozen 1" in events.read_text()
    assert daemon.request("POST", f"/v1/sessions/{agent.session}/thaw")[0] == 200
    assert agent.does("connect", LOST) == "ok"


def test_only_administrators_may(
    daemon: Daemon, start: Callable[..., Agent], user: User, stranger: User
) -> None:
    agent = start()
    agent.does("connect", EARNS)
    assert labels(daemon, agent.session, user)[0] == 200
    assert remove(daemon, agent.session, user=user)[0] == 403
    assert labels(daemon, agent.session, stranger)[0] == 404
    assert remove(daemon, agent.session, user=stranger)[0] == 404
    refused = daemon.rictl_as(user, "label", "remove", agent.session, "seen", "--why", "mine")
    assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
    assert agent.connects() == ["ok", "EPERM", "ok"]


def test_bad_requests_change_nothing(daemon: Daemon, start: Callable[..., Agent]) -> None:
    agent = start()
    assert remove(daemon, agent.session)[0] == 404  # it has not earned it
    agent.does("connect", EARNS)
    bodies: list[Any] = [
        {},
        {"why": ""},
        {"why": 1},
        [],
        {"why": "x", "more": 1},
        {"why": "x" * 2000},
    ]
    for body in bodies:
        assert remove(daemon, agent.session, body)[0] == 400, body
    assert remove(daemon, agent.session, name="other")[0] == 404
    assert remove(daemon, agent.session, name="%00" + "x" * 500)[0] == 404
    assert remove(daemon, "ffff-no-such")[0] == 404
    assert daemon.rictl("label", "remove", agent.session, "seen").returncode == 2
    assert daemon.rictl("label", "list", "ffff-no-such").returncode == 1
    assert agent.connects() == ["ok", "EPERM", "ok"]
    session = agent.session
    agent.stop()
    daemon.settled()
    assert labels(daemon, session)[0] == 409
    assert remove(daemon, session)[0] == 409


# -- sub-agents -----------------------------------------------------------------------------------


def inside(daemon: Daemon, outer: str) -> str:
    """The session that runs in `outer`."""
    (found,) = [each["id"] for each in daemon.sessions() if each["inside"] == outer]
    return str(found)


def test_a_sub_agent_has_the_labels_above_it(daemon: Daemon, start: Callable[..., Agent]) -> None:
    agent = start("labelled", "plain")
    assert agent.connects() == ["ok", "ok", "ok"]
    assert agent.connects() == ["ok", "EPERM", "ok"]
    inner = inside(daemon, agent.session)
    assert {each["id"]: each["labels"] for each in daemon.sessions()} == {
        agent.session: ["seen"],
        inner: ["seen"],
    }
    status, body = remove(daemon, inner)
    assert status == 404
    assert f"take it off {agent.session}" in body["error"]
    assert remove(daemon, agent.session)[0] == 200
    assert agent.does("connect", LOST) == "ok"


def test_a_label_of_a_sub_agent_is_its_own(daemon: Daemon, start: Callable[..., Agent]) -> None:
    agent = start("plain", "labelled")
    assert agent.connects() == ["ok", "ok", "ok"]
    assert agent.connects() == ["ok", "EPERM", "ok"]
    inner = inside(daemon, agent.session)
    assert {each["id"]: each["labels"] for each in daemon.sessions()} == {
        agent.session: [],
        inner: ["seen"],
    }
    assert remove(daemon, agent.session)[0] == 404
    assert remove(daemon, inner)[0] == 200
    assert agent.does("connect", LOST) == "ok"

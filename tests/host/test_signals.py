# SPDX-License-Identifier: Apache-2.0
"""Signals from outside: the profile's reaction at once, and what stands of them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.host.test_conditions import found, states
from tests.host.test_reload import FILES, Agent
from tests.support.daemon import PYTHON, Daemon, User, wait_until
from tests.support.listening import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def profile(daemon: Daemon, server: Server, name: str, signals: str = "{}") -> str:
    return daemon.profile(
        name,
        f'{FILES}network: {{connect: ["127.0.0.1:{server.port}"]}}\nsignals: {signals}\n',
    )


RISKS = "{risk_score: [{at: 30, then: deny}, {at: 60, then: freeze}, {at: 90, then: kill}]}"


def risk(daemon: Daemon, subject: str, score: int) -> subprocess.CompletedProcess[str]:
    done = daemon.rictl("signal", "risk-score-change", subject, "--score", str(score))
    assert done.returncode == 0, done.stderr
    return done


def test_a_risk_score_goes_up_and_down(daemon: Daemon, server: Server, user: User) -> None:
    agent = Agent(daemon, profile(daemon, server, "risky", RISKS))
    whom = f"user:{user.name}"
    assert agent.do("connect", server.port) == 0
    risk(daemon, whom, 29)
    assert agent.do("use", 0) == 1
    risk(daemon, whom, 30)
    assert agent.do("connect", server.port) == 1
    wait_until(lambda: agent.do("use", 0) < 0)  # cut
    risk(daemon, whom, 75)
    wait_until(lambda: found(daemon, agent)["state"] == "frozen")
    # It stands: over a restart, and for what starts next.
    daemon.restart_worker()
    assert found(daemon, agent)["state"] == "frozen"
    refused = daemon.exec("risky", ["/bin/true"])
    assert refused.returncode == 125
    assert "risk score 75" in refused.stderr
    assert f"risk-score-change  {whom}  75" in daemon.rictl("signal").stdout
    risk(daemon, whom, 0)
    wait_until(lambda: found(daemon, agent)["state"] == "running")
    assert agent.do("connect", server.port) == 0
    risk(daemon, whom, 90)
    wait_until(lambda: agent.process.poll() is not None)
    assert "risk score 90" in agent.end()
    risk(daemon, whom, 0)
    records = daemon.records(session=agent.session, verb="signal")
    assert [each["verdict"] for each in records] == ["allow", "deny", "deny", "allow", "kill"]


def test_an_agent_is_meant_and_no_other(daemon: Daemon, server: Server) -> None:
    name = profile(daemon, server, "one", RISKS)
    mine = Agent(daemon, name, "--agent", "team/one")
    other = Agent(daemon, name, "--agent", "team/two")
    risk(daemon, "agent:team/one", 40)
    assert mine.do("connect", server.port) == 1
    assert other.do("connect", server.port) == 0
    risk(daemon, "spiffe://test.example/agent/team/two", 40)
    assert other.do("connect", server.port) == 1
    for subject in ("agent:team/one", "spiffe://test.example/agent/team/two"):
        risk(daemon, subject, 0)
    mine.end()
    other.end()


@pytest.mark.parametrize("then", ["deny", "freeze", "kill"])
def test_a_revocation_elsewhere(daemon: Daemon, server: Server, then: str) -> None:
    name = profile(daemon, server, f"revoked-{then}", f"{{session_revoked: {then}}}")
    agent, other = Agent(daemon, name), Agent(daemon, name)
    done = daemon.rictl("signal", "session-revoked", agent.session[-12:], "--why", "left")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == [then, agent.session]
    if then == "kill":
        wait_until(lambda: agent.process.poll() is not None)
    elif then == "freeze":
        wait_until(lambda: found(daemon, agent)["state"] == "frozen")
        assert daemon.rictl("thaw", agent.session).returncode == 1
        assert daemon.rictl("kill", agent.session).returncode == 0
    else:
        assert agent.do("connect", server.port) == 1
        assert found(daemon, agent)["denied"] == "revoked"
    assert other.do("connect", server.port) == 0
    agent.end()
    other.end()


def test_an_assurance_level(daemon: Daemon, server: Server, user: User) -> None:
    agent = Agent(daemon, profile(daemon, server, "assured"))
    whom = f"user:{user.name}"
    assert daemon.rictl("signal", "assurance-level-change", whom).returncode == 0
    wait_until(lambda: found(daemon, agent)["state"] == "frozen")
    up = ("--direction", "increase")
    assert daemon.rictl("signal", "assurance-level-change", whom, *up).returncode == 0
    wait_until(lambda: found(daemon, agent)["state"] == "running")
    assert states(daemon, agent)[-4:] == ["paused", "frozen", "resumed", "thawed"]
    agent.end()


def test_a_file_and_standard_input(daemon: Daemon, server: Server) -> None:
    agent = Agent(daemon, profile(daemon, server, "filed", RISKS))
    event = {
        "iss": "https://idp.example/",
        "sub_id": {"format": "opaque", "id": f"session:{agent.session}"},
        "events": {
            "https://schemas.openid.net/secevent/caep/event-type/risk-level-change": {
                "current_level": "MEDIUM"
            }
        },
    }
    path = daemon.folder / "event.json"
    path.write_text(json.dumps(event))
    assert daemon.rictl("signal", "--file", str(path)).returncode == 0
    assert agent.do("connect", server.port) == 1
    event["events"] = {"risk-score-change": {"score": 0}}
    done = subprocess.run(
        [str(PYTHON), "-m", "monitor.cli.rictl", "signal", "--file", "-"],
        input=json.dumps(event),
        env={"RI_SOCKET": str(daemon.socket), "PATH": "/usr/bin:/bin"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert agent.do("connect", server.port) == 0
    agent.end()


def test_what_is_wrong_changes_nothing(daemon: Daemon, server: Server, user: User) -> None:
    agent = Agent(daemon, profile(daemon, server, "wrong", RISKS))
    whom = f"user:{user.name}"
    for arguments, said in (
        (("nonsense", whom), "nonsense"),
        (("session-revoked",), "SUBJECT"),
        (("risk-score-change", whom), "--score"),
        (("risk-score-change", whom, "--score", "101"), "101"),
        (("session-revoked", whom, "--score", "1"), "--score"),
        (("session-revoked", "user:no-such-user-here"), "no live session"),
        (("session-revoked", "agent:nobody"), "no live session"),
        (("session-revoked", "feedbeef"), "no session"),
        (("--file", "/nonexistent"), "cannot read"),
        (("--file", "/etc/passwd"), "not JSON"),
    ):
        done = daemon.rictl("signal", *arguments)
        assert done.returncode in (1, 2), done
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    bodies: list[Any] = [None, [], {"events": 3}, {"events": {"x": {}}, "sub_id": whom}]
    for body in bodies:
        assert daemon.request("POST", "/v1/signals", body)[0] == 400
    denied = daemon.rictl_as(user, "signal", "session-revoked", agent.session)
    assert denied.returncode == 1
    assert "only root" in denied.stderr
    assert daemon.rictl_as(user, "signal").returncode == 1
    assert agent.do("connect", server.port) == 0
    assert daemon.rictl("signal").stdout == ""
    agent.end()


def test_a_session_cannot_signal(daemon: Daemon, server: Server) -> None:
    """The API is closed to what runs in a session, whoever it runs as."""
    agent = Agent(daemon, profile(daemon, server, "inside", RISKS))
    assert agent.do("read", daemon.socket) != 0
    agent.end()

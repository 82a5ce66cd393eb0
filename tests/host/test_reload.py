# SPDX-License-Identifier: Apache-2.0
"""Profiles that change under running sessions: what is added, taken away, cut, and left alone."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon import Daemon, User, delegations_for, wait_until
from tests.support.listening import Server, serving

FILES = 'files: {read: ["/**"], execute: ["/usr/**", "/lib/**", "/lib64/**"]}\n'
# Answers "connect PORT", "use NUMBER" (of what it connected), "read PATH", "bind PORT", "accept 0",
# "run ARGUMENT" (of id).
AGENT = """
import socket, sys
kept = []
def do(verb, word):
    if verb == "connect":
        try: kept.append(socket.socket())
        except OSError as error: return error.errno
        kept[-1].settimeout(5)
        return kept[-1].connect_ex(("127.0.0.1", int(word)))
    if verb == "use":
        try: return kept[int(word)].send(b"x")
        except OSError as error: return -error.errno
    if verb == "bind":
        kept.append(socket.socket())
        try: kept[-1].bind(("127.0.0.1", int(word))); kept[-1].listen(); return 0
        except OSError as error: return error.errno
    if verb == "accept":
        kept[-1].settimeout(5)
        try: kept.append(kept[-1].accept()[0]); return 0
        except OSError as error: return -1
    if verb == "run":
        import subprocess
        try: return subprocess.run(["/usr/bin/id", word], stdout=subprocess.PIPE).returncode
        except OSError as error: return error.errno
    if verb == "read":
        try: open(word).read(); return 0
        except OSError as error: return error.errno
for line in sys.stdin:
    print(do(*line.split()), flush=True)
"""


class Agent:
    """A session that does what it is told, one thing a line."""

    def __init__(self, daemon: Daemon, profile: str | None, *options: str) -> None:
        self.process = daemon.spawn(
            profile, ["/usr/bin/python3", "-c", AGENT], *options, stdin=subprocess.PIPE
        )
        self.session = daemon.launched(self.process)["id"]

        self.connected = 0  # how many sockets it keeps

    def do(self, verb: str, word: object) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{verb} {word}\n")
        self.process.stdin.flush()
        answer = int(self.process.stdout.readline())
        self.connected += verb == "connect"
        return answer

    def end(self) -> str:
        return self.process.communicate(timeout=20)[1]


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    with serving() as one, serving() as two:
        yield one, two


def connects(*ports: int, more: str = "") -> str:
    listed = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    return f"{FILES}network: {{connect: [{listed}]{more}}}\n"


def reloaded(daemon: Daemon) -> dict[str, Any]:
    done = daemon.rictl("reload", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def changes(daemon: Daemon, session: str) -> list[dict[str, Any]]:
    found = daemon.records(session=session, verb="profile.change")
    return [daemon.details(each["id"]) for each in found]


def test_a_narrowing_cuts_just_what_it_takes_away(
    daemon: Daemon, servers: tuple[Server, Server]
) -> None:
    one, two = servers
    daemon.profile("narrows", connects(one.port, two.port))
    agent = Agent(daemon, "narrows")
    assert agent.do("connect", one.port) == 0 == agent.do("connect", two.port)
    wait_until(lambda: len(one.connections) == 1 == len(two.connections))
    daemon.profile("narrows", connects(one.port))
    diff = daemon.rictl("profile", "diff", "narrows")
    assert diff.returncode == 0, diff.stderr
    assert f"  - network.connect: 127.0.0.1:{two.port}\n" in diff.stdout
    assert agent.do("use", 1) == 1  # shown, and nothing done
    reloaded(daemon)
    wait_until(lambda: bool(changes(daemon, agent.session)))
    assert agent.do("use", 0) == 1
    assert agent.do("use", 1) < 0
    assert agent.do("connect", two.port) == 1
    assert agent.do("connect", one.port) == 0
    # What is left on the other side was cut with a reset, not left hanging.
    two.connections[0].settimeout(5)
    try:
        assert two.connections[0].recv(10) == b"x"
        assert two.connections[0].recv(10) == b""
    except ConnectionResetError:
        pass
    details = changes(daemon, agent.session)[0]
    assert details["cut"] == 1
    assert [each["effect"] for each in details["changes"]] == ["takes away"]
    assert "its profile narrows was changed by" in agent.end()


def test_a_widening_counts_at_once(daemon: Daemon, servers: tuple[Server, Server]) -> None:
    one, two = servers
    daemon.profile("widens", connects(one.port))
    agent = Agent(daemon, "widens")
    assert agent.do("connect", two.port) == 1
    daemon.profile("widens", connects(one.port, two.port))
    reloaded(daemon)
    wait_until(lambda: bool(changes(daemon, agent.session)))
    assert agent.do("connect", two.port) == 0
    agent.end()


def test_the_files_are_watched(daemon: Daemon, servers: tuple[Server, Server]) -> None:
    one, two = servers
    daemon.profile("watched", connects(one.port, two.port))
    agent = Agent(daemon, "watched")
    assert agent.do("connect", two.port) == 0
    daemon.profile("watched", connects(one.port))
    wait_until(lambda: agent.do("use", 0) < 0, 10)
    assert changes(daemon, agent.session)[0]["by"] == "the daemon"
    agent.end()


def test_what_includes_it_changes_with_it(daemon: Daemon, servers: tuple[Server, Server]) -> None:
    one, two = servers
    daemon.profile("part", connects(one.port, two.port))
    daemon.profile("whole", "include: [part]\n")
    daemon.profile("tight", "extends: whole\n")
    agent = Agent(daemon, "tight")
    assert agent.do("connect", two.port) == 0
    daemon.profile("part", connects(one.port))
    reloaded(daemon)
    wait_until(lambda: agent.do("connect", two.port) == 1)
    assert agent.do("connect", one.port) == 0
    agent.end()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("files: {read: [", ":3:"),
        ("network: {connect: ['nonsense:x']}", ":2:"),
        ("files: {reed: ['/x']}", ":2:"),
        ("extends: nobody", ":2:"),
        ("extends: broken", "cycle"),
        ("conditions: {time: [{zone: Mars/Olympus}]}", ""),
        ("\0\1\2", ""),
        ("", ""),
    ],
)
def test_a_broken_file_changes_nothing_and_says_so(
    daemon: Daemon, servers: tuple[Server, Server], broken: str, said: str
) -> None:
    one, _two = servers
    daemon.profile("broken", connects(one.port))
    agent = Agent(daemon, "broken")
    path = daemon.profiles / "broken.yaml"
    path.write_text(f"name: broken\n{broken}\n" if broken else "")
    done = daemon.rictl("reload")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert said in done.stderr + done.stdout
    assert agent.do("connect", one.port) == 0
    assert not changes(daemon, agent.session)
    path.unlink()
    assert daemon.rictl("reload").returncode == 1  # there is no such profile
    assert agent.do("connect", one.port) == 0
    daemon.profile("broken", connects(one.port))
    agent.end()


def test_another_file_that_is_broken_holds_nothing_up(
    daemon: Daemon, servers: tuple[Server, Server]
) -> None:
    one, two = servers
    daemon.profile("fine", connects(one.port, two.port))
    agent = Agent(daemon, "fine")
    daemon.profile("fine", connects(one.port))
    bad = daemon.profiles / "bad.yaml"
    bad.write_text("name: [\n")
    try:
        done = daemon.rictl("reload")
        assert done.returncode == 1
        assert "bad.yaml:" in done.stderr
        assert any("bad.yaml:" in each for each in daemon.doctor()["problems"])
        assert agent.do("connect", two.port) == 1
        wait_until(lambda: "bad.yaml:" in daemon.log_text())
    finally:
        bad.unlink()
    agent.end()
    # Forgotten with the file, also where no session runs.
    daemon.settled()
    wait_until(lambda: not daemon.doctor()["problems"])


def test_listeners_go_with_their_rule_and_those_that_stay_do_not(daemon: Daemon) -> None:
    with serving() as one, serving() as two:
        ports = one.port, two.port
    both = f', bind: ["127.0.0.1:{ports[0]}", "127.0.0.1:{ports[1]}"]'
    daemon.profile("listens", connects(1, more=both))
    agent = Agent(daemon, "listens")
    import socket

    came = []
    for port in ports:
        assert agent.do("bind", port) == 0
        came.append(socket.create_connection(("127.0.0.1", port)))
        assert agent.do("accept", 0) == 0
    # kept: listener, accepted, listener, accepted
    daemon.profile("listens", connects(1, more=f', bind: ["127.0.0.1:{ports[0]}"]'))
    reloaded(daemon)
    wait_until(lambda: bool(changes(daemon, agent.session)))
    assert agent.do("use", 1) == 1
    assert agent.do("use", 3) < 0
    with socket.create_connection(("127.0.0.1", ports[0])):
        pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[1]))
    for each in came:
        each.close()
    agent.end()


def test_what_is_worn_stays_as_it_is(daemon: Daemon, user: User) -> None:
    secret = user.home / "secret"
    secret.write_text("x")
    secret.chmod(0o644)
    daemon.profile("worn", connects(1).replace('read: ["/**"]', 'read: ["/usr/**", "/lib/**"]'))
    agent = Agent(daemon, "worn")
    assert agent.do("read", secret) == 13
    daemon.profile("worn", connects(1))
    done = daemon.rictl("reload")
    assert "(new sessions only)" in done.stdout
    assert agent.do("read", secret) == 13
    again = Agent(daemon, "worn")
    assert again.do("read", secret) == 0
    agent.end()
    again.end()


def test_a_new_deny_is_taken_away_in_the_view(daemon: Daemon, user: User) -> None:
    secret, other = user.home / "kept", user.home / "other"
    for each in (secret, other):
        each.write_text("x")
        each.chmod(0o644)
    start = FILES.replace("execute", f'deny: ["{other}"], execute')
    daemon.profile("viewed", start)
    agent = Agent(daemon, "viewed")
    assert agent.do("read", secret) == 0
    daemon.profile("viewed", start.replace(f'"{other}"', f'"{other}", "{secret}"'))
    answer = reloaded(daemon)
    (mine,) = [each for each in answer["sessions"] if each["id"] == agent.session]
    assert mine["pending"] == []
    assert agent.do("read", secret) == 13
    agent.end()


def test_without_a_view_it_is_said_that_it_waits(daemon: Daemon, user: User) -> None:
    secret = user.home / "later"
    secret.write_text("x")
    secret.chmod(0o644)
    tight = connects(1).replace('"/**"', '"/usr/**", "/lib/**", "/lib64/**", "{home}/**"', 1)
    daemon.profile("viewless", tight)
    agent = Agent(daemon, "viewless")
    (daemon.profiles / "viewless.yaml").write_text(
        "name: viewless\n" + tight.replace("execute", f'deny: ["{secret}"], execute')
    )
    done = daemon.rictl("reload")
    assert f"! kept until it ends: viewless: files.deny: {secret}" in done.stdout
    assert changes(daemon, agent.session)[0]["pending"]
    agent.end()


def test_limits_follow(daemon: Daemon) -> None:
    daemon.profile("limited", connects(1) + "limits: {processes: 100, ttl: 8h}\n")
    agent = Agent(daemon, "limited")
    pids = daemon.cgroup(agent.session) / "pids.max"
    legacy = not pids.exists()
    (daemon.profiles / "limited.yaml").write_text(
        "name: limited\n" + connects(1) + "limits: {processes: 7, ttl: 3s}\n"
    )
    done = daemon.rictl("reload")
    assert done.returncode == 0, done.stderr
    if not legacy:
        assert pids.read_text().strip() == "7"
    wait_until(lambda: agent.process.poll() is not None, 8)
    assert "expired" in agent.end()


def test_a_grant_gives_no_more_than_it_did(
    daemon: Daemon, user: User, servers: tuple[Server, Server]
) -> None:
    one, two = servers
    rights = delegations_for(user)
    rights["delegations"][0]["delegate"] = {"max_ttl": "2h", "max_depth": 1}
    daemon.write(daemon.delegations, rights)
    daemon.profile("granted", connects(one.port))
    grant = user.home / "g.grant"
    made = daemon.rictl_as(
        user, "delegate", "--agent", "helper", "--profile", "granted", "--ttl", "1h"
    )
    assert made.returncode == 0, made.stderr
    grant.write_text(made.stdout)
    os.chown(grant, user.uid, user.gid)
    agent = Agent(daemon, None, "--grant", str(grant), "--agent", "helper")
    daemon.profile("granted", connects(one.port, two.port))
    reloaded(daemon)
    assert agent.do("connect", two.port) == 1
    assert agent.do("connect", one.port) == 0
    daemon.profile("granted", connects(two.port))
    reloaded(daemon)
    assert agent.do("connect", two.port) == 1
    assert agent.do("connect", one.port) == 1
    daemon.profile("granted", connects(one.port))
    reloaded(daemon)
    assert agent.do("connect", one.port) == 1
    agent.end()


def test_a_file_of_the_callers_own_is_left_alone(daemon: Daemon, user: User) -> None:
    file = user.home / "mine.yaml"
    with serving() as one:
        file.write_text("name: mine\n" + connects(one.port))
        os.chown(file, user.uid, user.gid)
        agent = Agent(daemon, str(file))
        daemon.profile("mine", connects(1))
        assert all(each["id"] != agent.session for each in reloaded(daemon)["sessions"])
        assert agent.do("connect", one.port) == 0
        agent.end()


def test_only_administrators_reload(daemon: Daemon, user: User) -> None:
    for arguments in (("reload",), ("profile", "diff")):
        done = daemon.rictl_as(user, *arguments)
        assert done.returncode == 1
        assert "only root" in done.stderr
    assert daemon.request("POST", "/v1/reload", {"what": 1})[0] == 400
    assert daemon.rictl("profile", "diff", "no-such-profile").returncode == 2


def test_many_sessions_follow(daemon: Daemon, servers: tuple[Server, Server]) -> None:
    one, two = servers
    daemon.profile("many", connects(one.port, two.port))
    agents = [Agent(daemon, "many") for _ in range(8)]
    for agent in agents:
        assert agent.do("connect", two.port) == 0
    daemon.profile("many", connects(one.port))
    began = time.monotonic()
    answer = reloaded(daemon)
    assert len([each for each in answer["sessions"] if each["profile"] == "many"]) in range(9)
    for agent in agents:
        assert agent.do("use", 0) < 0
        assert agent.do("connect", two.port) == 1
    assert time.monotonic() - began < 20
    for agent in agents:
        agent.end()

# SPDX-License-Identifier: Apache-2.0
"""rictl revoke: what a session feels, what its peers see, and that no restart gives it back."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import queue
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monitor.kernel.cgroup import Cgroup
from monitor.session.order import Order, Then
from monitor.session.registry import Registry
from monitor.session.session import Denial, State
from tests.support.checkout import ROOT
from tests.support.daemon import PYTHON, Daemon, User, delegations_for, wait_until

# Holds a TCP connection and a UDP socket open, and makes new ones in a loop; says what each came
# to when that changes.
AGENT = """
import errno, socket, sys, time
place = ("127.0.0.1", int(sys.argv[1]))
datagrams = ("127.0.0.1", int(sys.argv[2]))
tcp = socket.create_connection(("127.0.0.1", int(sys.argv[3])))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(datagrams)
spare = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
said = {}
def attempt(what, action):
    try:
        action()
        outcome = "ok"
    except OSError as error:
        outcome = errno.errorcode[error.errno]
    if said.get(what) != outcome:
        said[what] = outcome
        print(what, outcome, flush=True)
while True:
    attempt("connect", lambda: socket.create_connection(place, 5).close())
    attempt("tcp", lambda: tcp.send(b"tcp", socket.MSG_DONTWAIT))
    attempt("udp", lambda: udp.send(b"udp"))
    attempt("sendto", lambda: spare.sendto(b"sendto", datagrams))
    attempt("file", lambda: open("/etc/hostname").close())
    time.sleep(0.001)
"""


Idle = Callable[..., str]


class Peer:
    """The other end, outside of all sessions."""

    def __init__(self) -> None:
        self.door = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.tcp = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._welcome, daemon=True).start()
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.udp.settimeout(0.2)

    def _welcome(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.door.accept()[0].close()

    @property
    def ports(self) -> list[str]:
        return [str(each.getsockname()[1]) for each in (self.door, self.udp, self.tcp)]

    def silent(self) -> bool:
        """Whether no datagram comes any more, once what was on its way has been read."""
        with contextlib.suppress(TimeoutError):
            for _ in range(100_000):
                self.udp.recv(100)
            return False
        return True

    def close(self) -> None:
        self.door.shutdown(socket.SHUT_RDWR)  # the thread waits in it
        for each in (self.door, self.tcp, self.udp):
            each.close()


class Agent:
    """One that talks to a peer all the time."""

    def __init__(self, daemon: Daemon, peer: Peer, *options: str, profile: str | None) -> None:
        command = ["/usr/bin/python3", "-I", "-c", AGENT, *peer.ports]
        self.process = daemon.spawn(profile, command, *options)
        self.lines: queue.Queue[str] = queue.Queue()
        self._seen: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        # The first that it connects is the one that it keeps.
        peer.tcp.settimeout(30)
        self.kept = peer.tcp.accept()[0]
        self.session = str(daemon.launched(self.process)["id"])
        self.saw("connect ok")

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # closed by `communicate`
            for line in self.process.stdout:
                self.lines.put(line.strip())

    def saw(self, line: str) -> None:
        """Wait until it says so."""
        while line not in self._seen:
            try:
                self._seen.append(self.lines.get(timeout=10))
            except queue.Empty:
                pytest.fail(f"it never said {line!r}: {self._seen}, {self.process.poll()}")

    def end_of_kept(self) -> int:
        """The errno that the kept connection ends with at the peer; 0: closed."""
        self.kept.settimeout(10)
        try:
            while self.kept.recv(1 << 16):
                pass
        except OSError as error:
            return error.errno or -1
        return 0

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        for each in (self.process.stdout, self.process.stderr, self.kept):
            assert each is not None
            each.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def daemon(user: User, stranger: User) -> Iterator[Daemon]:
    made = Daemon(user)
    rights = delegations_for(user)
    rights["delegations"][0]["delegate"] = {"max_ttl": "2h", "max_depth": 2}
    rights["delegations"] += delegations_for(stranger)["delegations"]
    made.write(made.delegations, rights)
    made.profile("still", "include: [base]\n")
    made.profile(
        "talks",
        "include: [base]\nfiles: {read: [/etc/hostname]}\n"
        "network: {connect: ['127.0.0.1:*', '127.0.0.1:*/udp']}\n",
    )
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def start(daemon: Daemon, peer: Peer) -> Iterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def starts(*options: str, profile: str | None = "talks") -> Agent:
        made.append(Agent(daemon, peer, *options, profile=profile))
        return made[-1]

    yield starts
    for each in made:
        each.stop()
    daemon.settled()


@pytest.fixture
def idle(daemon: Daemon) -> Iterator[Idle]:
    """Starts sessions that only run; gives their ids."""
    made: list[subprocess.Popen[str]] = []
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def starts(*options: str, user: User | None = None) -> str:
        profile = None if "--grant" in options else "still"
        made.append(daemon.spawn(profile, ["sleep", "60"], *options, user=user, **quiet))
        return str(daemon.launched(made[-1])["id"])

    yield starts
    for process in made:
        process.kill()
        process.wait()
    daemon.settled()


def delegate(daemon: Daemon, user: User, *options: str) -> Path:
    file = user.home / f"{time.monotonic_ns()}.grant"
    done = daemon.rictl_as(user, "delegate", *options, "--out", str(file))
    assert done.returncode == 0, done.stderr
    return file


def running(daemon: Daemon) -> set[str]:
    return {each["id"] for each in daemon.sessions()}


def states(daemon: Daemon, session: str) -> list[str]:
    return [each["object"] for each in daemon.records(session=session, verb="session.state")]


# -- what it does ---------------------------------------------------------------------------------


def test_denied_for_good(daemon: Daemon, peer: Peer, start: Callable[..., Agent]) -> None:
    agent, other = start(), start()
    done = daemon.rictl("revoke", agent.session[-12:], "--then", "deny", "--why", "no more")
    assert done.returncode == 0, done.stderr
    assert f"revoked session {agent.session}: 1 session denied everything" in done.stdout
    # What was open is cut: here, and for the peer. What is new is refused.
    assert agent.end_of_kept() == errno.ECONNRESET
    for line in ("connect EPERM", "tcp ECONNABORTED", "udp EDESTADDRREQ"):
        agent.saw(line)
    # The spare socket was cut too; from then on the program says EPERM.
    agent.saw("sendto EPERM")
    assert "file EACCES" not in agent._seen
    (session,) = [each for each in daemon.sessions() if each["id"] == agent.session]
    assert (session["state"], session["denied"]) == ("running", "revoked")
    assert session["why"] == "revoked by user:root: no more"
    assert "revoked" in daemon.rictl("ps").stdout
    assert agent.process.poll() is None
    # The other one goes on.
    other.kept.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while other.kept.recv(1 << 16):
            pass
    assert select.select([other.kept], [], [], 5)[0]
    other.stop()
    assert peer.silent()
    (record,) = daemon.records(session=agent.session, verb="session.state")
    assert (record["object"], record["verdict"], record["reason"]) == ("revoked", "kill", "no more")
    details = daemon.details(record["id"])
    assert (details["by"], details["then"]) == ("user:root", "deny")
    assert set(details["since_receipt"]) == {"deny", "freeze", "cut"}
    denied = daemon.records(session=agent.session, verb="net.connect", verdict="deny")
    denied += daemon.records(session=agent.session, verb="net.socket", verdict="deny")
    assert {each["reason"] for each in denied} == {"the session's authority was revoked"}


def test_nothing_gives_it_back(daemon: Daemon, start: Callable[..., Agent], peer: Peer) -> None:
    agent = start()
    assert daemon.rictl("revoke", agent.session, "--then", "deny").returncode == 0
    agent.saw("sendto EPERM")
    thawed = daemon.rictl("thaw", agent.session)
    assert thawed.returncode == 1, thawed
    for verb in ("freeze", "thaw"):
        assert daemon.rictl(verb, agent.session).returncode == 0
    daemon.restart_worker()
    for verb in ("freeze", "thaw"):
        assert daemon.rictl(verb, agent.session).returncode == 0
    (session,) = daemon.sessions()
    assert (session["state"], session["denied"]) == ("running", "revoked")
    before = len(agent._seen) + agent.lines.qsize()
    assert peer.silent()
    # It has been trying all the while.
    denied = daemon.records(session=agent.session, verdict="deny")[-1]["count"]
    assert denied > 0
    agent._seen += [agent.lines.get_nowait() for _ in range(agent.lines.qsize())]
    assert len(agent._seen) == before
    assert not {"connect ok", "sendto ok"} & set(agent._seen[agent._seen.index("sendto EPERM") :])
    # And it can still be ended.
    assert daemon.rictl("revoke", agent.session).returncode == 0
    assert daemon.sessions() == []


def test_killed_leaves_nothing(daemon: Daemon, start: Callable[..., Agent]) -> None:
    agents = [start() for _ in range(3)]
    done = daemon.rictl("revoke", f"user:{daemon.user.name}", "--why", "over")
    assert done.returncode == 0, done.stderr
    assert "3 sessions killed" in done.stdout
    assert daemon.sessions() == []
    for agent in agents:
        assert agent.end_of_kept() == errno.ECONNRESET
        assert agent.process.stderr is not None
        errors = agent.process.stderr.read()
        assert "the session ends: revoked by user:root: over" in errors
        assert not daemon.cgroup(agent.session).exists()
        assert states(daemon, agent.session) == ["revoked"]
        (end,) = daemon.records(session=agent.session, verb="session.end")
        assert end["object"] == "revoked by user:root: over"


def test_one_that_a_person_froze_stays_frozen(daemon: Daemon, start: Callable[..., Agent]) -> None:
    agent = start()
    assert daemon.rictl("freeze", agent.session).returncode == 0
    assert daemon.rictl("revoke", agent.session, "--then", "deny").returncode == 0
    assert Cgroup(daemon.cgroup(agent.session)).frozen()
    (session,) = daemon.sessions()
    assert (session["state"], session["denied"]) == ("frozen", "revoked")
    assert "frozen, revoked" in daemon.rictl("ps").stdout
    assert daemon.rictl("thaw", agent.session).returncode == 0
    agent.saw("connect EPERM")


def test_latencies_are_reported(daemon: Daemon, start: Callable[..., Agent]) -> None:
    sessions = {start().session for _ in range(4)}
    body = {"what": f"user:{daemon.user.name}", "then": "deny"}
    status, answer = daemon.request("POST", "/v1/revoke", body)
    assert status == 200, answer
    assert [each["name"] for each in answer["steps"]] == ["deny", "freeze", "cut", "thaw"]
    since = [each["since"] for each in answer["steps"]]
    assert since == sorted(since)
    assert {each["id"] for each in answer["sessions"]} == sessions
    assert answer["sockets"] >= 3 * len(sessions)
    assert answer["problems"] == []
    # All are denied before the first is waited for.
    denied = max(each["since_receipt"]["deny"] for each in answer["sessions"])
    assert denied <= min(each["since_receipt"]["freeze"] for each in answer["sessions"])


# -- from whom ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["session", "end of its id", "agent", "agent's id", "user"])
def test_each_kind_of_reference(
    daemon: Daemon, idle: Idle, user: User, stranger: User, kind: str
) -> None:
    mine = [idle("--agent", "demo/coder") for _ in range(2)]
    theirs = idle("--agent", "demo/coder", user=stranger)
    other = idle("--agent", "demo/tester", user=stranger)
    named, ended = {
        "session": (mine[0], {mine[0]}),
        "end of its id": (mine[0][-8:], {mine[0]}),
        "agent": ("demo/coder", {*mine, theirs}),
        "agent's id": ("spiffe://test.example/agent/demo/coder", {*mine, theirs}),
        "user": (f"user:{user.name}", {*mine}),
    }[kind]
    done = daemon.rictl("revoke", named)
    assert done.returncode == 0, done.stderr
    assert running(daemon) == {*mine, theirs, other} - ended
    for session in ended:
        assert session in done.stdout
    daemon.rictl("revoke", f"user:{user.name}")
    assert daemon.rictl("revoke", f"user:{stranger.name}").returncode == 0
    assert running(daemon) == set()


@pytest.mark.parametrize("kind", ["file", "id", "grant revoke"])
def test_a_grant_and_all_that_was_made_of_it(
    daemon: Daemon, idle: Idle, user: User, kind: str
) -> None:
    parent = delegate(daemon, user, "--agent", "coder", "--profile", "still", "--depth", "2")
    narrow = ("--from", str(parent), "--config", str(daemon.config), "--agent", "tester")
    child = delegate(daemon, user, *narrow)
    sibling = delegate(daemon, user, *narrow)
    sessions = [idle("--grant", str(file)) for file in (child, sibling)]
    own = idle()
    command = ["grant", "revoke"] if kind == "grant revoke" else ["revoke"]
    named = str(child)
    if kind == "id":
        shown = daemon.rictl_as(user, "grant", "show", str(child)).stdout
        named = shown.splitlines()[-1].split()[-1]
    done = daemon.rictl_as(user, *command, named, "--why", "enough")
    assert done.returncode == 0, done.stderr
    assert "1 session killed" in done.stdout
    assert running(daemon) == {sessions[1], own}
    (record,) = daemon.records(verb="grant.revoke")[-1:]
    assert (record["reason"], daemon.details(record["id"])["by"]) == ("enough", f"user:{user.name}")
    # The outermost link, by its file's name alone.
    assert daemon.rictl_as(user, "revoke", parent.name).returncode == 0
    assert running(daemon) == {own}
    assert daemon.exec(None, ["true"], "--grant", str(sibling)).returncode == 125
    assert daemon.rictl("revoke", own).returncode == 0


def test_an_agent_takes_its_grants_with_it(daemon: Daemon, idle: Idle, user: User) -> None:
    parent = delegate(daemon, user, "--agent", "coder", "--profile", "still", "--depth", "1")
    narrow = ("--from", str(parent), "--config", str(daemon.config), "--agent", "tester")
    child = delegate(daemon, user, *narrow)
    sessions = [idle("--grant", str(file)) for file in (parent, child)]
    # The agent at the end of a chain, and not the one who passed on to it.
    done = daemon.rictl("revoke", "tester")
    assert "1 session killed, 0 sockets cut, 1 grant taken back" in done.stdout
    assert running(daemon) == {sessions[0]}
    assert daemon.exec(None, ["true"], "--grant", str(child)).returncode == 125
    assert daemon.exec(None, ["true"], "--grant", str(parent)).returncode == 0
    # The agent that passed on: all of it.
    again = delegate(daemon, user, *narrow)
    wait_until(lambda: running(daemon) == {sessions[0]})
    idle("--grant", str(again))
    done = daemon.rictl("revoke", "coder")
    assert "2 sessions killed" in done.stdout
    for file in (parent, again):
        assert "was revoked" in daemon.exec(None, ["true"], "--grant", str(file)).stderr


def test_what_cannot_be_meant(daemon: Daemon, idle: Idle, user: User) -> None:
    session = idle("--agent", "demo/coder")
    other = idle("--agent", session[-8:])

    def said(*arguments: str) -> str:
        done = daemon.rictl("revoke", *arguments)
        assert (done.returncode, done.stdout) == (1, ""), done
        return done.stderr

    assert "nobody/at-all is no live session, and no agent has one" in said("nobody/at-all")
    assert "user:nobody-here has no live session" in said("user:nobody-here")
    assert "has no live session" in said("spiffe://test.example/agent/other")
    assert f"names an agent (spiffe://test.example/agent/{session[-8:]})" in said(session[-8:])
    assert "2 sessions answer to" in said(os.path.commonprefix([session, other]))
    assert "cannot read coder.grant" in said("./coder.grant")
    assert "cannot read coder.grant" in said("coder.grant")
    status, answer = daemon.request("POST", "/v1/revoke", {"what": session, "then": "forget"})
    assert (status, answer["error"]) == (400, "then is kill or deny")
    assert daemon.request("POST", "/v1/revoke", {})[0] == 400
    assert daemon.request("POST", "/v1/revoke", {"grant": "x"})[0] == 400
    assert daemon.request("POST", "/v1/revoke", {"what": session, "hm": "x"})[0] == 400
    assert running(daemon) == {session, other}
    assert daemon.rictl("revoke", f"user:{user.name}").returncode == 0
    assert f"session {session} has ended" in said(session)


def test_a_file_that_is_called_like_an_agent(daemon: Daemon, idle: Idle, user: User) -> None:
    session = idle("--agent", "coder")
    file = delegate(daemon, user, "--agent", "tester", "--profile", "still")
    file = file.rename(user.home / "coder")
    done = daemon.rictl_as(user, "revoke", "coder")
    assert done.returncode == 1
    assert "coder is a grant's file and names a agent" in done.stderr
    assert running(daemon) == {session}
    assert daemon.exec(None, ["true"], "--grant", str(file)).returncode == 0
    assert daemon.rictl_as(user, "revoke", "./coder").returncode == 0
    assert running(daemon) == {session}
    assert "was revoked" in daemon.exec(None, ["true"], "--grant", str(file)).stderr
    file.unlink()
    assert daemon.rictl_as(user, "revoke", "coder").returncode == 0
    assert running(daemon) == set()


def test_who_may(daemon: Daemon, idle: Idle, user: User, stranger: User) -> None:
    file = delegate(daemon, user, "--agent", "coder", "--profile", "still")
    mine, theirs = idle("--grant", str(file)), idle(user=stranger)
    link = daemon.rictl_as(user, "grant", "show", str(file)).stdout.splitlines()[-1].split()[-1]
    stolen = stranger.home / "stolen.grant"
    stolen.write_text(file.read_text())
    stolen.chmod(0o644)
    for named, words in (
        (mine, "is no live session"),
        ("coder", "is no live session"),
        ("spiffe://test.example/agent/coder", "has no live session"),
        (f"user:{user.name}", f"only user:{user.name} and administrators"),
        (link, "only administrators may revoke by an id"),
        (str(stolen), "only who delegated, and administrators"),
    ):
        done = daemon.rictl_as(stranger, "revoke", named)
        assert (done.returncode, done.stdout) == (1, ""), named
        assert words in done.stderr
    assert running(daemon) == {mine, theirs}
    assert daemon.rictl_as(stranger, "revoke", f"user:{stranger.name}").returncode == 0
    assert running(daemon) == {mine}
    assert daemon.rictl_as(user, "revoke", link).returncode == 0
    assert running(daemon) == set()


# -- a worker that dies in the middle -------------------------------------------------------------


def begun(daemon: Daemon, session: str, then: Then, *, freeze: bool) -> None:
    """What a worker leaves that was killed after it had written down what it was told."""
    registry = Registry(daemon.state / "state.db")
    found = registry.get(session)
    order = Order((session,), ("ab" * 64,), then, "user:somebody", "half done")
    changed = (
        found.to(State.ENDING, why=order.reason)
        if then is Then.KILL
        else replace(found, denied=Denial.REVOKED, why=order.reason)
    )
    assert registry.begin_revocation(order, [changed])
    registry.close()
    if freeze:
        Cgroup(daemon.cgroup(session)).freeze()


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("then", Then)
def test_what_was_begun_is_finished(
    daemon: Daemon, start: Callable[..., Agent], then: Then, freeze: bool
) -> None:
    agent = start()
    with daemon.without_worker():
        begun(daemon, agent.session, then, freeze=freeze)
    assert agent.end_of_kept() == errno.ECONNRESET
    if then is Then.DENY:
        agent.saw("connect EPERM")
        agent.saw("sendto EPERM")
        wait_until(lambda: not Cgroup(daemon.cgroup(agent.session)).freezing())
        (session,) = daemon.sessions()
        assert (session["state"], session["hold"]) == ("running", None)
    else:
        daemon.settled()
    wait_until(lambda: states(daemon, agent.session) == ["revoked"])
    (record,) = daemon.records(session=agent.session, verb="session.state")
    details = daemon.details(record["id"])
    assert (details["by"], details["why"], details["resumed"]) == (
        "user:somebody",
        "half done",
        True,
    )
    registry = Registry(daemon.state / "state.db")
    assert registry.ledger.revoked("ab" * 64)
    wait_until(lambda: not registry.revocations())
    registry.close()


@pytest.mark.parametrize("then", ["kill", "deny"])
def test_killed_at_any_moment(daemon: Daemon, idle: Idle, user: User, then: str) -> None:
    """All or nothing: and what was begun is the same in the end as if nothing had happened."""
    for delay in (0.001, 0.003, 0.006, 0.015):
        sessions = {idle() for _ in range(4)}
        dead = daemon.worker_pid()

        def ask() -> None:
            body: dict[str, Any] = {"what": f"user:{user.name}", "then": then}
            with contextlib.suppress(OSError, http.client.HTTPException):
                daemon.request("POST", "/v1/revoke", body)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(delay)
        os.kill(dead, signal.SIGKILL)
        asking.join()
        daemon.wait_for_worker(dead)
        registry = Registry(daemon.state / "state.db")
        wait_until(lambda: not registry.revocations())  # noqa: B023
        registry.close()
        if then == "kill":
            wait_until(lambda: running(daemon) in (set(), sessions))  # noqa: B023
        else:
            live = daemon.sessions()
            assert {each["id"] for each in live} == sessions
            assert len({each["denied"] for each in live}) == 1
            for each in live:
                assert each["state"] == "running"
                assert not Cgroup(daemon.cgroup(each["id"])).freezing()
        if running(daemon):
            assert daemon.rictl("revoke", f"user:{user.name}").returncode == 0
        daemon.settled()
        for session in sessions:
            assert "revoked" in states(daemon, session)


def test_a_row_found_denied_stays_so(daemon: Daemon, start: Callable[..., Agent]) -> None:
    """The database could not be written when it was revoked: the kernel's word counts."""
    from monitor.daemon.ending import refuse
    from monitor.daemon.probes.tables import KernelTables

    agent = start()
    with daemon.without_worker():
        tables = KernelTables(daemon.instance)
        tables.open()
        registry = Registry(daemon.state / "state.db")
        refuse(registry.get(agent.session), tables)
        registry.close()
        tables.close()
    agent.saw("connect EPERM")
    (session,) = daemon.sessions()
    assert session["denied"] == "revoked"
    assert session["why"] == "found denied everything after a restart"


# -- the README -----------------------------------------------------------------------------------


def test_the_session_of_the_readme(daemon: Daemon, user: User) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Take it back")[2]
    lines = [line[2:] for line in text.split("```")[1].splitlines()[1:]]
    folder = daemon.folder / "bin"
    folder.mkdir()
    launcher = ROOT / "monitor" / "launch" / "ri_exec.py"
    for name, command in (
        ("rictl", f"{PYTHON} -m monitor.cli.rictl"),
        ("ri-exec", f"/usr/bin/python3 -I -S {launcher}"),
    ):
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)

    def typed(line: str) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", line],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            cwd=user.home,
            env=daemon.environment(user)
            | {"PATH": f"{folder}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
            user=user.uid,
            group=user.gid,
            extra_groups=[],
        )
        assert done.returncode == 0, (line, done.stdout)
        return done.stdout

    for line in lines[:2]:
        typed(f"{line.removesuffix('&')} >/dev/null 2>&1 &")
    wait_until(lambda: [each["state"] for each in daemon.sessions()] == ["running"] * 2)
    tree, revoked, listed, over, log = [typed(line) for line in lines[2:]]
    names = [line.strip() for line in tree.splitlines() if "running" not in line]
    assert names == [f"user:{user.name}", "coder", "tester"]
    assert "1 session denied everything" in revoked
    assert "done since receipt: deny " in revoked
    assert "revoked" in listed
    assert "2 sessions killed" in over
    assert log.count("what is it sending?") == 1
    assert log.count("enough for today") == 2
    daemon.settled()

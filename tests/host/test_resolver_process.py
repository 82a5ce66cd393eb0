# SPDX-License-Identifier: Apache-2.0
"""The resolver's own process: what it says to the daemon, and what its death leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dns.message
import pytest

from monitor.daemon.resolver import channel
from monitor.daemon.resolver.listening import listen
from monitor.kernel.cgroup import Cgroup
from monitor.resolver.names import parse
from tests.support.checkout import ROOT
from tests.support.dns import NameServer, question
from tests.support.dns_redirect import Redirect
from tests.support.probes import inside

NAME, PUBLIC = "api.example.org", "93.184.216.34"
SERVER = "192.0.2.53"


@pytest.fixture(scope="module")
def redirect() -> Iterator[Redirect]:
    made = Redirect()
    yield made
    made.clean()


@pytest.fixture(scope="module")
def upstream() -> Iterator[NameServer]:
    made = NameServer()
    made.add(NAME, f"A {PUBLIC}", ttl=0)
    yield made
    made.close()


class Sockets:
    """What outlives the resolver's process: its sockets."""

    def __init__(self, redirect: Redirect) -> None:
        self.all = [*listen("127.0.0.1"), *listen("::1")]
        redirect.to(self.all[0].getsockname()[1], self.all[2].getsockname()[1])

    def close(self) -> None:
        for each in self.all:
            each.close()


@pytest.fixture
def sockets(redirect: Redirect) -> Iterator[Sockets]:
    made = Sockets(redirect)
    yield made
    redirect.to(0, 0)
    made.close()


class Process:
    """A resolver's process, and this test as its daemon, which allows what `verdict` says."""

    def __init__(self, redirect: Redirect, sockets: Sockets, *options: str) -> None:
        self.said: list[dict[str, Any]] = []
        self.verdict: Callable[[dict[str, Any]], str | None] = lambda _message: None
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.prepare(self.control)
        flows = redirect._module["flows"].map_fd
        listening = [str(each.fileno()) for each in sockets.all]
        command = [
            *(sys.executable, "-P", "-m", "monitor.daemon.resolver.process"),
            *("--control", str(theirs.fileno()), "--flows", str(flows)),
            *("--listen", *listening, *options),
        ]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno(), flows, *map(int, listening)],
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = self.control.recv(channel.LARGEST)
            except OSError:
                return
            if not data:
                return
            message = channel.decode(data)
            self.said.append(message)
            if message["say"] == "allow":
                error = self.verdict(message)
                with suppress(OSError):  # the test is over
                    self.say(do="answer", number=message["number"], error=error)

    def say(self, **message: Any) -> None:
        self.control.send(json.dumps(message).encode())

    def govern(self, session: str, cgroup: Cgroup, *rules: str) -> None:
        links = [[parse(rule, 7) for rule in rules]]
        self.say(**channel.session_message(session, cgroup.id, links))

    def heard(self, what: str) -> list[dict[str, Any]]:
        return [each for each in self.said if each["say"] == what]

    def close(self) -> None:
        self.control.shutdown(socket.SHUT_RDWR)
        assert self.process.wait(5) in {0, -signal.SIGKILL}
        self.control.close()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self._reader.join(5)


@contextmanager
def process(redirect: Redirect, sockets: Sockets, upstream: NameServer) -> Iterator[Process]:
    made = Process(redirect, sockets, "--upstream", f"127.0.0.1:{upstream.port}")
    try:
        yield made
    finally:
        made.close()


def ask(name: str = NAME, seconds: float = 4.0) -> list[str] | str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(seconds)
        asking.connect((SERVER, 53))
        asking.send(question(name))
        try:
            reply = dns.message.from_wire(asking.recv(4096))
        except TimeoutError:
            return "nothing"
    return [each.to_text() for part in reply.answer for each in part] or reply.rcode().name


def test_addresses_are_allowed_before_they_are_told(
    redirect: Redirect, sockets: Sockets, upstream: NameServer
) -> None:
    session = redirect.session()
    with process(redirect, sockets, upstream) as running:
        running.govern("s-1", session, f"{NAME}:443,80-81")
        running.say(do="start")
        assert inside(session, ask) == [PUBLIC]
        allow = running.heard("allow")[0]
        assert (allow["session"], allow["name"]) == ("s-1", NAME)
        assert allow["groups"][0]["addresses"] == [PUBLIC]
        assert allow["groups"][0]["ports"] == [[6, [[80, 81], [443, 443]]]]
        rules = [
            [channel.rule_from_json(each) for each in link] for link in allow["groups"][0]["links"]
        ]
        assert rules == [[parse(f"{NAME}:443,80-81", 7)]]

        running.verdict = lambda _message: "the table is full"
        assert inside(session, ask) == "SERVFAIL"
        running.verdict = lambda _message: None
        assert inside(session, ask) == [PUBLIC]
        assert inside(session, lambda: ask("evil.example")) == "NXDOMAIN"
        running.say(do="end", session="s-1")
        assert inside(session, lambda: ask(seconds=0.5)) == "nothing"
        causes = [each["cause"] for each in running.heard("record")]
        assert causes == [None, "tables", None, "unlisted", "unlisted"]


def test_a_daemon_that_says_nothing_is_not_a_yes(
    redirect: Redirect, sockets: Sockets, upstream: NameServer
) -> None:
    session = redirect.session()
    with process(redirect, sockets, upstream) as running:
        running.govern("s-1", session, f"{NAME}:443")
        running.say(do="start")
        running.verdict = lambda _message: time.sleep(3.3)
        began = time.monotonic()
        assert inside(session, ask) in {"SERVFAIL", "nothing"}
        assert time.monotonic() - began < 5


def test_new_rules_of_a_session(redirect: Redirect, sockets: Sockets, upstream: NameServer) -> None:
    session = redirect.session()
    with process(redirect, sockets, upstream) as running:
        running.govern("s-1", session, "other.example:443")
        running.say(do="start")
        assert inside(session, ask) == "NXDOMAIN"
        running.govern("s-1", session, f"{NAME}:443")
        assert inside(session, ask) == [PUBLIC]
        many = [f"n{number}.example.org:443" for number in range(5000)]
        running.govern("s-1", session, *many)
        assert inside(session, ask) == "NXDOMAIN"


def test_questions_wait_for_the_next_process(
    redirect: Redirect, sockets: Sockets, upstream: NameServer
) -> None:
    session = redirect.session()
    with process(redirect, sockets, upstream) as running:
        running.govern("s-1", session, f"{NAME}:443")
        running.say(do="start")
        assert inside(session, ask) == [PUBLIC]
        running.process.kill()
        running.process.wait(5)
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(inside(session, ask)))
    waiting.start()
    time.sleep(0.3)
    with process(redirect, sockets, upstream) as running:
        time.sleep(0.7)  # until it runs; without the session it would answer nothing
        assert not running.said
        running.govern("s-1", session, f"{NAME}:443")
        running.say(do="start")
        waiting.join(3)
        assert answers == [[PUBLIC]]


def test_resolv_conf_is_followed(
    redirect: Redirect, sockets: Sockets, upstream: NameServer, tmp_path: Path
) -> None:
    session = redirect.session()
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 127.0.0.1\nsearch corp.example\n")
    running = Process(redirect, sockets, "--resolv-conf", str(path))
    try:
        running.govern("s-1", session, f"{NAME}:443")
        running.say(do="start")
        assert inside(session, lambda: ask(f"{NAME}.corp.example")) == "NXDOMAIN"
        path.write_text("nameserver 127.0.0.1\nsearch lab.example\n")
        time.sleep(2.5)
        assert inside(session, lambda: ask(f"{NAME}.lab.example")) == "NXDOMAIN"
        assert [each["cause"] for each in running.heard("record")] == ["search domain"] * 2
    finally:
        running.close()


def test_it_runs_as_somebody_who_may_do_nothing(
    redirect: Redirect, sockets: Sockets, upstream: NameServer
) -> None:
    session = redirect.session()
    server = f"127.0.0.1:{upstream.port}"
    running = Process(redirect, sockets, "--upstream", server, "--user", "65534:65534")
    try:
        running.govern("s-1", session, f"{NAME}:443")
        running.say(do="start")
        assert inside(session, ask) == [PUBLIC]
        path = Path(f"/proc/{running.process.pid}/status")
        status = dict(line.split(":\t", 1) for line in path.read_text().splitlines())
        assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
        assert (status["Groups"].split(), status["NoNewPrivs"]) == ([], "1")
        assert {status[each] for each in ("CapPrm", "CapEff", "CapInh")} == {"0" * 16}
    finally:
        running.close()


def test_it_dies_with_the_daemon(redirect: Redirect, sockets: Sockets) -> None:
    """Its parent is killed, while the channel is held by somebody else as well."""
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    flows = redirect._module["flows"].map_fd
    fds = [theirs.fileno(), flows, sockets.all[0].fileno()]
    for fd in fds:
        os.set_inheritable(fd, True)
    starter = (
        "import subprocess, sys, time\n"
        "process = subprocess.Popen(sys.argv[1:], close_fds=False)\n"
        "print(process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    resolver = [
        *(sys.executable, "-P", "-m", "monitor.daemon.resolver.process"),
        *("--control", str(fds[0]), "--flows", str(flows), "--listen", str(fds[2])),
        *("--user", "65534:65534"),
    ]
    with subprocess.Popen(
        [sys.executable, "-c", starter, *resolver],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=fds,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(1)
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
        end = time.monotonic() + 5
        while Path(f"/proc/{pid}/exe").is_symlink() and time.monotonic() < end:
            time.sleep(0.02)
        gone = not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text()
        assert gone
    for fd in fds:
        os.set_inheritable(fd, False)
    mine.close()
    theirs.close()


def test_what_cannot_be_obeyed_ends_it(redirect: Redirect, sockets: Sockets) -> None:
    """It would go on with half of the rules; the next one is told them all."""
    running = Process(redirect, sockets)
    running.say(do="session", session="s-1", cgroup=5, links=[[["a.b", "sideways", [], 6, 0, 0]]])
    assert running.process.wait(5) == 0
    assert running.process.stderr is not None
    said = running.process.stderr.read()
    assert said.startswith("resolver: cannot obey ")
    assert "Traceback" not in said
    running.process.stderr.close()
    running.control.close()


def test_wrong_options_are_said_in_one_line(redirect: Redirect, sockets: Sockets) -> None:
    running = Process(redirect, sockets, "--upstream", "dns.example")
    assert running.process.wait(5) == 1
    assert running.process.stderr is not None
    said = running.process.stderr.read()
    assert said == "resolver: 'dns.example' names no server: 'dns.example' is not an address\n"
    running.process.stderr.close()
    running.control.close()

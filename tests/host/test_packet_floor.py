# SPDX-License-Identifier: Apache-2.0
"""Packet rules of real sessions: alone, without the cgroup programs, through all that changes."""

from __future__ import annotations

import errno
import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nftables
import pytest

from monitor.daemon.packets import base
from monitor.daemon.probes import pins
from tests.support.daemon import Daemon, User, wait_until
from tests.support.network import ALLOWED4, ALLOWED6, DENIED4, DENIED6, HERE4, Network

SECONDS = 30.0
REFUSED, CLOSED = errno.EPERM, errno.ECONNREFUSED
# Tries each line `KIND ADDRESS PORT` of its input, and prints the error number.
AGENT = """
import socket, sys
print("ready", flush=True)
for line in sys.stdin:
    kind, address, port = line.split()
    if kind == "open":
        open(address).close()
        print(0, flush=True)
        continue
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.SOCK_DGRAM if kind == "send" else socket.SOCK_STREAM
    with socket.socket(family, made) as sock:
        sock.settimeout(5)
        try:
            if kind == "send":
                sock.sendto(b"x", (address, int(port)))
                number = 0
            else:
                number = sock.connect_ex((address, int(port)))
        except OSError as error:
            number = error.errno or -1
        print(number, flush=True)
"""
LISTENER = """
import socket, sys
sock = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    sock.accept()[0].close()
"""
PROFILE = f"""\
include: [base]
files: {{read: ["{{workspace}}/**"]}}
network:
  connect: ["{ALLOWED4}:53/udp", "[{ALLOWED6}]:53/udp", "{ALLOWED4}:443"]
"""
LABEL = """\
labels:
  seen:
    files: ["{workspace}/secret"]
    then: {network: {only: []}}
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def daemon(network: Network, make_daemon: Callable[..., Daemon]) -> Daemon:
    made = make_daemon()
    made.start()
    return made


class Agent:
    """A session that does as it is told."""

    def __init__(self, daemon: Daemon, profile: str, *options: str, **more: Any) -> None:
        self._daemon = daemon
        command = ["/usr/bin/python3", "-I", "-S", "-u", "-c", AGENT]
        self.process = daemon.spawn(profile, command, *options, stdin=subprocess.PIPE, **more)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", self.process.communicate()
        self.session = daemon.launched(self.process)["id"]

    def does(self, kind: str, address: str, port: int = 53) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(kind, address, port, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def reaches(self) -> tuple[int, ...]:
        """What sending to the allowed and the denied addresses answers."""
        return tuple(self.does("send", each) for each in (ALLOWED4, ALLOWED6, DENIED4, DENIED6))

    def end(self) -> dict[str, Any]:
        """End it; the details of its last record."""
        self.process.communicate(timeout=60)
        found: list[dict[str, Any]] = []

        def told() -> bool:
            found[:] = self._daemon.records(session=self.session, verb="session.end")
            return bool(found)

        wait_until(told, SECONDS)
        return self._daemon.details(found[0]["id"])


HELD = (0, 0, REFUSED, REFUSED)
SHUT = (REFUSED,) * 4


def take_programs_away(daemon: Daemon) -> None:
    """Detach the instance's cgroup programs: with its pin a link goes."""
    for link in pins.current(daemon.instance).glob("link_ri_*"):
        kinds = ("connect", "sendmsg", "egress", "socket", "bind", "recvmsg", "getpeername")
        if link.name.removeprefix("link_ri_").startswith(kinds):
            link.unlink()


def table(daemon: Daemon) -> str:
    name = base.table_name(daemon.instance)
    done = subprocess.run(["nft", "list", "table", "inet", name], capture_output=True, text=True)
    return done.stdout


def test_a_session_is_held_and_counted(daemon: Daemon) -> None:
    agent = Agent(daemon, daemon.profile("p", PROFILE))
    (launch,) = daemon.records(session=agent.session, verb="session.launch")
    assert daemon.details(launch["id"])["missing"] == []
    assert agent.reaches() == HELD
    assert agent.does("connect", ALLOWED4, 443) == CLOSED
    counted = agent.end()["packets"]
    # Two datagrams of one byte, and a SYN; the programs refused the rest before it was a packet.
    assert counted["sent"] == 3
    assert counted["sent_bytes"] >= 20 + 8 + 1 + 40 + 8 + 1 + 40
    assert (counted["refused"], counted["turned"]) == (0, 0)
    assert agent.session not in table(daemon)


def test_the_count_is_that_of_the_programs(daemon: Daemon) -> None:
    """Of a budget of bytes and of the rules: the same bytes, headers and all."""
    name = daemon.profile("p", PROFILE + "limits: {egress_bytes: '100'}\n")
    agent = Agent(daemon, name)
    # 29 bytes each: three fit, and the fourth goes past what was allowed in all.
    assert [agent.does("send", ALLOWED4) for _ in range(4)][:3] == [0, 0, 0]
    counted = agent.end()["packets"]
    assert 3 * 29 <= counted["sent_bytes"] <= 4 * 29


@pytest.mark.parametrize("observe", [False, True], ids=["governed", "observed"])
def test_without_the_programs_the_rules_hold_alone(daemon: Daemon, observe: bool) -> None:
    take_programs_away(daemon)
    agent = Agent(daemon, daemon.profile("p", PROFILE), observe=observe)
    assert agent.reaches() == ((0,) * 4 if observe else HELD)
    assert agent.does("connect", DENIED4, 443) == CLOSED
    end = agent.end()
    assert end["packets"]["refused"] == (0 if observe else 3)
    told = {
        (record["verb"], record["object"], record["verdict"])
        for record in daemon.records(session=agent.session)
        if record["mechanism"] == "nftables"
    }
    expected = {
        ("net.send", f"{DENIED4}:53/udp", "deny"),
        ("net.send", f"[{DENIED6}]:53/udp", "deny"),
        ("net.connect", f"{DENIED4}:443/tcp", "deny"),
    }
    assert told == (set() if observe else expected)


def test_what_takes_authority_away_changes_the_rules(daemon: Daemon, user: User) -> None:
    """A label, a signal and a revocation, each without the programs."""
    take_programs_away(daemon)
    name = daemon.profile("p", PROFILE + LABEL + "signals: {risk_score: [{at: 50, then: deny}]}\n")
    secret = user.home / "secret"
    secret.write_text("s")
    labelled, paused, revoked, other = (Agent(daemon, name) for _ in range(4))
    assert [each.reaches() for each in (labelled, paused, revoked, other)] == [HELD] * 4
    assert labelled.does("open", str(secret)) == 0
    wait_until(lambda: labelled.reaches() == SHUT, SECONDS)
    risk = ("signal", "risk-score-change", f"session:{paused.session}", "--score")
    assert daemon.rictl(*risk, "90").returncode == 0
    wait_until(lambda: paused.reaches() == SHUT, SECONDS)
    assert daemon.rictl(*risk, "0").returncode == 0
    wait_until(lambda: paused.reaches() == HELD, SECONDS)
    done = daemon.rictl("revoke", revoked.session, "--then", "deny", "--why", "test")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: revoked.reaches() == SHUT, SECONDS)
    assert other.reaches() == HELD
    for each in (labelled, paused, revoked, other):
        each.end()


def test_a_changed_profile_changes_the_rules(daemon: Daemon) -> None:
    take_programs_away(daemon)
    agent = Agent(daemon, daemon.profile("p", PROFILE))
    assert agent.reaches() == HELD
    daemon.profile("p", PROFILE.replace(f"{ALLOWED4}:53", f"{DENIED4}:53"))
    assert daemon.rictl("reload").returncode == 0
    wait_until(lambda: agent.reaches() == (REFUSED, 0, 0, REFUSED), SECONDS)
    agent.end()


@pytest.mark.parametrize("exposed", [False, True], ids=["bound", "exposed"])
def test_other_hosts_reach_what_is_exposed(daemon: Daemon, network: Network, exposed: bool) -> None:
    port = 7070 + exposed
    text = f"include: [base]\nnetwork:\n  bind: ['0.0.0.0:{port}']\n"
    name = daemon.profile("l", text + (f"  expose: ['{HERE4}:{port}']\n" if exposed else ""))
    command = ["/usr/bin/python3", "-I", "-S", "-u", "-c", LISTENER, str(port)]
    process = daemon.spawn(name, command)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()
    session = daemon.launched(process)["id"]
    with network.peer(), socket.socket() as peer:
        peer.settimeout(5)
        assert peer.connect_ex((HERE4, port)) == (0 if exposed else CLOSED)
    with socket.socket() as local:
        local.settimeout(5)
        assert local.connect_ex((HERE4, port)) == 0
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    daemon.settled()
    told = [
        record["object"]
        for record in daemon.records(session=session, verdict="deny")
        if record["mechanism"] == "nftables"
    ]
    assert told == ([] if exposed else [f"{HERE4}:{port}/tcp"])


@pytest.mark.parametrize(
    "how",
    [
        ("flush", "table", "inet", "TABLE"),
        ("delete", "table", "inet", "TABLE"),
        ("flush", "map", "inet", "TABLE", "MAP"),
        ("insert", "rule", "inet", "TABLE", "output", "accept"),
        ("flush", "ruleset"),
    ],
    ids=["rules", "table", "map", "rule", "everything"],
)
def test_what_another_program_changes_is_put_right(daemon: Daemon, how: Sequence[str]) -> None:
    take_programs_away(daemon)
    agent = Agent(daemon, daemon.profile("p", PROFILE))
    assert agent.reaches() == HELD
    name = base.table_name(daemon.instance)
    (at,) = [each for each in _maps(daemon) if agent.session in json.dumps(_map(daemon, each))]
    words = [each.replace("TABLE", name).replace("MAP", at) for each in how]
    subprocess.run(["nft", *words], check=True)
    wait_until(lambda: bool(daemon.records(verb="daemon.repair")), SECONDS)
    wait_until(lambda: agent.reaches() == HELD, SECONDS)
    assert "\t\taccept\n" not in table(daemon)
    packets = next(each for each in daemon.doctor()["controls"] if each["name"] == "packets")
    assert packets["active"]
    agent.end()
    assert agent.session not in table(daemon)


def _maps(daemon: Daemon) -> list[str]:
    done = subprocess.run(
        ["nft", "-j", "list", "table", "inet", base.table_name(daemon.instance)],
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)["nftables"]
    return [each["map"]["name"] for each in found
            if each.get("map", {}).get("name", "").startswith("send_")]  # fmt: skip


def _map(daemon: Daemon, name: str) -> Any:
    words = ["nft", "-j", "list", "map", "inet", base.table_name(daemon.instance), name]
    return json.loads(subprocess.run(words, capture_output=True, check=True).stdout)


def test_rules_outlive_the_worker_and_go_with_the_daemon(daemon: Daemon) -> None:
    agent = Agent(daemon, daemon.profile("p", PROFILE))
    with daemon.without_worker():
        take_programs_away(daemon)
        assert agent.reaches() == HELD
    assert agent.reaches() == HELD
    assert daemon.records(verb="daemon.repair") == []
    agent.end()
    assert agent.session not in table(daemon)
    daemon.stop()
    assert table(daemon) == ""


def test_leftovers_of_a_killed_daemon_go(daemon: Daemon) -> None:
    agent = Agent(daemon, daemon.profile("p", PROFILE))
    worker = daemon.worker_pid()
    assert daemon.process is not None
    daemon.process.kill()
    daemon.process.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), SECONDS)
    assert agent.session in table(daemon)
    assert agent.reaches() == HELD
    daemon.start()
    daemon.settled()
    assert agent.session not in table(daemon)
    agent.process.communicate(timeout=60)


def test_a_launcher_in_another_network_goes_without(daemon: Daemon, network: Network) -> None:
    name = daemon.profile("p", PROFILE)
    with network.peer():
        agent = Agent(daemon, name)
    (launch,) = daemon.records(session=agent.session, verb="session.launch")
    assert daemon.details(launch["id"])["missing"] == ["packets"]
    # The programs are the session's wherever it is.
    assert agent.reaches() == HELD
    agent.end()


def test_a_host_without_nftables(network: Network, make_daemon: Callable[..., Daemon]) -> None:
    daemon = make_daemon()
    hidden = str(Path(nftables.__file__).parent)
    script = 'mount -t tmpfs none "$0" && exec "$@"'
    daemon.start("unshare", "--mount", "sh", "-c", script, hidden)
    assert "sessions go without packet rules" in daemon.log_text()
    packets = next(each for each in daemon.doctor()["controls"] if each["name"] == "packets")
    assert not packets["active"]
    assert "python3-nftables" in packets["missing"]
    agent = Agent(daemon, daemon.profile("p", PROFILE))
    (launch,) = daemon.records(session=agent.session, verb="session.launch")
    assert daemon.details(launch["id"])["missing"] == ["packets"]
    assert agent.reaches() == HELD
    assert "packets" not in agent.end()

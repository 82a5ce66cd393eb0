# SPDX-License-Identifier: Apache-2.0
"""Hosts by name in real sessions: looked up through the daemon, connected to, and nothing else.

The names' server is a test's own; its addresses are loopback ones, where tests can listen.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, User, delegations_for, wait_until
from tests.support.dns import NameServer
from tests.support.sides import last_session

# What listens: addresses of loopback that nothing else uses.
LISTED, OTHER, LISTED6 = "127.66.0.1", "127.66.0.2", "::1"
METADATA = "169.254.169.254"


class Listener:
    """A TCP listener that says hello to whoever connects."""

    def __init__(self, address: str, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind((address, port))
        self.sock.listen(64)
        self.port = self.sock.getsockname()[1]


@dataclass
class World:
    """The daemon, its upstream server, and what listens at `port` of LISTED and OTHER."""

    daemon: Daemon
    upstream: NameServer
    port: int

    def run(self, profile: str, script: str, *words: object, **more: Any) -> Any:
        """What `script` printed as JSON at its end, run in a session."""
        text = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
        done = self.daemon.exec(profile, ["/usr/bin/python3", "-c", text, *map(str, words)], **more)
        assert done.returncode == 0, done.stderr + self.daemon.log_text()
        return json.loads(done.stdout)

    def records(self, verb: str) -> list[dict[str, Any]]:
        """Of the last session."""
        return self.daemon.records(session=last_session(self.daemon)["id"], verb=verb)


PRELUDE = """
    import errno, json, socket, sys, time
    def attempt(action):
        try:
            return action()
        except socket.gaierror as error:
            return "gai " + str(error.errno)
        except OSError as error:
            return errno.errorcode[error.errno] if error.errno else str(error)
    def connect(host, port):
        def act():
            with socket.create_connection((host, int(port)), 10):
                return "connected"
        return attempt(act)
    def addresses(host, port=443):
        return attempt(lambda: sorted({each[4][0] for each in socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM)}))
"""


@pytest.fixture(scope="module")
def world(user: User) -> Iterator[World]:
    upstream = NameServer()
    listener = Listener(LISTED)
    others = [Listener(OTHER, listener.port), Listener(LISTED6, listener.port)]
    upstream.add("api.example.org", f"A {LISTED}", ttl=60)
    upstream.add("six.example.org", f"AAAA {LISTED6}", ttl=60)
    upstream.add("rebound.example.org", f"A {METADATA}", "A 93.184.216.34")
    upstream.add("public.example.org", "A 93.184.216.34")
    upstream.add("private.example.org", f"A {LISTED}")
    upstream.add("other.example.net", f"A {OTHER}")
    upstream.add("alias.example.org", "CNAME api.example.org", f"A {LISTED}")
    upstream.add("short.example.org", f"A {LISTED}", ttl=0)
    for each in ("a", "a.b"):
        upstream.add(f"{each}.deep.example.com", "A 93.184.216.34")
    daemon = Daemon(user, {"resolver": {"upstream": [f"127.0.0.1:{upstream.port}"]}})
    port = listener.port
    rights = delegations_for(user)
    rights["delegations"][0] |= {"depth": 2, "delegate": {"max_ttl": "2h", "max_depth": 2}}
    daemon.write(daemon.delegations, rights)
    for name, rules in PROFILES.items():
        daemon.profile(name, textwrap.dedent(rules).replace("PORT", str(port)))
    daemon.start()
    yield World(daemon, upstream, listener.port)
    daemon.clean()
    upstream.close()
    for other in (listener, *others):
        other.sock.close()


PROFILES = {
    "named": """
        include: [base]
        network:
          connect:
            - {to: "api.example.org:PORT", private: true}
            - {to: "six.example.org:PORT", private: true}
            - {to: "alias.example.org:PORT", private: true}
            - {to: "rebound.example.org:*", private: true}
            - "*.example.org:443"
            - "**.deep.example.com:443"
    """,
    "plain": """
        include: [base]
        network: {connect: ["127.66.0.9:1"]}
    """,
    "anywhere": """
        include: [base]
        network:
          connect: ["any:PORT", "any:443"]
          deny: ["127.66.0.2/32:*"]
    """,
    "outermost": """
        include: [base]
        network:
          connect: [{to: "any:PORT", private: true}]
          deny: ["127.66.0.2/32:*"]
    """,
    "denied": """
        include: [base]
        network:
          connect: [{to: "api.example.org:*", private: true}]
          deny: ["127.66.0.0/16:*"]
    """,
    "narrowed": """
        include: [base]
        extends: outermost
        network:
          connect: [{to: "api.example.org:*", private: true}, "127.66.0.2:PORT"]
    """,
    "labelled": """
        include: [base]
        files: {read: ["{workspace}/**"]}
        network:
          connect: [{to: "api.example.org:PORT", private: true}, "127.66.0.2:PORT"]
        labels:
          secret:
            files: ["{workspace}/secret"]
            then: {network: {only: ["127.66.0.2:PORT"]}}
    """,
    "reloaded": """
        include: [base]
        network:
          connect:
            - {to: "api.example.org:PORT", private: true}
            - {to: "other.example.net:PORT", private: true}
    """,
}
# Answers each line: "connect HOST PORT" (kept open), "look HOST", "send NUMBER", "read PATH".
AGENT = """
kept = []
def answer(verb, *words):
    if verb == "connect":
        def act():
            kept.append(socket.create_connection((words[0], int(words[1])), 10))
            return "connected"
        return attempt(act)
    if verb == "look":
        return addresses(words[0])
    if verb == "send":
        return attempt(lambda: kept[int(words[0])].send(b"x"))
    return attempt(lambda: len(open(words[0]).read()))
for line in sys.stdin:
    print(json.dumps(answer(*line.split())), flush=True)
"""


class Agent:
    """A session that does what it is told, a line at a time."""

    def __init__(self, world: World, profile: str, *options: str) -> None:
        text = textwrap.dedent(PRELUDE) + AGENT
        self.process = world.daemon.spawn(
            profile, ["/usr/bin/python3", "-c", text], *options, stdin=subprocess.PIPE
        )
        self.session = world.daemon.launched(self.process)["id"]

    def do(self, *words: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.process.communicate(timeout=30)


def test_a_listed_name_is_connected_to_and_nothing_else(world: World) -> None:
    found = world.run(
        "named",
        """
        port = sys.argv[1]
        print(json.dumps({
            "before": connect("127.66.0.1", port),
            "by name": connect("api.example.org", port),
            "after": connect("127.66.0.1", port),
            "other port": connect("api.example.org", 1),
            "six": connect("six.example.org", port),
            "other address": connect("127.66.0.2", port),
            "other name": addresses("other.example.net"),
        }))
        """,
        world.port,
    )
    assert found == {
        "before": "EPERM",
        "by name": "connected",
        "after": "connected",
        "other port": "EPERM",
        "six": "connected",
        "other address": "EPERM",
        "other name": "gai -2",
    }
    resolved = world.records(verb="net.resolve")
    assert {(each["object"], each["verdict"]) for each in resolved} >= {
        ("api.example.org", "allow"),
        ("six.example.org", "allow"),
        ("other.example.net", "deny"),
    }
    denied = next(each for each in resolved if each["object"] == "other.example.net")
    assert denied["mechanism"] == "resolver"
    connects = world.records(verb="net.connect")
    assert any(
        each["object"] == f"api.example.org ({LISTED}):{world.port}/tcp"
        and each["verdict"] == "allow"
        and "api.example.org" in each["rule"]
        for each in connects
    )


def test_observed_it_all_succeeds_and_is_told_apart(world: World) -> None:
    found = world.run(
        "named",
        """
        print(json.dumps([
            addresses("other.example.net"),
            connect("other.example.net", sys.argv[1]),
            connect("api.example.org", sys.argv[1]),
        ]))
        """,
        world.port,
        observe=True,
    )
    assert found == [[OTHER], "connected", "connected"]
    resolved = {each["object"]: each["verdict"] for each in world.records(verb="net.resolve")}
    assert resolved == {"other.example.net": "would-deny", "api.example.org": "allow"}
    connects = {each["object"]: each["verdict"] for each in world.records(verb="net.connect")}
    assert connects[f"other.example.net ({OTHER}):{world.port}/tcp"] == "would-deny"
    assert connects[f"api.example.org ({LISTED}):{world.port}/tcp"] == "allow"


def test_private_and_reserved_answers_reach_nothing(world: World) -> None:
    """A name that an attacker answers for is no way to this host, its network or its cloud."""
    found = world.run(
        "named",
        """
        def quick(host, port):
            with socket.socket() as sock:
                sock.setblocking(False)
                return errno.errorcode[sock.connect_ex((host, port))]
        print(json.dumps({
            "private": addresses("private.example.org"),
            "rebound": addresses("rebound.example.org"),
            "metadata": quick("169.254.169.254", 443),
            "metadata 80": quick("169.254.169.254", 80),
            "public": quick("93.184.216.34", 443),
        }))
        """,
    )
    # Its rule lets the name have any address, and the reserved ranges come first all the same.
    assert found["rebound"] == sorted(["93.184.216.34", METADATA])
    assert found["metadata"] == found["metadata 80"] == "EPERM"
    assert found["private"] == "gai -5"
    assert found["public"] != "EPERM"
    denied = [each for each in world.records(verb="net.resolve") if each["verdict"] == "deny"]
    assert {each["object"] for each in denied} == {"private.example.org"}


def test_wildcards_mean_as_many_labels_as_they_say(world: World) -> None:
    found = world.run(
        "named",
        """
        names = ("public.example.org", "a.public.example.org", "example.org",
                 "a.deep.example.com", "a.b.deep.example.com", "deep.example.com")
        print(json.dumps([isinstance(addresses(name), list) for name in names]))
        """,
    )
    assert found == [True, False, False, True, True, False]


def test_without_names_nothing_is_led_anywhere(world: World) -> None:
    found = world.run(
        "plain", "print(json.dumps([addresses('api.example.org'), connect('127.66.0.1', 1)]))"
    )
    assert found == ["gai -3", "EPERM"]
    assert not world.records(verb="net.resolve")


def test_where_any_address_may_be_any_name_may(world: World) -> None:
    found = world.run(
        "anywhere",
        """
        port = sys.argv[1]
        print(json.dumps([addresses("public.example.org"), addresses("api.example.org"),
            connect("127.66.0.1", port), connect("127.66.0.2", port)]))
        """,
        world.port,
    )
    # To its own addresses it may go, and no name leads there.
    assert found == [["93.184.216.34"], "gai -5", "connected", "EPERM"]


def test_a_denial_beats_a_name(world: World) -> None:
    script = "print(json.dumps(connect('api.example.org', sys.argv[1])))"
    assert world.run("denied", script, world.port) == "EPERM"
    [denied] = [each for each in world.records(verb="net.connect") if each["verdict"] == "deny"]
    assert "network.deny" in denied["rule"]
    assert world.run("denied", script, world.port, observe=True) == "connected"


def test_every_link_lists_a_name(world: World) -> None:
    script = """
        port = sys.argv[1]
        print(json.dumps([connect("api.example.org", port), connect("other.example.net", port),
            connect("127.66.0.2", port)]))
    """
    # Of both: the outer one denies the address, the narrower one the name.
    assert world.run("narrowed", script, world.port) == ["connected", "gai -2", "EPERM"]


def test_names_of_a_session_inside_another(world: World) -> None:
    world.daemon.profile(
        "inner",
        f"""
include: [base]
network:
  connect:
    - {{to: "api.example.org:{world.port}", private: true}}
    - {{to: "other.example.net:{world.port}", private: true}}
""",
    )
    text = textwrap.dedent(PRELUDE) + textwrap.dedent(
        """
        port = sys.argv[1]
        print(json.dumps([connect("api.example.org", port), connect("other.example.net", port),
            connect("six.example.org", port)]))
        """
    )
    command = world.daemon.exec_command("inner", ["/usr/bin/python3", "-c", text, str(world.port)])
    done = world.daemon.exec("named", command, "--depth", "1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["connected", "gai -2", "gai -2"]


def test_a_label_takes_names_away(world: World, user: User) -> None:
    workspace = Path(user.home) / "labelled"
    workspace.mkdir(exist_ok=True)
    (workspace / "secret").write_text("secret")
    subprocess.run(["chown", "-R", user.name, str(workspace)], check=True)
    with Agent(world, "labelled", "--workspace", str(workspace)) as agent:
        assert agent.do("connect", "api.example.org", world.port) == "connected"
        assert agent.do("read", workspace / "secret") == 6
        wait_until(lambda: agent.do("send", 0) not in {1, "EAGAIN"}, 30)
        assert agent.do("connect", LISTED, world.port) == "EPERM"
        assert agent.do("look", "api.example.org") == "gai -3"
        assert agent.do("connect", OTHER, world.port) == "connected"


def test_a_change_of_profile_takes_a_name_away(world: World) -> None:
    world.daemon.profile(
        "reloaded", textwrap.dedent(PROFILES["reloaded"]).replace("PORT", str(world.port))
    )
    world.daemon.rictl("reload")
    with Agent(world, "reloaded") as agent:
        assert agent.do("connect", "api.example.org", world.port) == "connected"
        assert agent.do("connect", "other.example.net", world.port) == "connected"
        less = textwrap.dedent(PROFILES["reloaded"]).replace("PORT", str(world.port))
        less = less.replace(
            f'{{to: "other.example.net:{world.port}", private: true}}', "public.example.org:443"
        )
        world.daemon.profile("reloaded", less)
        assert world.daemon.rictl("reload").returncode == 0
        wait_until(lambda: agent.do("connect", OTHER, world.port) == "EPERM", 30)
        assert agent.do("look", "other.example.net") == "gai -2"
        assert agent.do("look", "public.example.org") == ["93.184.216.34"]
        assert agent.do("send", 0) == 1
        wait_until(lambda: agent.do("send", 1) != 1, 30)
        assert agent.do("connect", LISTED, world.port) == "connected"


def resolvers(daemon: Daemon) -> list[int]:
    """Processes that answer questions for this daemon."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_text() if folder.name.isdigit() else ""
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1] if command else ""
        except OSError:
            continue
        if "monitor.daemon.resolver.process" in command and int(parent) == daemon.worker_pid():
            found.append(int(folder.name))
    return found


def test_a_resolver_that_is_killed_is_started_again(world: World) -> None:
    with Agent(world, "named") as agent:
        assert agent.do("connect", "api.example.org", world.port) == "connected"
        [before] = resolvers(world.daemon)
        os.kill(before, signal.SIGKILL)
        # What was allowed stays; questions wait for the next one.
        assert agent.do("connect", LISTED, world.port) == "connected"
        assert agent.do("connect", "six.example.org", world.port) == "connected"
        assert agent.do("look", "other.example.net") == "gai -2"
        wait_until(lambda: resolvers(world.daemon) not in ([], [before]), 30)


def test_a_worker_that_is_killed_leaves_what_was_allowed(world: World) -> None:
    with Agent(world, "named") as agent:
        assert agent.do("connect", "api.example.org", world.port) == "connected"
        world.daemon.restart_worker()
        assert agent.do("connect", LISTED, world.port) == "connected"
        assert agent.do("connect", OTHER, world.port) == "EPERM"
        assert agent.do("connect", "six.example.org", world.port) == "connected"
        assert agent.do("send", 0) == 1
    newest = world.daemon.records(session=agent.session, verb="net.connect")
    # The next worker knows by which rule it was.
    assert any(each["object"] == f"api.example.org ({LISTED}):{world.port}/tcp" for each in newest)


def test_nothing_is_left_of_sessions_that_ended(world: World) -> None:
    with Agent(world, "named") as agent:
        assert agent.do("connect", "api.example.org", world.port) == "connected"
    wait_until(lambda: agent.session not in {e["id"] for e in world.daemon.sessions()}, 30)
    with Agent(world, "named") as agent:
        assert agent.do("connect", LISTED, world.port) == "EPERM"


def test_questions_are_no_channel(world: World) -> None:
    """Other records, other servers' other ports, and names that only carry data."""
    script = """
        import struct
        def ask(name, kind, server="192.0.2.53"):
            labels = b"".join(bytes([len(each)]) + each for each in name.encode().split(b"."))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(10)
                sock.connect((server, 53))
                sock.send(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\\0"
                          + struct.pack(">2H", kind, 1))
                return sock.recv(4096)[3] & 15
        def tunnel():
            for number in range(3000):
                name = f"{number:04}{'x' * 59}.{'y' * 63}.{'z' * 63}.deep.example.com"
                rcode = ask(name, 1)
                if rcode not in (0, 3):
                    return [number, rcode]
            return "never"
        print(json.dumps({
            "text": ask("public.example.org", 16), "null": ask("public.example.org", 10),
            "any": ask("public.example.org", 255), "listed": ask("public.example.org", 1),
            "DoT": connect("192.0.2.53", 853), "DoH": connect("192.0.2.53", 443),
            "mDNS": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(
                b"x", ("224.0.0.251", 5353))),
            "tunnel": tunnel(),
        }))
    """
    found = world.run("named", script, timeout=300)
    refused = 5
    number, rcode = found.pop("tunnel")
    assert (number, rcode) <= (400, refused), "by the label bytes, or by the rate before that"
    assert found == {
        "text": refused,
        "null": refused,
        "any": refused,
        "listed": 0,
        "DoT": "EPERM",
        "DoH": "EPERM",
        "mDNS": "EPERM",
    }
    reasons = {each["reason"] for each in world.records("net.resolve") if each["verdict"] == "deny"}
    assert "records of this type are not looked up" in reasons
    assert len(reasons) > 1

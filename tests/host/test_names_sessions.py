# SPDX-License-Identifier: Apache-2.0
"""Hosts by name in real sessions: looked up through the daemon, connected to, and nothing else.

The names' server is a test's own; its addresses are loopback ones, where tests can listen.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, User, wait_until
from tests.support.dns import NameServer

EPERM = os.strerror(errno.EPERM)
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

    def records(self, **filters: str) -> list[dict[str, Any]]:
        self.daemon.settled()
        newest = self.daemon.sessions(everything=True)[0]["id"]
        return self.daemon.records(session=newest, **filters)


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
    daemon = Daemon(user, {"resolver": {"upstream": [f"127.0.0.1:{upstream.port}"]}})
    daemon.profile(
        "named",
        f"""
include: [base]
network:
  connect:
    - {{to: "api.example.org:{listener.port}", private: true}}
    - {{to: "six.example.org:{listener.port}", private: true}}
    - {{to: "rebound.example.org:*", private: true}}
    - "*.example.org:443"
""",
    )
    daemon.profile("plain", "include: [base]\nnetwork: {connect: [127.0.0.1:1]}\n")
    daemon.start()
    yield World(daemon, upstream, listener.port)
    daemon.clean()
    upstream.close()
    for each in (listener, *others):
        each.sock.close()


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

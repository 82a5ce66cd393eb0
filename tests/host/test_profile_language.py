# SPDX-License-Identifier: Apache-2.0
"""One profile that says everything there is to say, in one session, and the same without it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, User

ECHO, TRUE = "/usr/bin/echo", "/usr/bin/true"
# Tries one thing after the other, and says what came of each.
AGENT = """
import errno, json, os, socket, subprocess, sys
folder, port = sys.argv[1], int(sys.argv[2])
said = {}

def run(name, *argv):
    try:
        said[name] = subprocess.run(argv, stdout=subprocess.DEVNULL).returncode
    except OSError as error:
        said[name] = errno.errorcode[error.errno]

def connect(name, host, number):
    try:
        socket.create_connection((host, number), 5).close()
        said[name] = 0
    except OSError as error:
        said[name] = errno.errorcode[error.errno]

def remove(name, count):
    try:
        for number in range(count):
            path = f"{name}{number}"
            open(path, "w").close()
            os.unlink(path)
        said[name] = 0
    except OSError as error:
        said[name] = errno.errorcode[error.errno]

def read(name, path):
    try:
        open(path).close()
        said[name] = 0
    except OSError as error:
        said[name] = errno.errorcode[error.errno]

run("word", "/usr/bin/echo", "word")
run("secret", "/usr/bin/echo", "a", "secret")
run("asked", "/usr/bin/true")
connect("kept before", "127.0.0.1", port)
connect("lost before", "127.0.0.2", port)
connect("asked host", "127.0.0.3", port)
connect("denied host", "127.0.0.4", port)
read("asked file", f"{folder}/a.key")
read("plain file", f"{folder}/plain")
read("labelled file", f"{folder}/customers/one")
connect("kept after", "127.0.0.1", port)
connect("lost after", "127.0.0.2", port)
run("narrowed", "/usr/bin/id")
remove("few", 3)
remove("many", 9)
print(json.dumps(said))
"""


@pytest.fixture
def port() -> Iterator[int]:
    """A port that answers on four loopback addresses."""
    listeners = [socket.create_server(("127.0.0.1", 0))]
    number = int(listeners[0].getsockname()[1])
    listeners += [socket.create_server((f"127.0.0.{each}", number)) for each in (2, 3, 4)]
    yield number
    for each in listeners:
        each.close()


@pytest.fixture
def data(daemon: Daemon) -> Path:
    folder = daemon.folder / "data"
    (folder / "customers").mkdir(parents=True, exist_ok=True)
    for name in ("a.key", "plain", "customers/one"):
        (folder / name).write_text("x\n")
    return folder


def plain(data: Path, port: int) -> dict[str, Any]:
    """What both profiles grant."""
    return {
        "include": ["base"],
        "files": {
            "read": ["{workspace}/**", f"{data}/**"],
            "write": ["{workspace}/**", "/dev/null"],
            "execute": ["/usr/**", "/lib/**", "/lib64/**"],
        },
        "network": {"connect": [f"127.0.0.0/8:{port}"]},
    }


def everything(data: Path, port: int) -> dict[str, Any]:
    """The same, with something of each kind taken away."""
    made = plain(data, port)
    made["files"]["ask"] = [{"path": f"{data}/*.key", "why": "keys"}]
    made["network"]["ask"] = [{"to": f"127.0.0.3:{port}", "why": "elsewhere"}]
    made["network"]["deny"] = [f"127.0.0.4:{port}"]
    made["exec"] = {
        "deny": [{"path": ECHO, "args": ["...", "secret"], "sha256": True}],
        "ask": [TRUE],
    }
    made["labels"] = {
        "customers": {
            "files": [f"{data}/customers/**"],
            "then": {
                "network": {"only": [f"127.0.0.1:{port}"]},
                "exec": {"deny": ["/usr/bin/id"]},
            },
        }
    }
    made["limits"] = {
        "ttl": "5m",
        "processes": 64,
        "connects_per_minute": 100,
        "destinations": 100,
        "egress_bytes": "1M",
        "execs_per_minute": 100,
        "deletes_per_minute": 6,
        "on_budget": "deny",
        "asks_per_minute": 100,
        "ask_timeout": "2s",
    }
    made["conditions"] = {
        "time": [{"start": "00:00", "until": "24:00"}],
        "purpose": "required",
        "load_below": 1_000_000,
        "memory_available": "1M",
    }
    made["signals"] = {"risk_score": [{"at": 90, "then": "kill"}]}
    made["ask_fallback"] = "deny"
    return made


def run(daemon: Daemon, name: str, document: dict[str, Any], *words: str) -> dict[str, Any]:
    Daemon.write(daemon.profiles / f"{name}.yaml", {"name": name} | document)
    command = ["/usr/bin/python3", "-I", "-c", AGENT, *words]
    done = daemon.exec(name, command, "--purpose", "to try it", timeout=120)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_everything_at_once(daemon: Daemon, user: User, data: Path, port: int) -> None:
    free = run(daemon, "plain", plain(data, port), str(data), str(port))
    assert set(free.values()) == {0}, free
    held = run(daemon, "everything", everything(data, port), str(data), str(port))
    assert held == {
        "word": 0,
        "secret": "EPERM",
        "asked": "EPERM",
        "kept before": 0,
        "lost before": 0,
        "asked host": "EPERM",
        "denied host": "EPERM",
        "asked file": "EPERM",
        "plain file": 0,
        "labelled file": 0,
        "kept after": 0,
        "lost after": "EPERM",
        "narrowed": "EPERM",
        "few": 0,
        "many": "EPERM",
    }


def test_a_purpose_is_asked_for(daemon: Daemon, data: Path, port: int) -> None:
    name = daemon.profiles / "everything.yaml"
    Daemon.write(name, {"name": "everything"} | everything(data, port))
    done = daemon.exec("everything", [ECHO, "x"])
    assert done.returncode != 0
    assert "purpose" in done.stderr


def test_the_shipped_command_finds_no_fault(daemon: Daemon, data: Path, port: int) -> None:
    file = daemon.folder / "everything.yaml"
    Daemon.write(file, {"name": "everything"} | everything(data, port))
    done = daemon.rictl("profile", "check", str(file))
    assert done.returncode == 0, done.stdout + done.stderr

# SPDX-License-Identifier: Apache-2.0
"""rictl revoke: what it asks the daemon for, and what it prints."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from biscuit_auth import KeyPair

from monitor.identity import grant
from monitor.identity.chain import Principal
from monitor.identity.grant_block import Origin, Step
from tests.support.fake_api import SESSION, FakeApi

ROOT = Path(__file__).resolve().parents[2]
AGENT = "spiffe://test.example/agent/demo/coder"
ID = "ab" * 64


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    made = FakeApi(tmp_path / "ri.sock")
    made.answers["/v1/revoke"] = answer()
    yield made
    made.close()


def answer(**changes: Any) -> dict[str, Any]:
    times = {"deny": 0.4, "freeze": 3.2, "cut": 4.1}
    steps = [{"name": name, "milliseconds": 1.0, "since": since} for name, since in times.items()]
    return {
        "kind": "agent",
        "name": AGENT,
        "then": "kill",
        "grants": [ID],
        "sessions": [{"id": SESSION, "agent": AGENT, "chain": [], "since_receipt": times}],
        "sockets": 2,
        "steps": steps,
        "problems": [],
    } | changes


def rictl(api: FakeApi, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monitor.cli.rictl", *arguments],
        capture_output=True,
        text=True,
        cwd=api.socket.parent,
        env={
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "RI_SOCKET": str(api.socket),
            "PYTHONPATH": str(ROOT),
        },
    )


def asked(api: FakeApi) -> Any:
    ((method, path, _query, body),) = api.requests
    assert (method, path) == ("POST", "/v1/revoke")
    return body


def signed() -> str:
    now = int(time.time())
    origin = Origin("a" * 32, Principal("alice", 1000), Principal("alice", 1000), now, ("host",))
    step = Step(agent=AGENT, profile="base", digest="0" * 32, expires=now + 600, depth=0)
    return grant.sign(origin, step, bytes(KeyPair().private_key.to_bytes()).hex())


def test_what_is_asked_and_printed(api: FakeApi) -> None:
    done = rictl(api, "revoke", "demo/coder", "--why", "no more")
    assert asked(api) == {"what": "demo/coder", "then": "kill", "why": "no more"}
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"revoked agent {AGENT}: 1 session killed, 2 sockets cut, 1 grant taken back",
        f"  {SESSION}  {AGENT}",
        "done since receipt: deny 0.4 ms, freeze 3.2 ms, cut 4.1 ms",
    ]


def test_denied_and_what_went_wrong(api: FakeApi) -> None:
    api.answers["/v1/revoke"] = answer(then="deny", grants=[], problems=["it did not \x1b[0m"])
    done = rictl(api, "revoke", SESSION, "--then", "deny")
    assert asked(api) == {"what": SESSION, "then": "deny"}
    assert "1 session denied everything, 2 sockets cut\n" in done.stdout
    assert done.stderr == "rictl: it did not \\x1b[0m\n"


def test_a_grant_without_sessions(api: FakeApi) -> None:
    api.answers["/v1/revoke"] = answer(kind="grant", name=ID, sessions=[], steps=[])
    done = rictl(api, "revoke", ID)
    assert asked(api) == {"what": ID, "then": "kill"}
    assert done.stdout == f"revoked grant {ID[:16]}...: 0 sessions killed\n"


@pytest.mark.parametrize("command", [("revoke",), ("grant", "revoke")])
def test_a_grant_by_its_file(api: FakeApi, tmp_path: Path, command: tuple[str, ...]) -> None:
    text = signed()
    (tmp_path / "coder.grant").write_text(text + "\n")
    assert rictl(api, *command, f"{tmp_path}/coder.grant").returncode == 0
    assert asked(api) == {"grant": text, "then": "kill"}


def test_a_name_that_is_a_file_too(api: FakeApi, tmp_path: Path) -> None:
    text = signed()
    (tmp_path / "coder").write_text(text)
    assert rictl(api, "revoke", "coder").returncode == 0
    assert asked(api) == {"what": "coder", "grant": text, "then": "kill"}


def test_a_file_that_is_no_grant_is_not_meant(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "coder").write_text("some notes")
    assert rictl(api, "revoke", "coder").returncode == 0
    assert asked(api) == {"what": "coder", "then": "kill"}


@pytest.mark.parametrize("word", ["./coder", "/nowhere/coder.grant", "coder.grant"])
def test_a_file_that_is_not_there(api: FakeApi, word: str) -> None:
    done = rictl(api, "revoke", word)
    assert (done.returncode, done.stdout, api.requests) == (1, "", [])
    assert "No such file or directory" in done.stderr


def test_json(api: FakeApi) -> None:
    done = rictl(api, "revoke", "demo/coder", "--json")
    assert '"since": 4.1' in done.stdout

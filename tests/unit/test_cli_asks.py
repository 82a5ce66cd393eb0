# SPDX-License-Identifier: Apache-2.0
"""rictl asks, approve and deny: what they send, what they print, how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_api import FakeApi

ROOT = Path(__file__).resolve().parents[2]
ID = "3f9a1c2b"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApi]:
    made = FakeApi(tmp_path / "ri.sock")
    yield made
    made.close()


def ask(**changes: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "session": "0197f0a0-1111-7222-8333-444455556666",
        "agent": "spiffe://test.example/agent/coder",
        "chain": ["user:alice", "spiffe://test.example/agent/coder"],
        "user": "alice",
        "purpose": "fix the build",
        "workspace": "/work",
        "link": 0,
        "profile": "coding-agent",
        "verb": "proc.exec",
        "object": "/usr/bin/git",
        "argv": ["git", "commit", "-m", "it's\x1b[31m done"],
        "cwd": "/work",
        "pid": 7,
        "exe": "/usr/bin/bash",
        "rule": "exec.ask: git (coder.yaml:7)",
        "why": "commits are reviewed",
        "raised": 1.0,
        "left": 252.4,
        "count": 3,
    } | changes


def done(allow: bool = True, **changes: Any) -> dict[str, Any]:
    answer = {"allow": allow, "how": "person", "by": "user:alice", "why": ""}
    return {"ask": ask(), "answer": answer, "scope": "once", "let": 1, "more": None} | changes


def rictl(api: FakeApi, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monitor.cli.rictl", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=api.socket.parent,
        env={
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "RI_SOCKET": str(api.socket),
            "PYTHONPATH": str(ROOT),
        },
    )


def test_what_waits_is_shown_whole_and_harmless(api: FakeApi) -> None:
    api.answers["/v1/asks"] = {"asks": [ask(), ask(id="77c00001", argv=[], cwd="", count=1)]}
    found = rictl(api, "asks")
    assert (found.returncode, found.stderr) == (0, "")
    assert "\x1b" not in found.stdout
    for text in (
        f"{ID}  proc.exec  /usr/bin/git  (3 times)",
        "    runs     git commit -m 'it'\"'\"'s\\x1b[31m done'",
        "    in       /work",
        "    for      user:alice > spiffe://test.example/agent/coder",
        "(link 0, profile coding-agent)",
        "    purpose  fix the build",
        "    why      commits are reviewed",
        "    rule     exec.ask: git (coder.yaml:7)",
        "    left     4m12s",
    ):
        assert text in found.stdout
    assert found.stdout.count("runs") == 1


def test_nothing_waits(api: FakeApi) -> None:
    api.answers["/v1/asks"] = {"asks": []}
    found = rictl(api, "asks")
    assert (found.returncode, found.stdout) == (0, "")
    assert found.stderr == "rictl: nothing waits for an answer\n"


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ((), {}),
        (("--once",), {}),
        (("--uses", "3"), {"uses": 3}),
        (("--for", "10m"), {"for": "10m"}),
        (("--session", "--why", "ok"), {"session": True, "why": "ok"}),
    ],
)
@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_what_is_sent(api: FakeApi, verb: str, options: tuple[str, ...], sent: object) -> None:
    api.answers[f"/v1/asks/{ID}/{verb}"] = done(verb == "approve")
    found = rictl(api, verb, ID, *options)
    assert found.returncode == 0, found.stderr
    assert api.requests == [("POST", f"/v1/asks/{ID}/{verb}", {}, sent)]


def test_what_is_printed(api: FakeApi) -> None:
    api.answers[f"/v1/asks/{ID}/approve"] = done(scope="2 times", let=2, more="aa00aa00")
    found = rictl(api, "approve", ID)
    assert found.stdout == (
        f"approved {ID}, 2 times: proc.exec git commit -m 'it'\"'\"'s\\x1b[31m done' (2 go on)\n"
        "the others wait for ask aa00aa00\n"
    )
    api.answers[f"/v1/asks/{ID}/deny"] = done(allow=False)
    assert rictl(api, "deny", ID).stdout.endswith("(1 is refused)\n")


def test_one_that_is_gone_keeps_no_other_waiting(api: FakeApi) -> None:
    def behaviour(_method: str, path: str, _query: object, _body: object) -> Any:
        if ID in path:
            return 200, done()
        return 409, {"error": "ask 77c00001 was denied by user:bob (3 s ago)"}

    api.behaviour = behaviour
    found = rictl(api, "approve", "77c00001", ID)
    assert found.returncode == 1
    assert found.stderr == "rictl: ask 77c00001 was denied by user:bob (3 s ago)\n"
    assert found.stdout.startswith(f"approved {ID}")


@pytest.mark.parametrize(
    "options",
    [("--once", "--session"), ("--uses", "2", "--for", "1m"), ("--uses", "0"), ("--uses", "x")],
)
def test_contradictions(api: FakeApi, options: tuple[str, ...]) -> None:
    found = rictl(api, "approve", ID, *options)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert api.requests == []


def test_no_id(api: FakeApi) -> None:
    assert rictl(api, "approve").returncode == 2


def test_an_id_of_any_bytes(api: FakeApi) -> None:
    api.behaviour = lambda *_request: (404, {"error": "no ask"})
    found = rictl(api, "deny", "../x\n\x1b")
    assert (found.returncode, found.stderr) == (1, "rictl: no ask\n")


def test_watching(api: FakeApi) -> None:
    """What is raised and over, each once although the daemon starts again in between."""
    over = {"over": ask(), "answer": {"allow": True, "by": "user:bob", "why": ""}}
    answers = iter([_lines({"raised": ask(argv=["git", "push"])}), _lines({"raised": ask()}, over)])
    api.behaviour = lambda *_request: (200, next(answers, b""))
    process = subprocess.Popen(
        [sys.executable, "-m", "monitor.cli.rictl", "--socket", str(api.socket), "asks", "--watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or "approved" not in lines[-1]:
        line = process.stdout.readline()
        assert line, process.communicate()
        lines.append(line)
    process.terminate()
    process.communicate()
    assert sum(line.startswith(ID) for line in lines) == 2
    assert lines[-1] == f"{ID}  approved by user:bob\n"


def _lines(*changes: object) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in changes)

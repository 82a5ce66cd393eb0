# SPDX-License-Identifier: Apache-2.0
"""rictl delegate --from and rictl grant show, without a daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from biscuit_auth import KeyPair

from monitor.identity import grant as tokens
from monitor.identity.chain import Principal
from monitor.identity.grant_block import Origin, Step

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = bytes(KeyPair().private_key.to_bytes()).hex()
ALICE = Principal("alice", 1000)
CODER = "spiffe://example.org/agent/coder"


def rictl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monitor.cli.rictl", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "RI_SOCKET": "/nowhere/ri.sock"},
    )


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    file = tmp_path / "parent.grant"
    file.write_text(signed() + "\n")
    return file


def signed(**more: Any) -> str:
    now = int(time.time())
    facts: dict[str, Any] = {
        "agent": CODER,
        "profile": "coding-agent",
        "digest": "0" * 32,
        "expires": now + 3600,
        "depth": 2,
    }
    origin = Origin("a" * 32, ALICE, ALICE, now, ("builder",))
    return tokens.sign(origin, Step(**(facts | more)), PRIVATE)


def test_a_grant_is_narrowed_without_a_daemon(parent: Path, tmp_path: Path) -> None:
    out = tmp_path / "child.grant"
    options = ("--agent", "demo/tester", "--profile", "ci-agent", "--ttl", "10m", "--uses", "2")
    done = rictl("delegate", "--from", parent, *options, "--purpose", "test it", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: spiffe://example.org/agent/demo/tester, until ")
    assert out.stat().st_mode & 0o777 == 0o600
    found = tokens.read(out.read_text())
    step = found.steps[1]
    assert (step.profile, step.purpose, step.uses, step.depth) == ("ci-agent", "test it", 2, 0)
    assert found.expires <= time.time() + 600
    again = rictl("delegate", "--from", parent, *options, "--out", out)
    assert (again.returncode, "exists already" in again.stderr) == (1, True)
    printed = rictl("delegate", "--from", parent, *options)
    assert tokens.read(printed.stdout).agent == found.agent
    deeper = rictl("delegate", "--from", out, "--agent", "x")
    assert (deeper.returncode, "may not be passed on" in deeper.stderr) == (1, True)


def test_more_than_is_left_is_not_said(parent: Path) -> None:
    printed = rictl("delegate", "--from", parent, "--agent", "x", "--ttl", "7d", "--depth", "1")
    assert tokens.read(printed.stdout).steps[1].expires is None


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--agent", "x", "--depth", "2"), 1, "may be passed on 2 times"),
        (("--agent", "a//b"), 1, "not an agent's name"),
        (("--agent", "x", "--profile", "missing"), 1, "missing"),
        (("--agent", "x", "--ttl", "soon"), 2, "not a duration"),
        (("--agent", "x", "--bearer", "bob"), 2, "by who makes the grant"),
        (("--agent", "x", "--host-group", "g"), 2, "by who makes the grant"),
        (("--agent", "x", "--uses", "0"), 2, "0"),
        ((), 2, "--agent"),
    ],
)
def test_what_cannot_be_narrowed(
    parent: Path, options: tuple[str, ...], status: int, words: str
) -> None:
    done = rictl("delegate", "--from", parent, *options)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr


def test_one_that_is_over_is_not_passed_on(parent: Path) -> None:
    parent.write_text(signed(expires=int(time.time()) - 5))
    done = rictl("delegate", "--from", parent, "--agent", "x")
    assert (done.returncode, "expired at" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("text", "words"), [("", "no grant"), ("ri1.x", "no grant"), ("\xff", "no grant")]
)
def test_what_is_no_grant(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "x.grant"
    file.write_text(text, encoding="latin-1")
    for command in (("delegate", "--agent", "x", "--from", file), ("grant", "show", file)):
        done = rictl(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
    gone = rictl("grant", "show", tmp_path / "gone")
    assert (gone.returncode, "No such file" in gone.stderr) == (1, True)


def test_a_grant_is_shown_without_a_daemon(parent: Path) -> None:
    parent.write_text(tokens.narrow(signed(purpose="a\x1b[31mb"), Step(CODER, uses=1)))
    done = rictl("grant", "show", parent)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[1].startswith("holds here unknown: cannot reach the daemon")
    assert [line.strip() for line in lines].count(f"> {CODER}") == 2
    assert "a\\x1b[31mb" in done.stdout
    assert "passed on 2 times" in done.stdout
    shown = json.loads(rictl("grant", "show", parent, "--json").stdout)
    assert shown["holds"] is None
    assert [link["uses"] for link in shown["links"]] == [None, 1]
    assert all(len(link["revocation_id"]) == 128 for link in shown["links"])


def test_making_one_needs_the_daemon_and_a_profile() -> None:
    done = rictl("delegate", "--agent", "x", "--profile", "ci-agent")
    assert (done.returncode, "cannot reach the daemon" in done.stderr) == (3, True)
    done = rictl("delegate", "--agent", "x")
    assert (done.returncode, "--profile is missing" in done.stderr) == (2, True)

# SPDX-License-Identifier: Apache-2.0
"""The grants of docs/howto-delegate.md, run as they are written there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.commands import Shell
from tests.support.daemon import Daemon, User

TEXT = (ROOT / "docs" / "howto-delegate.md").read_text(encoding="utf-8").partition("## Pass")[2]


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def daemon(user: User) -> Iterator[Daemon]:
    made = Daemon(user)
    made.delegations.write_text(block("yaml").replace("user:alice", f"user:{user.name}"))
    try:
        made.start()
        yield made
    finally:
        made.clean()


def test_the_commands_do_what_the_text_says(daemon: Daemon, user: User) -> None:
    place = user.home / "project"
    place.mkdir()
    os.chown(place, user.uid, user.gid)
    typed = Shell(daemon, user, place).type
    lines = [line[2:] for line in block("console").splitlines()]
    make, code, narrow, show, review, again, revoke = [typed(line) for line in lines]
    for done in (make, code, narrow, show, revoke):
        assert done.returncode == 0, (done.args, done.stderr)
    assert "holds here yes" in show.stdout
    assert "> spiffe://test.example/agent/reviewer" in show.stdout
    assert review.stdout == "fixed\n"
    assert review.returncode not in (0, 125), review.stderr
    assert (place / "notes.txt").read_text() == "fixed\n"
    assert (again.returncode, again.stdout) == (125, "")
    assert "used up" in again.stderr
    sessions = daemon.sessions(everything=True)
    agents = [f"spiffe://test.example/agent/{name}" for name in ("coder", "reviewer")]
    assert sessions[-1]["chain"] == [f"user:{user.name}", *agents]
    assert "issue 12 is closed" in daemon.rictl("log", "--verb", "grant.revoke").stdout
    assert "was revoked" in typed("ri-exec --grant reviewer.grant -- true").stderr
    for file in Path(place).glob("*.grant"):
        assert file.stat().st_mode & 0o777 == 0o600

# SPDX-License-Identifier: Apache-2.0
"""The sub-agents of docs/howto-delegate.md, run as they are written there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest

from tests.support.checkout import ROOT
from tests.support.commands import Shell
from tests.support.daemon import Daemon, User

TEXT = (ROOT / "docs" / "howto-delegate.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## Let an agent start others")[2].partition("\n## ")[0]


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
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
    place = user.home / "reviewed"
    place.mkdir()
    (place / ".env").write_text("secret\n")
    for path in (place, place / ".env"):
        os.chown(path, user.uid, user.gid)
    lines = [line[2:] for line in block("console").splitlines()]
    start, *typed, log = lines
    assert typed.pop() == "exit"
    done = Shell(daemon, user, place).type(start, "\n".join(typed))
    assert done.stdout == "fixed\n", (done.stdout, done.stderr)
    assert (place / "notes.txt").read_text() == "fixed\n"
    daemon.settled()
    last = max(daemon.sessions(everything=True), key=lambda each: str(each["id"]))
    names = [f"spiffe://test.example/agent/{name}" for name in ("coder", "reviewer")]
    assert last["chain"] == [f"user:{user.name}", *names]
    shown = daemon.rictl(*log.split()[1:]).stdout
    assert f"{place}/.env" in shown
    assert f"{place}/notes.txt" in shown

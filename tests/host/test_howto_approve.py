# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/howto-approve.md, run as they are written there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.commands import Shell
from tests.support.daemon import Daemon, User, wait_until

TEXT = (ROOT / "docs" / "howto-approve.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\$ (.+)$", TEXT, re.MULTILINE)


@pytest.fixture
def daemon(user: User) -> Iterator[Daemon]:
    made = Daemon(user)
    profile = re.findall(r"^```yaml\n(name: .*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[0]
    (made.profiles / "release-agent.yaml").write_text(profile)
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture
def project(user: User) -> Iterator[Path]:
    """A checkout of alice's with something to push, and where it goes."""
    place = user.home / "project"
    script = """
    git init -q --bare ~/project/.upstream && git init -q -b main ~/project && cd ~/project
    git config user.email alice@example.org && git config user.name Alice
    git remote add origin ~/project/.upstream
    git commit -q --allow-empty -m "release 1.4"
    """
    place.mkdir()
    os.chown(place, user.uid, user.gid)
    done = subprocess.run(
        ["/bin/sh", "-ec", script],
        env={"HOME": str(user.home), "PATH": "/usr/bin:/bin"},
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    yield place
    shutil.rmtree(place)


def waiting(daemon: Daemon) -> str:
    """The id of the ask that waits."""
    found: list[str] = []

    def there() -> bool:
        found[:] = [each["id"] for each in daemon.request("GET", "/v1/asks")[1]["asks"]]
        return bool(found)

    wait_until(there, 30)
    return found[0]


@pytest.mark.parametrize("way", ["rictl", "curl"])
def test_the_commands_do_what_the_text_says(
    daemon: Daemon, user: User, stranger: User, project: Path, way: str
) -> None:
    start, listing, approve, later, _webhook = LINES
    pushing = Shell(daemon, user, project).start(start)
    identity = waiting(daemon)
    assert pushing.poll() is None
    output, _errors = Shell(daemon, user, project).start(listing).communicate(timeout=30)
    assert f"{identity}  proc.exec  /usr/bin/git" in output
    assert "git push origin main" in output
    assert "pushes are reviewed" in output
    if way == "rictl":
        done = Shell(daemon, user, project).start(approve.replace("ID", identity))
    else:
        if shutil.which("curl") is None:
            pytest.skip("curl is not on this host")
        with contextlib.closing(sqlite3.connect(daemon.state / "state.db")) as database:
            (token,) = database.execute("SELECT token FROM asks WHERE id = ?", (identity,))
        line = later.replace("/run/ri/ri.sock", str(daemon.socket))
        line = line.replace("TOKEN", token[0]).replace("asks/ID", f"asks/{identity}")
        done = Shell(daemon, stranger, stranger.home).start(line)
    output, errors = done.communicate(timeout=30)
    assert done.returncode == 0, errors
    output, errors = pushing.communicate(timeout=60)
    assert pushing.returncode == 0, errors
    assert f"is held until it is answered (ask {identity}): pushes are reviewed" in errors
    assert "main -> main" in errors
    (record,) = daemon.records(verb="ask.answer")
    assert record["verdict"] == "allow"


def test_the_lines_are_found() -> None:
    assert [line.split()[0] for line in LINES] == [
        "ri-exec",
        "rictl",
        "rictl",
        "curl",
        "/usr/lib/ri/examples/ask_webhook.py",
    ]

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
from tests.support.daemon import PYTHON, Daemon, User, wait_until

TEXT = (ROOT / "docs" / "howto-approve.md").read_text(encoding="utf-8")
COMMANDS = {
    "rictl": f'exec {PYTHON} -m monitor.cli.rictl "$@"',
    "ri-exec": f'exec /usr/bin/python3 -I -S {ROOT}/monitor/launch/ri_exec.py "$@"',
}
LINES = re.findall(r"^\$ (.+)$", TEXT, re.MULTILINE)


@pytest.fixture
def daemon(user: User) -> Iterator[Daemon]:
    made = Daemon(user)
    profile = re.findall(r"^```yaml\n(name: .*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[0]
    (made.profiles / "release-agent.yaml").write_text(profile)
    folder = made.folder / "bin"
    folder.mkdir()
    for name, command in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/sh\n{command}\n")
        (folder / name).chmod(0o755)
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


def typed(daemon: Daemon, user: User, folder: Path, line: str) -> subprocess.Popen[str]:
    path = f"{daemon.folder}/bin:/usr/bin:/bin"
    return subprocess.Popen(
        ["/bin/bash", "-c", line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=daemon.environment(user) | {"PATH": path, "PYTHONPATH": str(ROOT)},
        user=user.uid,
        group=user.gid,
        extra_groups=[],
    )


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
    pushing = typed(daemon, user, project, start)
    identity = waiting(daemon)
    assert pushing.poll() is None
    output, _errors = typed(daemon, user, project, listing).communicate(timeout=30)
    assert f"{identity}  proc.exec  /usr/bin/git" in output
    assert "git push origin main" in output
    assert "pushes are reviewed" in output
    if way == "rictl":
        done = typed(daemon, user, project, approve.replace("ID", identity))
    else:
        if shutil.which("curl") is None:
            pytest.skip("curl is not on this host")
        with contextlib.closing(sqlite3.connect(daemon.state / "state.db")) as database:
            (token,) = database.execute("SELECT token FROM asks WHERE id = ?", (identity,))
        line = later.replace("/run/ri/ri.sock", str(daemon.socket))
        line = line.replace("TOKEN", token[0]).replace("asks/ID", f"asks/{identity}")
        done = typed(daemon, stranger, stranger.home, line)
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

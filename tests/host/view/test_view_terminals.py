# SPDX-License-Identifier: Apache-2.0
"""Terminals in a view: new ones work, those of the user's other shells are not there."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.policy.plan import FileRule
from tests.support.checkout import ROOT
from tests.support.daemon import User
from tests.support.views import ALL, ORIGIN, inside, plan_of, standard

RULE = FileRule("/dev/pts", True, ALL, ORIGIN)


@pytest.fixture
def other_terminal(user: User) -> Iterator[Path]:
    """The terminal of another shell of the same user."""
    master, slave = pty.openpty()
    try:
        os.fchown(slave, user.uid, -1)
        yield Path(os.ttyname(slave))
    finally:
        os.close(master)
        os.close(slave)


def test_other_terminals_cannot_be_opened(
    user: User, workspace: Path, other_terminal: Path
) -> None:
    command = f"echo x 2>&1 > {other_terminal} && echo DONE; ls /dev/pts"
    assert inside(user, workspace, None, command).startswith("DONE\n")
    plan = plan_of(workspace, rules=[RULE], own_terminals=True)
    without = plan_of(workspace, rules=[RULE], own_terminals=False)
    assert inside(user, workspace, without, command).startswith("DONE\n")
    output = inside(user, workspace, plan, command)
    assert "No such file" in output or "Permission denied" in output
    assert output.endswith("\nptmx\n")


def test_they_cannot_be_opened_where_they_are_mounted_once_more(
    user: User, workspace: Path, other_terminal: Path
) -> None:
    """In the folder of a chroot, say; made in a namespace of the test's own."""
    other = user.home / "pts"
    other.mkdir()
    script = f"""
mount --make-rprivate /
mount --bind /dev/pts {other}
exec {sys.executable} -c '
import sys
sys.path.insert(0, "{ROOT}")
from pathlib import Path
from tests.support.views import *
user, workspace = User("{user.name}"), Path("{workspace}")
rules = [FileRule(place, True, ALL, ORIGIN) for place in ("/dev/pts", "{other}")]
plan = plan_of(workspace, [], rules, own_terminals=bool(int(sys.argv[1])))
print(inside(user, workspace, plan, "echo x > {other}/{other_terminal.name} && echo DONE"))
' "$1"
"""
    try:
        free, governed = (
            subprocess.run(
                ["unshare", "-m", "sh", "-c", script, "sh", own],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for own in "01"
        )
    finally:
        other.rmdir()
    assert "DONE" in free
    assert "Permission denied" in governed
    assert "DONE" not in governed


NEW = """
import os, pty, stat
master, slave = pty.openpty()
name = os.ttyname(slave)
facts = os.stat(name)
print(name, facts.st_uid == os.getuid(), oct(stat.S_IMODE(facts.st_mode)))
again = os.open(name, os.O_RDWR | os.O_NOCTTY)
os.write(again, b"hello\\n")
print(os.read(master, 100))
print(sorted(os.listdir("/dev/pts")))
"""


def test_new_terminals_work(user: User, workspace: Path) -> None:
    program = workspace / "new.py"
    program.write_text(NEW)
    output = inside(user, workspace, standard(workspace), f"/usr/bin/python3 {program}")
    lines = output.splitlines()
    assert lines == ["/dev/pts/0 True 0o620", "b'hello\\r\\n'", "['0', 'ptmx']"]


def test_script_runs_a_shell_in_one(user: User, workspace: Path) -> None:
    command = "script -qec 'tty; test -t 0 && echo yes' /dev/null < /dev/null"
    output = inside(user, workspace, standard(workspace), command)
    assert output.split() == ["/dev/pts/0", "yes"]


def test_each_session_has_its_own(user: User, workspace: Path) -> None:
    command = "script -qec 'ls /dev/pts; sleep 0.2' /dev/null < /dev/null"
    for _ in range(2):
        assert inside(user, workspace, standard(workspace), command).split() == ["0", "ptmx"]

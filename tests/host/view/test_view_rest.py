# SPDX-License-Identifier: Apache-2.0
"""What a plan does not let be written is read-only in the view; no Landlock here.

Each refusal succeeds in a view without that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from monitor.daemon.view import rest as view_rest
from monitor.policy.plan import FileRule
from tests.support.checkout import ROOT
from tests.support.daemon import User
from tests.support.views import (
    ALL,
    ORIGIN,
    READ,
    Child,
    as_user,
    build_meanwhile,
    inside,
    plan_of,
)

OUTSIDE = {
    "mode": "chmod 777 {file}",
    "owner": "chown $(id -u) {file}",
    "times": "touch -t 200001010000 {file}",
    "attribute": 'python3 -c \'import os; os.setxattr("{file}", "user.x", b"1")\'',
    "content": "echo x > {file}",
    "new": "touch {folder}/new",
    "removed": "rm -f {file} && test ! -e {file}",
    "renamed": "mv {file} {folder}/other",
    "folder": "mkdir {folder}/made",
    "moved in": "mv {folder} {work}/taken",
    "mode of the folder": "chmod 700 {folder}",
}


@pytest.fixture
def folder(user: User) -> Iterator[Path]:
    """A folder of the user's that no rule of the plan names."""
    folder = user.home / "outside"
    as_user(user, f"mkdir {folder}; echo outside > {folder}/file")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("what", OUTSIDE)
def test_outside_nothing_changes(user: User, workspace: Path, folder: Path, what: str) -> None:
    text = OUTSIDE[what].format(file=folder / "file", folder=folder, work=workspace)
    command = f"{{ {text}; }} 2>&1 && echo DONE"
    before = (folder / "file").stat()
    output = inside(user, workspace, plan_of(workspace, read_only_rest=True), command)
    assert "Read-only file system" in output
    assert "DONE" not in output
    assert (folder / "file").stat() == before
    assert inside(user, workspace, plan_of(workspace), command).endswith("DONE\n")


def test_inside_all_goes_on(user: User, workspace: Path) -> None:
    command = """
set -e
chmod 700 f; touch -t 200001010000 f; echo 2 >> f; mkdir made; mv f made/g; rm -r made
echo x > /dev/null; echo x > /tmp/$$; chmod 600 /tmp/$$; rm /tmp/$$
echo done
"""
    assert inside(user, workspace, plan_of(workspace, read_only_rest=True), command) == "done\n"


def test_one_file_is_writable_by_itself(user: User, workspace: Path, folder: Path) -> None:
    rules = [FileRule(str(folder / "file"), False, ALL, ORIGIN)]
    plan = plan_of(workspace, rules=rules, read_only_rest=True)
    command = f"echo more >> {folder}/file && chmod 600 {folder}/file; touch {folder}/beside 2>&1"
    assert "Read-only" in inside(user, workspace, plan, command)
    assert (folder / "file").read_text() == "outside\nmore\n"


def test_what_is_not_there_is_left_out(user: User, workspace: Path, folder: Path) -> None:
    rules = [FileRule(str(folder / "later"), True, ALL, ORIGIN)]
    plan = plan_of(workspace, rules=rules, read_only_rest=True)
    assert "Read-only" in inside(user, workspace, plan, f"mkdir {folder}/later 2>&1")


def test_only_what_every_link_grants(user: User, workspace: Path, folder: Path) -> None:
    plan = plan_of(workspace, rules=[FileRule(str(folder), True, ALL, ORIGIN)], read_only_rest=True)
    narrow = replace(plan.policies[0], files=(FileRule(str(folder), True, READ, ORIGIN),))
    both = replace(plan, policies=(*plan.policies, narrow))
    command = f"echo x > {folder}/file && echo DONE; echo x > f && echo DONE"
    assert "DONE" not in inside(user, workspace, both, command)
    assert inside(user, workspace, plan, command) == "DONE\nDONE\n"


def test_everything_may_be_writable(user: User, workspace: Path, folder: Path) -> None:
    plan = plan_of(workspace, rules=[FileRule("/", True, ALL, ORIGIN)], read_only_rest=True)
    assert inside(user, workspace, plan, f"chmod 600 {folder}/file && echo DONE") == "DONE\n"


def test_the_host_s_mounts_in_a_writable_tree_stay_as_they_are(
    user: User, workspace: Path, folder: Path
) -> None:
    """One is read-only and one is not; made in a namespace of the test's own."""
    script = f"""
mount --make-rprivate /
mkdir {workspace}/closed {workspace}/open
mount --bind {folder} {workspace}/closed
mount -o remount,ro,bind {workspace}/closed
mount --bind {folder} {workspace}/open
exec {sys.executable} -c '
import sys
sys.path.insert(0, "{ROOT}")
from pathlib import Path
from tests.support.views import *
user, workspace = User("{user.name}"), Path("{workspace}")
plan = plan_of(workspace, read_only_rest=True)
print(inside(user, workspace, plan, "touch closed/file 2>&1; touch open/file && echo open"))
'
"""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, check=True
    )
    assert "Read-only file system" in done.stdout
    assert "open\n" in done.stdout


def test_a_tree_that_is_moved_away_meanwhile(user: User, workspace: Path) -> None:
    """Where the name leads elsewhere when all is mounted, the launch ends."""

    def swap() -> None:
        # The maker stands in the session's namespace; who swaps does not.
        script = f"mv {workspace} {workspace}.aside; mkdir {workspace}"
        subprocess.run(["nsenter", "-t", str(os.getppid()), "-m", "sh", "-c", script], check=True)

    child = Child(user, "true", workspace)
    try:
        plan = plan_of(workspace, read_only_rest=True)
        answer = build_meanwhile(child, plan, view_rest, "_look_again", swap)
        assert answer.startswith(f"cannot keep {workspace} writable: it was moved")
    finally:
        child.end()
        workspace.rmdir()
        Path(f"{workspace}.aside").rename(workspace)

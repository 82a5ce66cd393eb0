# SPDX-License-Identifier: Apache-2.0
"""What a view covers: patterns, links, other mounts; /proc, /run and ssh's files."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.daemon.view.viewing import ViewError
from monitor.policy.plan import (
    FileRule,
    MaskKind,
)
from tests.support.checkout import ROOT
from tests.support.daemon import User
from tests.support.views import ORIGIN, READ, SECRET, Child, as_user, inside, map_single, plan_of


@pytest.mark.parametrize(
    ("pattern", "hidden"),
    [
        ("/.env", {".env"}),
        ("/nothing", set()),
        ("/.e?v", {".env"}),
        ("/.[!a]nv", {".env"}),
        ("/*/er/.env", {"deep/er/.env"}),
        ("/deep/er/*", {"deep/er/.env", "deep/er/private/key"}),
        ("/**/.env", {".env", "deep/er/.env"}),
        ("/**/er/**/key", {"deep/er/private/key"}),
        ("/deep/**", {"deep/er/.env", "deep/er/private/key"}),
        ("/**/priv*", {"deep/er/private/key"}),
        ("/lead/er/.env", {"deep/er/.env"}),
        ("/alias", {".env"}),
    ],
)
def test_patterns(user: User, workspace: Path, pattern: str, hidden: set[str]) -> None:
    as_user(user, f"cd {workspace}; ln -s deep lead; ln -s .env alias; ln -s /etc/passwd out")
    plan = plan_of(workspace, [(f"{workspace}{pattern}", MaskKind.HIDE)])
    secrets = [".env", "deep/er/.env", "deep/er/private/key"]
    command = f"for f in {' '.join(secrets)}; do cat $f >/dev/null 2>&1 || echo $f; done"
    assert set(inside(user, workspace, plan, command).split()) == hidden


def test_a_link_out_of_reach_is_left_alone(user: User, workspace: Path) -> None:
    as_user(user, f"ln -s /root {workspace}/out")
    child = Child(user, "true", workspace)
    viewed = child.view(plan_of(workspace, [(f"{workspace}/out", MaskKind.HIDE)]))
    child.end()
    assert viewed.masked == 0


def test_what_is_not_covered_is_noted(user: User, workspace: Path) -> None:
    as_user(user, f"cd {workspace}; ln .env second; ln -s .env third")
    masks = [(f"{workspace}/.env", MaskKind.HIDE), (f"{workspace}/third", MaskKind.HIDE)]
    child = Child(user, "true", workspace)
    viewed = child.view(plan_of(workspace, masks))
    child.end()
    assert viewed.masked == 1
    assert sorted(note.split(" ", 1)[0] for note in viewed.notes) == [
        f"{workspace}/.env",
        f"{workspace}/third",
    ]


def test_too_many_matches_are_an_error(user: User, workspace: Path) -> None:
    as_user(user, f"cd {workspace}; mkdir many; cd many; touch $(seq 20)")
    plan = plan_of(workspace, [(f"{workspace}/many/*", MaskKind.HIDE)], mask_limit=10)
    child = Child(user, "true", workspace)
    with pytest.raises(ViewError, match=r"many/\*$"):
        child.view(plan)
    child.end()


def test_other_mounts_of_the_same_files_are_masked(user: User, workspace: Path) -> None:
    """A bind mount shows the secret at another path; made in a namespace of the test's own."""
    other = user.home / "other"
    other.mkdir()
    script = f"""
mount --make-rprivate /
mount --bind {workspace} {other}
exec {sys.executable} -c '
import sys
sys.path.insert(0, "{ROOT}")
from pathlib import Path
from tests.support.views import *
user, workspace = User("{user.name}"), Path("{workspace}")
rule = FileRule("{other}", True, READ, ORIGIN)
masks = [(f"{{workspace}}/.env", MaskKind.HIDE)] if int(sys.argv[1]) else []
plan = plan_of(workspace, masks, [rule])
print(inside(user, workspace, plan, "cat .env; cat {other}/.env"))
' "$1"
"""
    try:
        results = [
            subprocess.run(
                ["unshare", "-m", "sh", "-c", script, "sh", masked],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for masked in "01"
        ]
    finally:
        other.rmdir()
    assert results[0].count(SECRET) == 2
    assert results[1].count(SECRET) == 0
    assert results[1].count("Permission denied") == 2


# -- /proc, /run, ssh --------------------------------------------------------------------------


def test_only_its_own_processes_are_seen(user: User, workspace: Path) -> None:
    neighbour = subprocess.Popen(
        ["sleep", "60"], user=user.uid, group=user.gid, env={"NEIGHBOUR": SECRET}
    )
    command = (
        f"cat /proc/{neighbour.pid}/environ; ls /proc/1/root/ /proc/{neighbour.pid}/root/;"
        " ls -d /proc/[0-9]* | wc -l"
    )
    try:
        output = inside(user, workspace, plan_of(workspace, own_proc=True), command)
        assert SECRET not in output
        assert "bin" not in output
        assert int(output.split()[-1]) <= 4
        assert SECRET in inside(user, workspace, None, command)
    finally:
        neighbour.kill()
        neighbour.wait()


@pytest.fixture
def run_folder(user: User) -> Iterator[Path]:
    folder = Path(f"/run/{user.name}")
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_sockets_in_run_are_hidden_unless_listed(
    user: User, workspace: Path, run_folder: Path
) -> None:
    (run_folder / "notes").write_text("a file\n")
    (run_folder / "closed").mkdir(mode=0o700)
    (run_folder / "closed" / "inner").write_text("root's\n")
    command = f"""
for name in listed other late; do
    python3 -c 'import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])' \
        {run_folder}/$name 2>/dev/null && echo $name
done
cat {run_folder}/notes {run_folder}/closed/inner 2>/dev/null
touch {run_folder}/new 2>/dev/null && echo made
ls -A /run | wc -l
"""
    rules = [
        FileRule(f"{run_folder}/notes", False, READ, ORIGIN),
        FileRule(f"{run_folder}/closed/inner", False, READ, ORIGIN),
    ]
    plan = plan_of(workspace, [], rules, hide_run=True, sockets=(f"{run_folder}/listed",))
    with socket.socket(socket.AF_UNIX) as listed:
        others = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        try:
            for each, name in zip([listed, others[0]], ["listed", "other"], strict=True):
                each.bind(f"{run_folder}/{name}")
                (run_folder / name).chmod(0o666)
                each.listen()
            child = Child(user, command, workspace)
            child.view(plan)
            others[1].bind(f"{run_folder}/late")
            (run_folder / "late").chmod(0o666)
            others[1].listen()
            assert child.go().split("\n") == ["listed", "a file", "1", ""]
            bare = inside(user, workspace, None, command).split("\n")
            assert bare[:4] == ["listed", "other", "late", "a file"]
        finally:
            for each in others:
                each.close()


def test_sockets_in_tmp_are_hidden(user: User, workspace: Path) -> None:
    folder = Path(f"/tmp/ssh-{user.name}")
    as_user(user, f"mkdir -m 700 {folder}; echo x > {folder}/agent.1")
    command = f"cat {folder}/agent.1 2>/dev/null || echo hidden"
    try:
        plan = plan_of(workspace, hide_run=True)
        assert inside(user, workspace, plan, command) == "hidden\n"
        assert inside(user, workspace, None, command) == "x\n"
    finally:
        shutil.rmtree(folder)


def test_ssh_reads_its_files(user: User, workspace: Path) -> None:
    extra = Path("/etc/ssh/ssh_config.d/ri-test.conf")
    extra.write_text("Host ri-test.example\n    Port 2222\n")
    command = "ssh -G ri-test.example 2>&1 | grep -iE '^port|owner'; chmod 644 /etc/ssh/ssh_config"
    try:
        output = inside(user, workspace, plan_of(workspace), command)
        assert output.splitlines()[0] == "port 2222"
        assert "Read-only file system" in output
        # In the same user namespace, with no copies in place.
        child = Child(user, command, workspace)
        map_single(child)
        assert "Bad owner" in child.go()
    finally:
        extra.unlink()

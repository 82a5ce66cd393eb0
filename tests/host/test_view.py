# SPDX-License-Identifier: Apache-2.0
"""The view by itself: a child of an ordinary user, the mounts, and every attack on them.

No Landlock and no seccomp here: what fails, fails because of the mounts. Each attack is also run
without the view, where it must succeed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from monitor.daemon import viewing
from monitor.daemon.view_mounts import build
from monitor.daemon.view_request import ViewRequest
from monitor.daemon.viewing import Identity, Viewed, ViewError, make
from monitor.policy.action import Origin
from monitor.policy.plan import (
    EnvironmentPlan,
    FileAccess,
    FileRule,
    Limits,
    MaskKind,
    MaskRule,
    Plan,
    Policy,
    SyscallPlan,
    ViewPlan,
)
from tests.support.daemon import ROOT, User, wait_until

ORIGIN = Origin("test", "files.deny", "a rule of the test", "test.yaml", 1)
READ = FileAccess.READ | FileAccess.EXECUTE
ALL = READ | FileAccess.WRITE
SECRET = "TOKEN=very-secret"

# Unshares, says so, waits for a line, drops everything, runs the command.
CHILD = """
import ctypes, os, sys
flags, uid, gid, cwd, command = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
if int(flags) and libc.unshare(int(flags)):
    sys.exit(os.strerror(ctypes.get_errno()))
sys.stdout.write("unshared\\n")
sys.stdout.flush()
sys.stdin.readline()
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(int(uid), int(uid), int(uid))
libc.prctl(38, 1, 0, 0, 0)
os.chdir(cwd)
os.execv("/bin/sh", ["sh", "-c", command])
"""
NEWNS = 0x20000
NEWUSER = 0x10000000


class Child:
    """A process that waits for its view; `flags` is what it unshares."""

    def __init__(
        self, user: User, command: str, cwd: Path, flags: int = NEWNS | NEWUSER, root: bool = False
    ) -> None:
        self.user = user
        who: dict[str, Any] = {"user": user.uid, "group": user.gid, "extra_groups": []}
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [
                "/usr/bin/python3",
                "-c",
                CHILD,
                *map(str, (flags, user.uid, user.gid, cwd, command)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env={"HOME": str(user.home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            **({} if root else who),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "unshared\n", line + self.process.stdout.read()
        self.identity = Identity(user.uid, user.gid, bool(flags & NEWUSER))

    def view(self, plan: Plan) -> Viewed:
        return asyncio.run(make(self.process.pid, plan, self.identity))

    def go(self) -> str:
        """Let it run its command; what it printed."""
        output, _ = self.process.communicate("go\n", timeout=60)
        return output

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def plan_of(
    workspace: Path,
    masks: Sequence[tuple[str, MaskKind]] = (),
    rules: Sequence[FileRule] = (),
    **view: Any,
) -> Plan:
    """A plan that lets the session write in `workspace` and read the system."""
    files = (
        FileRule(str(workspace), True, ALL, ORIGIN),
        FileRule("/tmp", True, ALL, ORIGIN),
        FileRule("/usr", True, READ, ORIGIN),
        FileRule("/etc", True, READ, ORIGIN),
        *rules,
    )
    made = tuple(MaskRule(pattern, kind, ORIGIN) for pattern, kind in masks)
    policy = Policy("test", "", files, made, (), (), (), (), ())
    settings: dict[str, Any] = {"own_proc": False, "hide_run": False, "sockets": ()} | view
    return Plan(
        policies=(policy,),
        syscalls=SyscallPlan((), 1 << 30),
        view=ViewPlan(**settings),
        environment=EnvironmentPlan((), (), ()),
        limits=Limits(),
        workspace=str(workspace),
        home=str(workspace.parent),
    )


def standard(workspace: Path) -> Plan:
    """What the shipped profiles ask for in a repository."""
    return plan_of(
        workspace,
        [
            (f"{workspace}/.git/hooks", MaskKind.READ_ONLY),
            (f"{workspace}/.git/config", MaskKind.READ_ONLY),
            (f"{workspace}/**/.env", MaskKind.HIDE),
            (f"{workspace}/deep/er/private", MaskKind.HIDE),
            (f"{workspace}/tools/curl", MaskKind.NO_EXEC),
        ],
        own_proc=True,
        hide_run=True,
    )


@pytest.fixture(scope="module")
def template(user: User) -> Iterator[Path]:
    """A repository with a secret, made once."""
    folder = user.home / "template"
    script = f"""
set -e
git init -q {folder}; cd {folder}
git config user.email a@example; git config user.name a
echo 1 > f; mkdir -p deep/er/private tools; echo '{SECRET}' > .env
cp .env deep/er/.env; cp .env deep/er/private/key; cp /bin/true tools/curl
git add f; git commit -qm a
"""
    as_user(user, script)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def workspace(user: User, template: Path) -> Iterator[Path]:
    folder = user.home / "work"
    as_user(user, f"cp -a {template} {folder}")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def _helper() -> Iterator[None]:
    viewing.prepare()
    yield
    viewing.finish()


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """The host's mounts and the worker's descriptors are the same after every test."""
    table = Path("/proc/self/mountinfo").read_text()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    yield
    assert Path("/proc/self/mountinfo").read_text() == table
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def as_user(user: User, script: str) -> str:
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        cwd=user.home,
        env={"HOME": str(user.home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def inside(user: User, workspace: Path, plan: Plan | None, command: str) -> str:
    """The output of `command` in a session with the view of `plan`, or with none."""
    child = Child(user, command, workspace, NEWNS | NEWUSER if plan else 0)
    try:
        if plan:
            child.view(plan)
        return child.go()
    finally:
        child.end()


# -- attacks -----------------------------------------------------------------------------------

ATTACKS = {
    "write a hook": "echo x > .git/hooks/post-commit",
    "git config": "git config core.hooksPath /tmp",
    "write git's config": "echo x >> .git/config",
    "truncate git's config": "truncate -s 0 .git/config",
    "replace git's config": "cp .git/config c && mv -f c .git/config",
    "move the folder": "mv .git/hooks .git/h2",
    "move the parent": "mv .git .git2",
    "remove the folder": "rm -rf .git/hooks && test ! -e .git/hooks",
    "chmod the folder": "chmod 700 .git/hooks",
    "read the secret": f"grep -q {SECRET} .env",
    "read the deep secret": f"grep -q {SECRET} deep/er/.env",
    "list a hidden folder": "ls deep/er/private/key",
    "read in a hidden folder": "cat deep/er/private/key",
    "open up the secret": f"chmod 600 .env && grep -q {SECRET} .env",
    "move the secret": f"mv .env e2 && grep -q {SECRET} e2",
    "remove the secret": "rm -f .env && test ! -e .env",
    "hard link the secret": f"ln .env e3 && grep -q {SECRET} e3",
    "copy the secret": f"cp .env e4 && grep -q {SECRET} e4",
    "move a parent of the secret": f"mv deep deep2 && grep -q {SECRET} deep2/er/.env",
    "move the nearer parent": f"mv deep/er deep/e2 && grep -q {SECRET} deep/e2/.env",
    "reach it by a symbolic link": f"ln -s deep d && grep -q {SECRET} d/er/.env",
    "reach a hook by a symbolic link": "ln -s .git g && echo x > g/hooks/post-commit",
    "reach it through /proc/self/cwd": f"grep -q {SECRET} /proc/self/cwd/.env",
    "reach it through /proc/self/root": f"grep -q {SECRET} /proc/self/root$PWD/.env",
    "run a denied program": "tools/curl",
    "run it by the loader": "/lib64/ld-linux-x86-64.so.2 tools/curl",
    "overwrite a denied program": "cp /bin/true tools/curl",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_fails_in_the_view_only(user: User, workspace: Path, attack: str) -> None:
    command = f"{{ {ATTACKS[attack]}; }} >/dev/null 2>&1 && echo DONE || echo failed"
    assert inside(user, workspace, standard(workspace), command) == "failed\n"
    assert (workspace / ".env").read_text() == f"{SECRET}\n"
    assert (workspace / "deep/er/.env").exists()
    assert not (workspace / ".git/hooks/post-commit").exists()
    assert inside(user, workspace, None, command) == "DONE\n"


PRIVILEGED = {
    "unmount": "umount .git/hooks",
    "unmount lazily": "umount -l .env",
    "remount": "mount -o remount,rw,bind .git/hooks",
    "unmount in a nested user namespace": "unshare -rm umount .git/hooks",
    "unmount all in a nested user namespace": "unshare -rm sh -c 'umount -l .git; umount -l .env'"
    f" && grep -q {SECRET} .env",
    "remount in a nested user namespace": "unshare -rm mount -o remount,rw,bind .git/hooks",
    "read in a nested user namespace": f"unshare -rm grep -q {SECRET} .env",
    "bind the parent elsewhere": f"mkdir m; unshare -rm sh -c 'mount --bind . m &&"
    f" grep -q {SECRET} m/.env'",
}


@pytest.mark.parametrize("attack", PRIVILEGED)
def test_mounts_cannot_be_undone(user: User, workspace: Path, attack: str) -> None:
    command = f"{{ {PRIVILEGED[attack]}; }} >/dev/null 2>&1 && echo DONE || echo failed"
    assert inside(user, workspace, standard(workspace), command) == "failed\n"


def test_a_nested_namespace_reads_the_secret_where_there_is_no_view(
    user: User, workspace: Path
) -> None:
    """So that the failures above are the view's, not this host's."""
    command = PRIVILEGED["bind the parent elsewhere"]
    command = f"{{ {command}; }} && echo DONE"
    assert inside(user, workspace, None, command) == "DONE\n"


def test_ordinary_work_goes_on(user: User, workspace: Path) -> None:
    script = f"""
set -e
echo 2 >> f; mkdir sub; echo x > sub/g; git add f sub; git commit -qm b
git log --oneline | wc -l
git checkout -q -b other; git mv f f2; git commit -qm c; git checkout -q -
git stash list; git gc -q; git tag t; git rebase -q HEAD~1
git clone -q . /tmp/clone-{user.name}; rm -rf /tmp/clone-{user.name}
mv sub/g sub/h; mv sub sub2; ln sub2/h sub2/i; rm -r sub2
/usr/bin/python3 -m venv --without-pip venv; venv/bin/python -c 'print(6 * 7)'
cat tools/curl | wc -c | xargs test 0 -lt
ls /proc/self/fd > /dev/null; grep -q processor /proc/cpuinfo; grep -q . /proc/sys/kernel/osrelease
ssh -G localhost 2>/dev/null | grep -c '^user '
tar cf - .git/HEAD | tar tf -
"""
    output = inside(user, workspace, standard(workspace), script)
    assert output.split() == ["2", "42", "1", ".git/HEAD"], output


# -- what the masks match ----------------------------------------------------------------------


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
from tests.host.test_view import *
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


def map_single(child: Child) -> None:
    process = os.open(f"/proc/{child.process.pid}", os.O_PATH)
    try:
        viewing._map_identity(process, child.identity)
    finally:
        os.close(process)


# -- the border with the child -----------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, NEWUSER], ids=["nothing", "the user namespace only"])
def test_a_child_that_did_not_unshare_is_refused(user: User, workspace: Path, flags: int) -> None:
    child = Child(user, "true", workspace, flags)
    child.identity = Identity(user.uid, user.gid, True)
    with pytest.raises(ViewError, match="has not left"):
        child.view(standard(workspace))
    child.end()


def test_a_namespace_of_another_user_is_refused(
    user: User, stranger: User, workspace: Path
) -> None:
    child = Child(stranger, "true", Path("/"))
    child.identity = Identity(user.uid, user.gid, True)
    with pytest.raises(ViewError, match="not its user's own"):
        child.view(standard(workspace))
    child.end()


def test_a_session_of_root_needs_no_user_namespace(user: User, workspace: Path) -> None:
    child = Child(user, "cat .env; echo x > .git/hooks/h; id -u", workspace, NEWNS, root=True)
    child.view(standard(workspace))
    output = child.go()
    assert output.count("Permission denied") == 1
    assert output.count("Read-only file system") == 1
    assert output.endswith(f"{user.uid}\n")


ENTER = """
import os, sys, ctypes
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(f"/proc/{sys.argv[1]}/ns/user", os.O_RDONLY)
if libc.setns(fd, 0x10000000):
    sys.exit("setns: " + os.strerror(ctypes.get_errno()))
print([line for line in open("/proc/self/status") if line.startswith("CapEff")][0].split()[1])
try:
    print(open("/etc/shadow").read()[:4])
except OSError as error:
    print(error.strerror)
libc.setgroups.argtypes = [ctypes.c_size_t, ctypes.c_void_p]
print("setgroups", libc.setgroups(0, None))
"""


@pytest.mark.parametrize(("wide", "outcome"), [(False, "Permission denied"), (True, "root")])
def test_the_owner_who_enters_from_outside_gains_nothing(
    user: User, workspace: Path, monkeypatch: pytest.MonkeyPatch, wide: bool, outcome: str
) -> None:
    """He has every capability in his user namespace: over what it maps, and that is himself."""

    def map_everything(process: int, _identity: Identity) -> None:
        for name in ("uid_map", "gid_map"):
            fd = os.open(name, os.O_WRONLY, dir_fd=process)
            os.write(fd, b"0 0 4294967295")
            os.close(fd)

    if wide:
        monkeypatch.setattr(viewing, "_map_identity", map_everything)
    child = Child(user, "true", workspace)
    child.view(standard(workspace))
    # /proc/PID/ns of a process that made itself undumpable by a change of ids is root's.
    done = subprocess.run(
        ["/usr/bin/python3", "-c", ENTER, str(child.process.pid)],
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        capture_output=True,
        text=True,
    )
    child.end()
    capabilities, shadow, groups = done.stdout.splitlines()
    assert int(capabilities, 16) != 0
    assert shadow == outcome
    assert groups == ("setgroups 0" if wide else "setgroups -1")


def test_failures_name_step_and_object(user: User, workspace: Path) -> None:
    request = ViewRequest.of(standard(workspace), Identity(user.uid, user.gid, True))
    null = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(ViewError, match="^cannot enter the mount namespace: .*Invalid argument"):
        build(null, request)
    os.close(null)


@pytest.mark.parametrize("pattern", ["relative/**", "/a/../b", "/a/./b"])
def test_a_pattern_that_is_no_plain_path_is_an_error(
    user: User, workspace: Path, pattern: str
) -> None:
    child = Child(user, "true", workspace)
    with pytest.raises(ViewError, match="not an absolute, plain path"):
        child.view(plan_of(workspace, [(pattern, MaskKind.HIDE)]))
    child.end()


# -- races and the worker ----------------------------------------------------------------------

SWAP = """
import os, signal, sys
os.chdir(sys.argv[1])
os.symlink("/etc", "etc-link")
os.makedirs("twin/hooks")
open("twin/config", "w").close()
print("swapping", flush=True)
while True:
    for other in ("etc-link", "twin"):
        os.rename(".git", "aside"); os.rename(other, ".git")
        os.rename(".git", other); os.rename("aside", ".git")
"""


def test_swapping_names_cannot_send_a_mask_elsewhere(user: User, workspace: Path) -> None:
    """A process outside exchanges `.git` for a link to /etc and for a folder of its own."""
    masks = [(f"{workspace}/.git/{name}", MaskKind.HIDE) for name in ("passwd", "hooks", "config")]
    racer = subprocess.Popen(
        ["/usr/bin/python3", "-c", SWAP, str(workspace)],
        user=user.uid,
        group=user.gid,
        stdout=subprocess.PIPE,
    )
    assert racer.stdout is not None
    racer.stdout.readline()
    made = refused = 0
    try:
        for _ in range(40):
            child = Child(user, "wc -l < /etc/passwd", workspace)
            try:
                viewed = child.view(plan_of(workspace, masks))
            except ViewError:
                refused += 1
                continue
            else:
                made += 1
                # /etc/passwd in reach by the rules may be masked (the link led there), never more.
                assert viewed.masked <= 3
            finally:
                child.end()
    finally:
        racer.kill()
        racer.communicate()
    assert made + refused == 40
    assert refused > 0, "the race was never met: nothing was tested"
    assert "root" in Path("/etc/passwd").read_text()


def test_the_worker_goes_on_undisturbed(user: User, workspace: Path) -> None:
    """Several views at once, from a loop with signals, threads and timers of its own."""

    async def worker(children: list[Child]) -> tuple[list[Viewed], int, int]:
        loop = asyncio.get_running_loop()
        signals = ticks = 0

        def count() -> None:
            nonlocal signals
            signals += 1

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1
                os.kill(os.getpid(), signal.SIGUSR1)

        loop.add_signal_handler(signal.SIGUSR1, count)
        stop = threading.Event()
        busy = asyncio.gather(*(asyncio.to_thread(spin, stop) for _ in range(2)))
        ticking = asyncio.create_task(tick())
        plans = [make(each.process.pid, standard(workspace), each.identity) for each in children]
        viewed = await asyncio.gather(*plans)
        await asyncio.sleep(0.01)
        ticking.cancel()
        stop.set()
        await busy
        loop.remove_signal_handler(signal.SIGUSR1)
        return list(viewed), signals, ticks

    def spin(stop: threading.Event) -> None:
        while not stop.is_set():
            sum(range(1000))

    children = [Child(user, "cat .env", workspace) for _ in range(6)]
    viewed, signals, ticks = asyncio.run(worker(children))
    assert [each.masked for each in viewed] == [6] * 6
    assert 0 < signals <= ticks
    assert all("Permission denied" in child.go() for child in children)


def helper_pids() -> tuple[int, list[int]]:
    """The helper, and the makers that it has forked."""
    viewing.prepare()
    process = viewing._helper._process
    assert process is not None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    wait_until(lambda: children.read_text() != "")
    return process.pid, [int(pid) for pid in children.read_text().split()]


def test_a_maker_that_hangs_is_in_nobody_s_way(user: User, workspace: Path) -> None:
    async def give_up(child: Child) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(
                make(child.process.pid, standard(workspace), child.identity), 0.2
            )

    _, makers = helper_pids()
    for pid in makers:
        os.kill(pid, signal.SIGSTOP)
    child = Child(user, "true", workspace)
    try:
        asyncio.run(give_up(child))
    finally:
        for pid in makers:
            os.kill(pid, signal.SIGKILL)
    child.end()
    assert "Permission denied" in inside(user, workspace, standard(workspace), "cat .env")


@pytest.mark.parametrize("which", ["helper", "maker"])
def test_a_killed_helper_is_started_again(user: User, workspace: Path, which: str) -> None:
    helper, makers = helper_pids()
    os.kill(helper if which == "helper" else makers[0], signal.SIGKILL)
    if which == "helper":
        os.kill(makers[0], signal.SIGKILL)
    time.sleep(0.1)
    assert "Permission denied" in inside(user, workspace, standard(workspace), "cat .env")


def test_the_helper_ends_with_the_worker(user: User) -> None:
    script = "from monitor.daemon import viewing; viewing.prepare(); import time;"
    script += "print(viewing._helper._process.pid, flush=True); time.sleep(60)"
    worker = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    helper = int(worker.stdout.readline())
    assert Path(f"/proc/{helper}").exists()
    worker.kill()
    worker.communicate()
    wait_until(lambda: not Path(f"/proc/{helper}").exists())


def test_a_dozen_masks_are_quick(user: User, workspace: Path) -> None:
    as_user(user, f"cd {workspace}; mkdir s; cd s; touch $(seq 12)")
    masks = [(f"{workspace}/s/{number}", MaskKind.HIDE) for number in range(1, 13)]
    plan = plan_of(workspace, masks, own_proc=True, hide_run=True)
    best = 1000.0
    for _ in range(10):
        child = Child(user, "true", workspace)
        viewed = child.view(plan)
        assert viewed.masked >= 12
        best = min(best, viewed.milliseconds)
        child.end()
    assert best < 20, f"{best} ms"  # 3 ms on a quiet machine

# SPDX-License-Identifier: Apache-2.0
"""Children that wait for a view, plans that ask for one, and a repository to attack."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monitor.daemon.view import viewing
from monitor.daemon.view.mounts import build
from monitor.daemon.view.request import ViewError, ViewRequest
from monitor.daemon.view.viewing import Identity, Viewed, make
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
from tests.support.daemon import User

ORIGIN = Origin("test", "files.deny", "a rule of the test", "test.yaml", 1)
READ = FileAccess.READ | FileAccess.EXECUTE
ALL = READ | FileAccess.WRITE
SECRET = "TOKEN=very-secret"

# Unshares, does `before`, says so, waits for a line, drops everything, runs the command.
CHILD = """
import ctypes, os, sys
flags, uid, gid, cwd, command, before = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
if int(flags) and libc.unshare(int(flags)):
    sys.exit(os.strerror(ctypes.get_errno()))
exec(before)
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
    """A process that waits for its view; it unshares `flags`, then runs the Python of `before`."""

    def __init__(
        self,
        user: User,
        command: str,
        cwd: Path,
        flags: int = NEWNS | NEWUSER,
        root: bool = False,
        before: str = "",
    ) -> None:
        self.user = user
        who: dict[str, Any] = {"user": user.uid, "group": user.gid, "extra_groups": []}
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [
                "/usr/bin/python3",
                "-c",
                CHILD,
                *map(str, (flags, user.uid, user.gid, cwd, command, before)),
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
    settings: dict[str, Any] = {
        "own_proc": False,
        "hide_run": False,
        "own_terminals": False,
        "read_only_rest": False,
        "sockets": (),
    } | view
    return Plan(
        policies=(policy,),
        syscalls=SyscallPlan((), 1 << 30),
        view=ViewPlan(**settings),
        environment=EnvironmentPlan((), ()),
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
        own_terminals=True,
        read_only_rest=True,
    )


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


def map_single(child: Child) -> None:
    process = os.open(f"/proc/{child.process.pid}", os.O_PATH)
    try:
        viewing._map_identity(process, child.identity)
    finally:
        os.close(process)


def build_meanwhile(
    child: Child, plan: Plan, owner: Any, moment: str, act: Callable[[], object]
) -> str:
    """Make the view in a process of the test's, with `act` done just before `owner.moment`."""
    map_single(child)
    namespace = os.open(f"/proc/{child.process.pid}/ns/mnt", os.O_RDONLY)
    read_end, write_end = os.pipe()
    maker = os.fork()
    if maker == 0:
        try:
            original = getattr(owner, moment)

            def interrupted(*arguments: object) -> object:
                setattr(owner, moment, original)
                act()
                return original(*arguments)

            setattr(owner, moment, interrupted)
            made = build(namespace, ViewRequest.of(plan, child.identity))
            os.write(write_end, f"masked {made.masked}".encode())
        except ViewError as error:
            os.write(write_end, str(error).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    os.close(namespace)
    os.waitpid(maker, 0)
    with os.fdopen(read_end) as answer:
        return answer.read()

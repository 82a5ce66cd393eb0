# SPDX-License-Identifier: Apache-2.0
"""Launchers that misbehave: scripts on the launcher's own modules, run as a user of the tests."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monitor.daemon.probes.tables import KernelTables
from monitor.kernel.cgroup import instance_root
from tests.support.checkout import ROOT
from tests.support.daemon import Daemon, User, wait_until

PRELUDE = """
import os, sys, time, signal
sys.path.insert(0, {root!r})
import _socket
from monitor.launch import kernel, options, protocol
from monitor.launch.channel import Channel
from monitor.launch.child import Child
from monitor.launch.failure import LaunchError

PROFILE = {profile!r}
channel = Channel.connect(options.launch_socket())
channel.connection.settimeout(30)

def fields(**more):
    wanted = dict(agent=b"demo/a", workspace=b"/tmp", cwd=b"/tmp", profile=PROFILE.encode())
    return list((wanted | more).items())

def raw(data, descriptors=()):
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join(
        each.to_bytes(4, "little") for each in descriptors))] if descriptors else []
    channel.connection.sendmsg([data], rights)

def answer():
    "Kind and first value of what the daemon says; None when it has closed the connection."
    try:
        message, _descriptors = channel._receive()
    except ConnectionError:
        message = None
    if message is None:
        print("closed")
    else:
        print(message.kind, message.fields[0][1].decode() if message.fields else "")
    sys.stdout.flush()
    return message

def session():
    "Ask properly; the session and its descriptors."
    channel.send("request", *fields())
    return channel.receive("session", protocol.DESCRIPTORS)

def fork(action):
    "Run `action` in a child and wait for it."
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            sys.stdout.flush()
            os._exit(0)
    return os.waitpid(pid, 0)[1]

def child(made):
    "A well-behaved child, up to the steps that the test leaves out."
    return Child(channel, *made, ["/bin/true"], os.getppid())
"""


def run(
    daemon: Daemon, profile: str, script: str, user: User | None = None, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run `script` behind PRELUDE as `user`; its output tells what the daemon answered."""
    with start(daemon, profile, script, user, **more) as process:
        output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def start(
    daemon: Daemon, profile: str, script: str, user: User | None = None, **more: Any
) -> subprocess.Popen[str]:
    who = user or daemon.user
    text = PRELUDE.format(root=str(ROOT), profile=profile) + textwrap.dedent(script)
    arguments: dict[str, Any] = {
        "user": who.uid,
        "group": who.gid,
        "extra_groups": [],
        "cwd": who.home,
        "env": daemon.environment(who),
        "text": True,
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    return subprocess.Popen(["/usr/bin/python3", "-I", "-S", "-c", text], **(arguments | more))


class Remains:
    """What launches could leave behind on a host, before and after."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        daemon.settled()
        self.before: dict[str, int] = {}
        self.until(self.stable)

    def stable(self) -> bool:
        """Whether nothing changes any more: connections of the API close a moment later."""
        last, self.before = self.before, self.count()
        return last == self.before

    def count(self) -> dict[str, int]:
        """Descriptors of worker and keeper, cgroups, and rows of the kernel's tables."""
        assert self.daemon.process is not None
        tables = KernelTables(self.daemon.instance)
        tables.open()
        try:
            rows = len(tables.sessions())
            rows += sum(1 for name in ("sockets", "prefixes", "ports") for _ in tables._maps[name])
        finally:
            tables.close()
        return {
            "worker": descriptors(self.daemon.worker_pid()),
            "keeper": descriptors(self.daemon.process.pid),
            "cgroups": sum(each.is_dir() for each in instance_root(self.daemon.instance).iterdir()),
            "rows": rows,
        }

    def none(self) -> None:
        """Wait until all is as it was; AssertionError tells what is left."""
        self.daemon.settled()
        self.until(lambda: self.count() == self.before)

    def until(self, condition: Callable[[], bool]) -> None:
        try:
            wait_until(condition)
        except AssertionError as error:
            raise AssertionError(f"before {self.before}, now {self.count()}") from error


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))

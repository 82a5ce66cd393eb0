# SPDX-License-Identifier: Apache-2.0
"""What the attempts are made at: a workspace, and what lies outside of it, all of it our own.

Nothing of it outlives the one who made it: files and cgroups are swept by the next one, processes
end with the pipe that they read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from monitor.kernel.cgroup import unified_mount
from monitor.prove.case import EMPTY, PROFILE, STRICT, TREES

PROGRAMS = Path(__file__).parent / "programs"
PREFIX = "ri-prove-"
# Not /tmp, which many hosts mount without setuid, and so would show less.
PARENT = Path("/var/tmp")  # noqa: S108 - a folder of its own is made in it
TRIES = 20
ADDRESSES = (
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET, "127.0.0.2"),
    (socket.AF_INET6, "::1"),
)
NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
TEXTS = {
    PROFILE: """\
include: [base]
files:
  read: ["{workspace}/**"]
  write: ["{workspace}/**"]
  execute: ["{workspace}/**"]
exec:
  deny: ["{workspace}/denied"]
network:
  connect: ["127.0.0.1:PORT", "127.0.0.1:PORT/udp"]
  netlink: route-read
""",
    TREES: """\
include: [base]
files:
  read: ["{workspace}/**", "PROGRAMS/**"]
  write: ["{workspace}/**"]
  execute: ["{workspace}/**"]
  deny: ["{workspace}/**/.env"]
  read_only: ["{workspace}/.git/hooks", "{workspace}/.git/config"]
""",
}
TEXTS[EMPTY] = """\
include: [base]
files:
  read: ["{workspace}/**"]
"""
TEXTS[STRICT] = (
    TEXTS[PROFILE].replace("  netlink: route-read\n", "") + "syscalls: {preset: strict}\n"
)


@dataclass(frozen=True, slots=True)
class Scene:
    """`words` fill in a case's program; some may be missing (attempts.py, MISSING).

    All of it belongs to the user unless it must not. `profiles` are texts by name, without the line
    that says it.
    """

    uid: int
    gid: int
    words: dict[str, str]
    profiles: dict[str, str]

    @property
    def workspace(self) -> Path:
        return Path(self.words["workspace"])

    def folder(self, profile: str) -> Path:
        """The workspace of a session under `profile`."""
        return Path(self.words["tree"]) if profile == TREES else self.workspace

    def renew(self, profile: str) -> None:
        """Put what attempts change back as it was."""
        if profile == TREES:
            _grow(Path(self.words["tree"]), self.uid, self.gid)


def sweep() -> None:
    """Remove what one left that was killed."""
    places = [PARENT]
    with contextlib.suppress(OSError):
        places.append(unified_mount())
    for place in places:
        for path in place.glob(f"{PREFIX}*"):
            number = path.name.removeprefix(PREFIX).partition("-")[0]
            mine = path.lstat().st_uid == os.geteuid() and path.is_dir()
            if mine and number.isdigit() and not Path("/proc", number).exists():
                with contextlib.suppress(OSError):
                    path.rmdir() if place != PARENT else shutil.rmtree(path)


@contextmanager
def opened(uid: int, gid: int, daemon: Path) -> Iterator[Scene]:
    """A scene whose files belong to `uid`; without root some of its words are missing.

    `daemon` is the socket of the daemon, which no session may reach.
    """
    sweep()
    with ExitStack() as stack:
        made = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=PARENT)
        stack.callback(shutil.rmtree, made, ignore_errors=True)
        yield furnish(stack, Path(made), uid, gid, daemon)


def furnish(stack: ExitStack, folder: Path, uid: int, gid: int, daemon: Path) -> Scene:
    """Make everything in `folder`, which exists; `stack` takes away what is not a file in it."""
    folder.chmod(0o755)
    workspace = folder / "workspace"
    programs = workspace / "programs"
    shutil.copytree(PROGRAMS, programs, ignore=shutil.ignore_patterns("__pycache__"))
    # A file of its own: hard links to it are of another kind than those to a system's program.
    shutil.copyfile("/usr/bin/true", workspace / "denied")
    (workspace / "denied").chmod(0o755)
    (workspace / "own").write_text("the agent's\n")
    (folder / "secret").write_text("a secret\n")
    port, other = _listeners(stack)
    words = {
        "programs": str(programs),
        "workspace": str(workspace),
        "tree": str(folder / "tree"),
        "secret": str(folder / "secret"),
        "own": str(workspace / "own"),
        "denied": str(workspace / "denied"),
        "abstract": _abstract(stack),
        "datagrams": _datagrams(stack, folder / "datagrams"),
        "victim": str(_victim(stack, uid, gid)),
        "daemon": str(daemon),
        "port": str(port),
        "other": str(other),
    }
    for path in (workspace, *workspace.rglob("*"), folder / "secret", folder / "datagrams"):
        os.chown(path, uid, gid)
    if os.geteuid() == 0:
        words["setuid"] = _setuid(programs / "id")
        words["delegated"] = _delegated(stack, uid)
    if os.geteuid() == uid:
        words["namespace"] = "own"
    profiles = {
        name: text.replace("PORT", str(port)).replace("PROGRAMS", str(programs))
        for name, text in TEXTS.items()
    }
    scene = Scene(uid, gid, words, profiles)
    scene.renew(TREES)
    return scene


def _listeners(stack: ExitStack) -> tuple[int, int]:
    """Two ports on which TCP and UDP are served on all of ADDRESSES."""
    return _serve(stack), _serve(stack)


def _serve(stack: ExitStack) -> int:
    for _ in range(TRIES):
        with ExitStack() as servers:
            try:
                port = _bind_all(servers)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            stack.push(servers.pop_all())
            return port
    raise OSError(errno.EADDRINUSE, "no port is free for TCP and UDP on all loopback addresses")


def _bind_all(stack: ExitStack) -> int:
    port = 0
    for family, address in ADDRESSES:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                server = stack.enter_context(socket.socket(family, kind))
                server.bind((address, port))
            except OSError as error:
                if family == socket.AF_INET6 and error.errno in NO_IPV6:
                    continue
                raise
            port = int(server.getsockname()[1])
            if kind == socket.SOCK_STREAM:
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
                server.listen(64)
    return port


def _abstract(stack: ExitStack) -> str:
    name = f"{PREFIX}{secrets.token_hex(4)}"
    server = stack.enter_context(socket.socket(socket.AF_UNIX))
    server.bind(f"\0{name}")
    server.listen(64)
    return name


def _datagrams(stack: ExitStack, path: Path) -> str:
    stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(str(path))
    stack.callback(path.unlink, missing_ok=True)
    return str(path)


def _victim(stack: ExitStack, uid: int, gid: int) -> int:
    """A process of the user's outside of every session; it ends with us, however we end."""
    others: dict[str, object] = {}
    if os.geteuid() == 0:
        others = {"user": uid, "group": gid, "extra_groups": []}
    process = subprocess.Popen(["/usr/bin/cat"], stdin=subprocess.PIPE, **others)  # type: ignore[call-overload]
    stack.callback(process.wait)
    stack.callback(process.kill)
    stack.callback(process.stdin.close)
    return int(process.pid)


def _setuid(path: Path) -> str:
    """A copy of id(1), which does nothing with the privilege."""
    shutil.copyfile("/usr/bin/id", path)
    os.chown(path, 0, 0)
    path.chmod(0o4755)
    return str(path)


def _delegated(stack: ExitStack, uid: int) -> str:
    """A cgroup that the user may move processes into, as far as file modes say."""
    folder = unified_mount() / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()
    stack.callback(folder.rmdir)
    os.chown(folder / "cgroup.procs", uid, -1)
    return str(folder / "cgroup.procs")


def _grow(tree: Path, uid: int, gid: int) -> None:
    """A working tree with what an agent must not have, and what others act upon."""
    shutil.rmtree(tree, ignore_errors=True)
    for name in (".git/hooks", "sub"):
        (tree / name).mkdir(parents=True)
    for name in (".git/config", ".env", "sub/.env", "own", "file"):
        (tree / name).write_text("SECRET\n")
    for path in (tree, *tree.rglob("*")):
        os.chown(path, uid, gid)

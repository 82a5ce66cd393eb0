# SPDX-License-Identifier: Apache-2.0
"""Unix sockets that a profile lists in folders the session may write: only they are reached."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from monitor.daemon.probes import pins
from tests.support.daemon import Daemon, wait_until
from tests.support.sides import Case, area, check, last_session, records_of, take

EPERM, ECONNREFUSED, ENOENT, EACCES = errno.EPERM, errno.ECONNREFUSED, errno.ENOENT, errno.EACCES
KINDS = {
    "stream": socket.SOCK_STREAM,
    "dgram": socket.SOCK_DGRAM,
    "seqpacket": socket.SOCK_SEQPACKET,
}


@dataclass
class Outside:
    """Servers of somebody else, in a folder that sessions may write and in one they may not."""

    folder: Path
    hidden: Path
    stack: ExitStack
    peers: list[tuple[int, int, int]] = field(default_factory=list)  # pid, uid, gid

    def serve(self, path: Path, kind: str = "stream", mode: int = 0o666) -> socket.socket:
        sock = self.stack.enter_context(socket.socket(socket.AF_UNIX, KINDS[kind]))
        sock.bind(str(path))
        path.chmod(mode)
        if kind != "dgram":
            sock.listen(64)
            thread = threading.Thread(target=self._answer, args=(sock,), daemon=True)
            thread.start()
        return sock

    def _answer(self, sock: socket.socket) -> None:
        with suppress(OSError):
            while True:
                peer, _address = sock.accept()
                data = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                self.peers.append(struct.unpack("=iII", data))
                with peer, suppress(OSError):
                    peer.send(b"hello")


@pytest.fixture
def outside(daemon: Daemon) -> Iterator[Outside]:
    if not pins.unix_hooks(daemon.instance):
        pytest.skip("this kernel has no unix socket hooks (they need Linux 6.7)")
    with ExitStack() as stack:
        folder = stack.enter_context(area(daemon.user))
        hidden = stack.enter_context(area(daemon.user))
        yield Outside(folder, hidden, stack)


def profile(daemon: Daemon, outside: Outside, *names: str, more: str = "") -> str:
    listed = "\n".join(f"    - {outside.folder}/{name}" for name in names)
    return daemon.profile(
        f"held-{secrets.token_hex(3)}",
        "include: [base]\n"
        f"files:\n  read: [{outside.folder}/**]\n  write: [{outside.folder}/**]\n"
        f"network:\n  unix:\n{listed}\n{more}",
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_listed_socket_is_reached(daemon: Daemon, outside: Outside, kind: str) -> None:
    app, other = outside.folder / "app", outside.folder / "other"
    outside.serve(app, kind)
    outside.serve(other, kind)
    name = profile(daemon, outside, "app")
    number = KINDS[kind].value
    governed, _observed = check(
        daemon,
        name,
        [
            Case("listed", f"unix({str(app)!r}, {number})", verb="net.unix", object=str(app)),
            Case("again", f"unix({str(app)!r}, {number})"),
            Case("other", f"unix({str(other)!r}, {number})", EPERM, "net.unix", str(other),
                 "cgroup-bpf"),
            Case("by another way",
                 f"os.chdir({str(outside.folder)!r}); unix('app', {number})", EPERM),
        ],
    )  # fmt: skip
    (record,) = [
        each for each in governed.matching(verb="net.unix", object=str(app)) if each["count"]
    ]
    assert record["mechanism"] == "gate"
    assert "network.unix" in record["rule"]


TRICKS = {
    "a symbolic link": "os.rename(APP, APP + '.old'); os.symlink(OTHER, APP); unix(APP)",
    "a hard link": "os.rename(APP, APP + '.old'); os.link(NEAR, APP); unix(APP)",
    "another one renamed": "os.rename(APP, APP + '.old'); os.rename(NEAR, APP); unix(APP)",
    "a folder renamed": "os.rename(FOLDER + '/in', FOLDER + '/was');"
    " os.rename(FOLDER + '/trap', FOLDER + '/in'); unix(FOLDER + '/in/app')",
    "a folder that is a link": "os.rename(FOLDER + '/in', FOLDER + '/was');"
    " os.symlink(HIDDEN, FOLDER + '/in'); unix(FOLDER + '/in/app')",
}


@pytest.mark.parametrize("trick", list(TRICKS))
def test_a_listed_name_leads_nowhere_else(daemon: Daemon, outside: Outside, trick: str) -> None:
    """Each succeeds where rules only observe: the name is listed, and the kernel follows it."""
    folder, hidden = outside.folder, outside.hidden

    def fresh() -> None:
        for base in (folder, hidden):
            for entry in sorted(base.rglob("*"), reverse=True):
                entry.rmdir() if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        for name in ("in", "trap"):
            (folder / name).mkdir()
            os.chown(folder / name, daemon.user.uid, daemon.user.gid)
        for path in (folder / "app", folder / "near", folder / "in/app", folder / "trap/app",
                     hidden / "app", hidden / "other"):  # fmt: skip
            outside.serve(path)
            os.chown(path, daemon.user.uid, daemon.user.gid)

    fresh()
    name = profile(daemon, outside, "app", "in/app")
    names = {"APP": folder / "app", "NEAR": folder / "near", "OTHER": hidden / "other",
             "FOLDER": folder, "HIDDEN": hidden}  # fmt: skip
    code = "; ".join(f"{key} = {str(value)!r}" for key, value in names.items())
    where = "in/app" if "folder" in trick else "app"
    governed, _observed = check(
        daemon,
        name,
        [Case(trick, f"{code}; {TRICKS[trick]}", EPERM, "net.unix", str(folder / where), "gate",
              foreseen=False)],
        again=fresh,
    )  # fmt: skip
    (denied,) = governed.matching(verb="net.unix", verdict="deny")
    assert "was bound as" in denied["reason"]


def test_a_server_sees_the_user_and_not_the_gate(daemon: Daemon, outside: Outside) -> None:
    app, private = outside.folder / "app", outside.folder / "private"
    outside.serve(app)
    outside.serve(private, mode=0o600)
    name = profile(daemon, outside, "app", "private")
    code = f"""
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(20)
    sock.connect({str(app)!r})
    assert sock.recv(9) == b"hello"
    assert sock.getpeername() == {str(app)!r}
"""
    run = take(
        daemon,
        name,
        [Case("listed", code), Case("not the user's", f"unix({str(private)!r})", EACCES)],
    )
    assert run.answers == {"listed": 0, "not the user's": EACCES}
    ((_pid, uid, gid),) = outside.peers
    assert (uid, gid) == (daemon.user.uid, daemon.user.gid)


def test_what_the_kernel_says_of_a_connection_stays_so(daemon: Daemon, outside: Outside) -> None:
    folder = outside.folder
    (folder / "file").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead"))
        (folder / "dead").chmod(0o666)
    full = outside.serve(folder / "dgram", "dgram")
    outside.serve(folder / "app")
    name = profile(daemon, outside, "none", "file", "dead", "dgram", "app")
    cases = [
        Case("none", f"unix({str(folder / 'none')!r})", ENOENT),
        Case("no socket", f"unix({str(folder / 'file')!r})", ECONNREFUSED),
        Case("nobody there", f"unix({str(folder / 'dead')!r})", ECONNREFUSED),
        Case("another kind", f"unix({str(folder / 'dgram')!r})", errno.EPROTOTYPE),
        Case("twice", f"s = socket.socket(socket.AF_UNIX); s.connect({str(folder / 'app')!r});"
             f" s.connect({str(folder / 'app')!r})", errno.EISCONN),
        Case("no socket here", "r, w = os.pipe(); import ctypes;"
             f" a = struct.pack('=H', 1) + {os.fsencode(folder / 'app')!r} + bytes(1);"
             " call(42, r, a, len(a))", errno.ENOTSOCK),
        Case("a bad address", "s = socket.socket(socket.AF_UNIX); call(42, s.fileno(), 8, 20)",
             errno.EFAULT),
    ]  # fmt: skip
    with full:
        run = take(daemon, name, cases)
        assert run.answers == {case.name: case.errno for case in cases}
        assert not run.matching(verdict="deny")


def test_datagrams_need_a_connection(daemon: Daemon, outside: Outside) -> None:
    """sendto(2) with a held name is refused: only a connection is made by the gate."""
    app = outside.folder / "app"
    server = outside.serve(app, "dgram")
    name = profile(daemon, outside, "app")
    new = "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)"
    governed, _observed = check(
        daemon,
        name,
        [
            Case("sendto", f"{new}; s.sendto(b'x', {str(app)!r})", EPERM, "net.unix", str(app),
                 "cgroup-bpf", foreseen=False),
            Case("sendmsg", f"{new}; s.sendmsg([b'x'], [], 0, {str(app)!r})", EPERM),
            Case("of a pair", f"a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM);"
                 f" a.sendto(b'x', {str(app)!r})", EPERM),
            Case("connected", f"{new}; s.connect({str(app)!r}); s.send(b'connected')"),
        ],
    )  # fmt: skip
    denied = governed.matching(verb="net.unix", verdict="deny")
    assert "could lead it elsewhere" in denied[0]["reason"]
    assert "connect(2) first" in daemon.details(denied[0]["id"])["remedy"]
    server.setblocking(False)
    received = []
    with suppress(BlockingIOError):
        while True:
            received.append(server.recv(99))
    assert received == [b"connected", b"x", b"x", b"x", b"connected"]


def test_a_race_on_the_name_is_lost(daemon: Daemon, outside: Outside) -> None:
    """A thread flips the name in memory and in the folder: the other server is never reached."""
    app, near = outside.folder / "app", outside.folder / "near"
    outside.serve(app)
    name = profile(daemon, outside, "app")
    reached: list[bytes] = []
    spy = outside.stack.enter_context(socket.socket(socket.AF_UNIX))
    spy.bind(str(near))
    near.chmod(0o666)
    spy.listen(256)

    def look() -> None:
        with suppress(OSError):
            while True:
                peer, _address = spy.accept()
                reached.append(b"x")
                peer.close()

    threading.Thread(target=look, daemon=True).start()
    code = f"""
import threading
app, near = {os.fsencode(app)!r}, {os.fsencode(near)!r}
names = [struct.pack("=H", 1) + each.ljust(100, bytes(1)) for each in (app, near)]
memory = ctypes.create_string_buffer(names[0], 102)
over = time.monotonic() + 8
def flip():
    while time.monotonic() < over:
        for each in names:
            ctypes.memmove(memory, each, 102)
def move():
    while time.monotonic() < over:
        try:
            os.rename(app, app + b".old")
            os.symlink(near, app)
            os.unlink(app)
            os.rename(app + b".old", app)
        except OSError:
            pass
threads = [threading.Thread(target=each) for each in (flip, move)]
for each in threads: each.start()
tries = 0
while time.monotonic() < over:
    with socket.socket(socket.AF_UNIX) as sock:
        libc.connect(sock.fileno(), memory, 102)
        tries += 1
for each in threads: each.join()
assert tries > 20, tries
"""
    run = take(daemon, name, [Case("race", code)], timeout=120)
    assert run.answers == {"race": 0}
    assert not reached
    # That the spy would have seen it.
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(near))
    wait_until(lambda: bool(reached), 20)


def test_a_killed_gate_connects_all_the_same(daemon: Daemon, outside: Outside) -> None:
    app = outside.folder / "app"
    outside.serve(app)
    name = profile(daemon, outside, "app")
    script = (
        "import socket, time\n"
        f"print('up', flush=True)\nover = time.monotonic() + 6\ncount = 0\n"
        "while time.monotonic() < over:\n"
        "    with socket.socket(socket.AF_UNIX) as sock:\n"
        f"        sock.connect({str(app)!r})\n        count += 1\n"
        "print(count)"
    )
    process = daemon.spawn(name, ["/usr/bin/python3", "-I", "-S", "-c", script])
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    daemon.restart_worker()
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert int(output) > 20


def test_many_waiting_connections_end_with_their_session(daemon: Daemon, outside: Outside) -> None:
    """A server that accepts nothing: what waits for it is killed with the session."""
    app = outside.folder / "app"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(app))
        app.chmod(0o666)
        server.listen(0)
        name = profile(daemon, outside, "app")
        script = (
            "import socket, threading, time\n"
            "def go():\n"
            "    try:\n"
            "        s = socket.socket(socket.AF_UNIX)\n"
            f"        s.connect({str(app)!r})\n        time.sleep(1000)\n"
            "    except BlockingIOError:\n        print('busy', flush=True)\n"
            "for _ in range(40): threading.Thread(target=go, daemon=True).start()\n"
            "time.sleep(1000)\n"
        )
        process = daemon.spawn(name, ["/usr/bin/python3", "-I", "-S", "-c", script])
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        session = daemon.launched(process)
        status, _body = daemon.request("POST", f"/v1/sessions/{session['id']}/kill", {})
        assert status == 200
        process.communicate(timeout=60)
        daemon.settled()
    last = last_session(daemon)
    assert records_of(daemon, last)

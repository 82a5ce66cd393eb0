# SPDX-License-Identifier: Apache-2.0
"""What a session might try on the process that connects for it, and what happens around it."""

from __future__ import annotations

import errno
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.daemon.probes import pins
from monitor.kernel.bpf import Map
from tests.support.daemon import Daemon, User, wait_until
from tests.support.sides import Case, area, take

LATE = 60.0


@pytest.fixture
def folder(daemon: Daemon) -> Iterator[Path]:
    if not pins.unix_hooks(daemon.instance):
        pytest.skip("this kernel has no unix socket hooks (they need Linux 6.7)")
    with area(daemon.user) as made:
        yield made


@pytest.fixture
def server(folder: Path) -> Iterator[socket.socket]:
    """One that accepts nothing: its queue takes all connections of a test."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "app"))
        (folder / "app").chmod(0o666)
        made.listen(4000)
        yield made


def profile(daemon: Daemon, folder: Path, more: str = "") -> str:
    return daemon.profile(
        f"held-{secrets.token_hex(3)}",
        f"include: [base]\nfiles: {{read: [{folder}/**], write: [{folder}/**]}}\n"
        f"network: {{unix: [{folder}/app]}}\n{more}",
    )


def gate_pid(daemon: Daemon) -> int:
    """The gate of the daemon, 0 while there is none."""
    worker = daemon.worker_pid()
    for task in Path(f"/proc/{worker}/task").iterdir():
        for child in (task / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"gate.process" in command:
                return int(child)
    return 0


def tickets(daemon: Daemon) -> list[bytes]:
    table = Map.pinned(pins.current(daemon.instance) / "unix_tickets")
    try:
        return list(table)
    finally:
        table.close()


LOOP = """
import errno, os, socket, time
over = time.monotonic() + {seconds}
made = again = 0
print("up", flush=True)
while time.monotonic() < over:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect({path!r})
            made += 1
        except OSError as error:
            # The gate died between the connection and its answer: it is connected already.
            assert error.errno in (errno.EISCONN, errno.EAGAIN), error
            again += 1
print(made, again)
"""


def test_killed_gates_lose_no_connection(
    daemon: Daemon, folder: Path, server: socket.socket
) -> None:
    name = profile(daemon, folder)
    script = LOOP.format(seconds=8, path=str(folder / "app"))
    process = daemon.spawn(name, ["/usr/bin/python3", "-I", "-S", "-c", script])
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    for _time in range(4):
        wait_until(lambda: gate_pid(daemon) != 0, LATE)
        dead = gate_pid(daemon)
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda dead=dead: gate_pid(daemon) not in (0, dead), LATE)  # type: ignore[misc]
        time.sleep(0.3)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    made, _again = map(int, output.split())
    assert made > 4
    wait_until(lambda: not tickets(daemon), LATE)
    assert server.fileno() >= 0


def test_threads_with_descriptors_of_their_own(
    daemon: Daemon, folder: Path, server: socket.socket
) -> None:
    """unshare(CLONE_FILES): the number means another socket in this thread than in the process."""
    code = f"""
import threading
outcome = []
mine = socket.socket(socket.AF_UNIX)
number = mine.fileno()
gone = threading.Event()
def act():
    call(272, 0x400)
    ready.set()
    gone.wait(20)
    outcome.append(libc.connect(number, address, len(address)))
    outcome.append(socket.socket(fileno=os.dup(number)).getpeername())
ready = threading.Event()
address = struct.pack("=H", 1) + {os.fsencode(folder / "app")!r} + bytes(1)
thread = threading.Thread(target=act)
thread.start()
ready.wait(20)
os.dup2(os.open("/dev/null", os.O_RDONLY), number)
gone.set()
thread.join()
assert outcome == [0, {str(folder / "app")!r}], outcome
mine.detach()
"""
    run = take(daemon, profile(daemon, folder), [Case("it", code)])
    assert run.answers == {"it": 0}
    assert server.fileno() >= 0


def test_root_without_capabilities_connects_as_such(daemon: Daemon, folder: Path) -> None:
    """The gate's process does not lend it the capabilities that root has outside."""
    with socket.socket(socket.AF_UNIX) as private:
        private.bind(str(folder / "app"))
        os.chown(folder / "app", daemon.user.uid, daemon.user.gid)
        (folder / "app").chmod(0o600)
        private.listen(8)
        name = profile(daemon, folder, "run_as: root\n")
        case = Case("private", f"unix({str(folder / 'app')!r})")
        run = take(daemon, name, [case], user=User("root"), cwd="/")
        assert run.answers == {"private": errno.EACCES}
        (folder / "app").chmod(0o602)
        run = take(daemon, name, [case], user=User("root"), cwd="/")
        assert run.answers == {"private": 0}


def test_what_waits_for_a_full_server_ends_by_a_signal(daemon: Daemon, folder: Path) -> None:
    """A blocking connect is interrupted like any, and its process does not stay."""
    with socket.socket(socket.AF_UNIX) as full:
        full.bind(str(folder / "app"))
        (folder / "app").chmod(0o666)
        full.listen(0)
        code = f"""
import signal
def stop(*_): raise TimeoutError(110, "stopped")
signal.signal(signal.SIGALRM, stop)
first = socket.socket(socket.AF_UNIX)
first.connect({str(folder / "app")!r})
signal.alarm(2)
second = socket.socket(socket.AF_UNIX)
second.connect({str(folder / "app")!r})
"""
        run = take(daemon, profile(daemon, folder), [Case("it", code)])
        assert run.answers == {"it": errno.ETIMEDOUT}
    wait_until(lambda: not tickets(daemon), LATE)


def test_without_authority_nothing_is_connected(
    daemon: Daemon, folder: Path, server: socket.socket
) -> None:
    """Revoked and left running: a held name is refused from then on."""
    script = f"""
import socket, sys
def act():
    try:
        socket.socket(socket.AF_UNIX).connect({str(folder / "app")!r})
    except OSError as error:
        return error.errno
    return 0
print(act(), flush=True)
sys.stdin.readline()
print(act(), flush=True)
"""
    name = profile(daemon, folder)
    process = daemon.spawn(name, ["/usr/bin/python3", "-I", "-S", "-c", script], stdin=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == "0\n"
    session = daemon.launched(process)
    done = daemon.rictl("revoke", session["id"], "--then", "deny", "--why", "test")
    assert done.returncode == 0, done.stderr
    output, errors = process.communicate("\n", timeout=60)
    assert output == f"{errno.EPERM}\n", errors
    assert server.fileno() >= 0

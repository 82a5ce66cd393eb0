# SPDX-License-Identifier: Apache-2.0
"""An approver that is a program: the ask on its standard input, the answer on its standard output.

It is killed with all that it started when it takes too long, when the ask is over before, and with
the worker. Output without end is no answer. asyncio's own subprocesses are not used: they wait for
whoever holds the pipes, and one that is cancelled while it starts waits for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from monitor.daemon.asks.reply import BadReply, Reply, parse
from monitor.daemon.config import Approver

RUNNER = str(Path(__file__).with_name("runner.py"))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LARGEST_REPLY = 64 * 1024
LONGEST_COMPLAINT = 300
# What a program left behind may hold its output open: it is not waited for.
SETTLE_SECONDS = 1.0
# A killed one ends in less, or else is waited for in the background.
REAP_SECONDS = 0.05


class ApproverFailed(Exception):  # noqa: N818 - as Refused
    """An approver could not be asked, or answered what cannot be used; one line."""


async def ask(approver: Approver, body: bytes, socket: Path) -> Reply | None:
    """Run the program once; None: it has nothing to say. ApproverFailed."""
    try:
        running = _Running(_start(approver, body, socket))
    except (OSError, KeyError) as error:
        raise ApproverFailed(f"cannot run {approver.run[0]}: {error}") from error
    try:
        async with asyncio.timeout(approver.timeout):
            status = await running.ended
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(running.silent.wait(), SETTLE_SECONDS)
    except TimeoutError:
        raise ApproverFailed(f"no answer within {approver.timeout:g} s") from None
    finally:
        running.end()
    if status:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        said = running.complaint.decode("utf-8", "backslashreplace").strip().partition("\n")[0]
        raise ApproverFailed(f"it ended with {how}" + (f": {said}" if said else ""))
    try:
        return parse(running.output)
    except BadReply as error:
        raise ApproverFailed(str(error)) from error


def _start(approver: Approver, body: bytes, socket: Path) -> subprocess.Popen[bytes]:
    identity, home = _identity(approver.user)
    # A file, because nobody need read it, or all of it.
    with os.fdopen(os.memfd_create("ask"), "w+b") as told:
        told.write(body)
        told.seek(0)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", RUNNER, str(os.getpid()), *identity, *approver.run],
            stdin=told,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, "RI_SOCKET": str(socket)},
            start_new_session=True,
        )


def _identity(user: str) -> tuple[tuple[str, str, str], str]:
    """What the runner is told of the user, and their home; KeyError where there is none."""
    if not user:
        return ("-", "-", "-"), "/root"
    entry = pwd.getpwnam(user)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    numbers = (str(entry.pw_uid), str(entry.pw_gid), ",".join(map(str, groups)))
    return numbers, entry.pw_dir


class _Running:
    """A program that runs: `ended` becomes its status; `silent` once its output is closed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.output = b""
        self.complaint = b""
        self.silent = asyncio.Event()
        self._process = process
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(process.pid)
        self._loop.add_reader(self._pidfd, self._exited)
        assert process.stdout is not None
        assert process.stderr is not None
        self._open: set[IO[bytes]] = {process.stdout, process.stderr}
        for stream in tuple(self._open):
            os.set_blocking(stream.fileno(), False)
            self._loop.add_reader(stream.fileno(), self._read, stream)

    def end(self) -> None:
        """Kill what still runs, and let go of its output."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(REAP_SECONDS)
        for stream in tuple(self._open):
            self._close(stream)

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        status = self._process.wait()
        if not self.ended.done():
            self.ended.set_result(status)

    def _read(self, stream: IO[bytes]) -> None:
        try:
            piece = os.read(stream.fileno(), LARGEST_REPLY)
        except BlockingIOError:
            return
        if not piece:
            self._close(stream)
        elif stream is self._process.stderr:
            self.complaint = (self.complaint + piece)[:LONGEST_COMPLAINT]
        else:
            self.output += piece
            if len(self.output) > LARGEST_REPLY and not self.ended.done():
                problem = f"it answered with more than {LARGEST_REPLY} bytes"
                self.ended.set_exception(ApproverFailed(problem))

    def _close(self, stream: IO[bytes]) -> None:
        self._open.discard(stream)
        self._loop.remove_reader(stream.fileno())
        stream.close()
        if not self._open:
            self.silent.set()

# SPDX-License-Identifier: Apache-2.0
"""An approver that is a program: the ask on its standard input, the answer on its standard output.

It is killed with all that it started when it takes too long, when the ask is over before, and with
the worker. Output without end is cut off, and is no answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from monitor.daemon.asks.reply import BadReply, Reply, parse
from monitor.daemon.config import Approver

RUNNER = str(Path(__file__).with_name("runner.py"))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LARGEST_REPLY = 64 * 1024
LONGEST_COMPLAINT = 300
# What a program left behind may hold its output open: it is not waited for.
SETTLE_SECONDS = 1.0


class ApproverFailed(Exception):  # noqa: N818 - as Refused
    """An approver could not be asked, or answered what cannot be used; one line."""


async def ask(approver: Approver, body: bytes, socket: Path) -> Reply | None:
    """Run the program once; None: it has nothing to say. ApproverFailed."""
    try:
        identity, home = _identity(approver.user)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", RUNNER, str(os.getpid()), *identity, *approver.run),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            cwd="/",
            env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, "RI_SOCKET": str(socket)},
            start_new_session=True,
        )
    except (OSError, KeyError) as error:
        raise ApproverFailed(f"cannot run {approver.run[0]}: {error}") from error
    try:
        async with asyncio.timeout(approver.timeout):
            return await _spoken(process, body)
    except TimeoutError:
        raise ApproverFailed(f"no answer within {approver.timeout:g} s") from None
    finally:
        _kill(process)


def _identity(user: str) -> tuple[tuple[str, str, str], str]:
    """What the runner is told of the user, and their home; KeyError where there is none."""
    if not user:
        return ("-", "-", "-"), "/root"
    entry = pwd.getpwnam(user)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    numbers = (str(entry.pw_uid), str(entry.pw_gid), ",".join(map(str, groups)))
    return numbers, entry.pw_dir


async def _spoken(process: Process, body: bytes) -> Reply | None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    telling = asyncio.create_task(_tell(process.stdin, body))
    reading = [
        asyncio.create_task(_read(stream, limit))
        for stream, limit in ((process.stdout, LARGEST_REPLY), (process.stderr, LONGEST_COMPLAINT))
    ]
    try:
        status = await process.wait()
        await asyncio.wait(reading, timeout=SETTLE_SECONDS)
        output, complaint = [
            task.result() if task.done() and not task.cancelled() else b"" for task in reading
        ]
    finally:
        for task in (telling, *reading):
            task.cancel()
    if status:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        said = complaint.decode("utf-8", "backslashreplace").strip().partition("\n")[0]
        raise ApproverFailed(f"it ended with {how}" + (f": {said}" if said else ""))
    if len(output) > LARGEST_REPLY:
        raise ApproverFailed(f"it answered with more than {LARGEST_REPLY} bytes")
    try:
        return parse(output)
    except BadReply as error:
        raise ApproverFailed(str(error)) from error


async def _tell(stream: asyncio.StreamWriter, body: bytes) -> None:
    # A program need not read what it is told.
    with contextlib.suppress(ConnectionError):
        stream.write(body)
        await stream.drain()
        stream.close()


async def _read(stream: asyncio.StreamReader, limit: int) -> bytes:
    """At most one byte more than `limit`; the rest is read and forgotten."""
    kept = b""
    while piece := await stream.read(LARGEST_REPLY):
        kept = (kept + piece)[: limit + 1]
    return kept


def _kill(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

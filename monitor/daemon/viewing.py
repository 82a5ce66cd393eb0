# SPDX-License-Identifier: Apache-2.0
"""Gives a waiting child its view: identity maps, and mounts made by a forked helper.

The child has unshared its namespaces and waits. What it says is not believed: its namespaces are
opened once, and must be its own (made by its user, shared with nobody we know) before anything is
written or mounted. The helper is forked from the worker without exec: it enters the namespace with
the host's authority, which a thread of the worker could not leave again, and reports by a pipe.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from monitor.daemon.view_mounts import User, build
from monitor.daemon.view_targets import ViewError
from monitor.kernel import mounts
from monitor.kernel.libc import LIBC
from monitor.policy.plan import Plan

__all__ = ["Identity", "ViewError", "Viewed", "make"]

# uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1
REPORT_BYTES = 65536  # what an empty pipe takes at once
NOTE_LIMIT = 100


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the session runs as; `user_namespace` where an ordinary user started it."""

    uid: int
    gid: int
    user_namespace: bool


@dataclass(frozen=True, slots=True)
class Viewed:
    """What was made. `notes` says what the view does not cover; it belongs in the launch record."""

    masked: int
    milliseconds: float
    notes: tuple[str, ...] = ()


async def make(pid: int, plan: Plan, identity: Identity) -> Viewed:
    """Make the view of `plan` for the waiting process `pid`.

    ViewError names the step and the object that failed; the child must then be killed. When the
    call is cancelled the helper is killed. The child has to enter its working directory again by
    name afterwards: the old one is beneath the masks.
    """
    began = time.perf_counter()
    if plan.view is None:
        raise ViewError(f"cannot make a view for process {pid}: its plan asks for none")
    with ExitStack() as stack:
        try:
            process = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, process)
            namespace = _own_namespace(process, pid, identity, stack)
            if identity.user_namespace:
                _map_identity(process, identity)
        except OSError as error:
            raise ViewError(
                f"cannot prepare the namespaces of process {pid}: {error.strerror}"
                f" ({error.filename})"
            ) from error
        masked, notes = await _run_helper(namespace, plan, identity)
    milliseconds = round((time.perf_counter() - began) * 1000, 3)
    return Viewed(masked, milliseconds, notes)


# -- what the child must be ------------------------------------------------------------------------


def _own_namespace(process: int, pid: int, identity: Identity, stack: ExitStack) -> int:
    """The mount namespace of the process, checked to be one that it made for itself.

    A child that only says it has unshared would have us mount in the host's namespace.
    """

    def kept(fd: int) -> int:
        stack.callback(os.close, fd)
        return fd

    def opened(name: str, directory: int = process) -> int:
        return kept(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory))

    namespace = opened("ns/mnt")
    for other in ("self", str(_parent(process))):
        if os.path.sameopenfile(namespace, opened(f"/proc/{other}/ns/mnt")):
            raise ViewError(f"process {pid} has not left the mount namespace of process {other}")
    owner = kept(mounts.owning_user_namespace(namespace))
    ours = opened("/proc/self/ns/user")
    if not identity.user_namespace:
        wanted = os.path.sameopenfile(owner, ours)
    else:
        wanted = (
            os.path.sameopenfile(owner, opened("ns/user"))
            and not os.path.sameopenfile(owner, ours)
            and os.path.sameopenfile(kept(mounts.parent_user_namespace(owner)), ours)
            and mounts.owner_uid(owner) == identity.uid
        )
    if not wanted:
        raise ViewError(f"the mount namespace of process {pid} is not its user's own")
    return namespace


def _parent(process: int) -> int:
    """The parent of the process, from proc_pid_stat(5)."""
    fd = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    try:
        return int(os.read(fd, 4096).rpartition(b")")[2].split()[1])
    finally:
        os.close(fd)


def _map_identity(process: int, identity: Identity) -> None:
    """One id each, to itself: a wider map would let its owner act as others from outside.

    setgroups(2) is shut first, so that nobody sheds a group that a file's mode holds against them.
    """
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{identity.uid} {identity.uid} 1"),
        ("gid_map", f"{identity.gid} {identity.gid} 1"),
    ):
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=process)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


# -- the helper ------------------------------------------------------------------------------------


async def _run_helper(
    namespace: int, plan: Plan, identity: Identity
) -> tuple[int, tuple[str, ...]]:
    """Fork the helper, wait for its end, and give what it reports."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        try:
            with _signals_blocked():
                helper = os.fork()
                if helper == 0:
                    _helper(namespace, plan, identity, write_end)
        finally:
            os.close(write_end)
        try:
            await _ended(helper)
        except asyncio.CancelledError:
            os.kill(helper, signal.SIGKILL)
            _reap_later(helper)
            raise
        _, status = os.waitpid(helper, 0)
        text = b""
        with suppress(BlockingIOError):
            text = os.read(read_end, REPORT_BYTES)
    finally:
        os.close(read_end)
    if not text:
        raise ViewError(f"the helper that makes the view died: wait status {status:#x}")
    report = json.loads(text)
    if "problem" in report:
        raise ViewError(report["problem"])
    return report["masked"], tuple(report["notes"])


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A signal that the fork inherits handlers for would reach the worker's event loop twice."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _helper(namespace: int, plan: Plan, identity: Identity, report: int) -> None:
    """The forked process: never returns, and runs nothing of the worker's on its way out.

    Signals stay blocked, so that none reaches the event loop that the worker shares with it; it
    ends with the worker. Objects of the worker are not collected here: their ends are not its.
    """
    try:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        gc.disable()
        os.umask(0)
        user = User(identity.uid, identity.gid, identity.user_namespace)
        try:
            made = build(namespace, plan, user)
            notes = made.notes[:NOTE_LIMIT]
            if len(made.notes) > NOTE_LIMIT:
                notes.append(f"{len(made.notes) - NOTE_LIMIT} more of the kind")
            answer: dict[str, object] = {"masked": made.masked, "notes": notes}
        except ViewError as error:
            answer = {"problem": str(error)}
        except Exception as error:  # noqa: BLE001 - the border of a process: say it, never widen
            answer = {"problem": f"cannot make the view: {type(error).__name__}: {error}"}
        text = json.dumps(answer).encode()
        if len(text) > REPORT_BYTES:
            answer["notes"] = ["more notes than a report holds"]
            text = json.dumps(answer).encode()[:REPORT_BYTES]
        os.write(report, text)
    finally:
        os._exit(0)


async def _ended(helper: int) -> None:
    """Wait until process `helper` is over, without blocking the loop."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    fd = os.pidfd_open(helper)

    def end() -> None:
        if not over.done():
            over.set_result(None)

    loop.add_reader(fd, end)
    try:
        await over
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def _reap_later(helper: int) -> None:
    """Collect a killed helper when it is over; its last system call may take a while."""
    loop = asyncio.get_running_loop()
    fd = os.pidfd_open(helper)

    def reap() -> None:
        loop.remove_reader(fd)
        os.close(fd)
        os.waitpid(helper, 0)

    loop.add_reader(fd, reap)

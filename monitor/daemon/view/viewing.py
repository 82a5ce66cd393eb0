# SPDX-License-Identifier: Apache-2.0
"""Gives a waiting child its view: identity maps, and mounts made by a helper.

The child has unshared its namespaces and waits. What it says is not believed: its namespaces are
opened once, and must be its own (made by its user, not those of its parent or ours) before anything
is written or mounted. The worker enters none and forks nothing: `helper.py` does.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.daemon.view.helper import ANSWER_BYTES, NARROW, VIEW, WATCH
from monitor.daemon.view.request import Identity, ViewError, ViewRequest, WatchRequest
from monitor.kernel import mounts
from monitor.policy.plan import Plan

__all__ = [
    "Helper",
    "Identity",
    "ViewError",
    "Viewed",
    "Watched",
    "make",
    "namespace_of",
    "narrow",
    "prepare",
    "watch",
]

SEND_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Viewed:
    """What was made. `notes` says what the view does not cover; it belongs in the launch record."""

    masked: int
    milliseconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Watched:
    """What a watcher found: inodes whose opens wait, folders watched, and what it cannot do."""

    marked: int
    watched: int
    notes: tuple[str, ...] = ()


async def make(pid: int, plan: Plan, identity: Identity) -> Viewed:
    """Make the view of `plan` for the waiting process `pid`.

    ViewError names the step and the object that failed; the child must then be killed. The child
    has to enter its working directory again by name afterwards: the old one is beneath the masks.
    """
    began = time.perf_counter()
    try:
        request = ViewRequest.of(plan, identity)
    except ValueError as error:
        raise ViewError(f"cannot make a view for process {pid}: {error}") from error
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
        answer = await _ask(VIEW, namespace, request.to_json())
    milliseconds = round((time.perf_counter() - began) * 1000, 3)
    return Viewed(answer["masked"], milliseconds, tuple(answer["notes"]))


async def narrow(pid: int, plan: Plan) -> Viewed:
    """Mask what `plan` takes away in the view of a session that runs and that `pid` is of.

    What its processes have open, or stand in, stays with them. ViewError where it has no view, or
    something cannot be masked; what was masked until then stays so. A watcher of the session is to
    be told instead, where there is one: two must not work in one view.
    """
    began = time.perf_counter()
    try:
        request = ViewRequest.of(plan, Identity(0, 0, False))
    except ValueError as error:
        raise ViewError(f"cannot narrow the view of process {pid}: {error}") from error
    namespace = namespace_of(pid)
    try:
        answer = await _ask(NARROW, namespace, request.to_json())
    finally:
        os.close(namespace)
    milliseconds = round((time.perf_counter() - began) * 1000, 3)
    return Viewed(answer["masked"], milliseconds, tuple(answer["notes"]))


async def watch(
    namespace: int, request: WatchRequest, channel: int, opens: int, names: int, memory: int
) -> Watched:
    """Have a watcher work in `namespace` until the other end of `channel` is closed.

    Returns when all that is there is marked. ViewError where that cannot be done; then there is
    no watcher.
    """
    answer = await _ask(WATCH, namespace, request.to_json(), channel, opens, names, memory)
    return Watched(answer["marked"], answer["watched"], tuple(answer["notes"]))


def namespace_of(pid: int) -> int:
    """The mount namespace of a session's process, which must not be ours. ViewError."""
    try:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ViewError(f"process {pid} has no mount namespace: {error.strerror}") from error
    ours = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.path.sameopenfile(namespace, ours):
            os.close(namespace)
            raise ViewError(f"process {pid} has no view of its own")
    finally:
        os.close(ours)
    return namespace


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


class Helper:
    """The helper process, started when first needed and again when it is gone."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def start(self) -> None:
        """Have a helper running; the first view need not wait for it then."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = str(Path(__file__).with_name("helper.py"))
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", script, str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
            )
        # Only its messages wait for it, and it does nothing but fork.
        mine.settimeout(SEND_SECONDS)
        self._channel = mine

    def send(self, message: bytes, descriptors: list[int]) -> None:
        """Hand over one request; OSError where no helper takes it."""
        for attempt in (1, 2):
            self.start()
            assert self._channel is not None
            try:
                socket.send_fds(self._channel, [message], descriptors)
            except (BrokenPipeError, ConnectionError):
                if attempt == 2:
                    raise
                self.stop()
            else:
                return

    def stop(self) -> None:
        """End the helper: it goes when its channel is closed."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            try:
                self._process.wait(SEND_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


_helper = Helper()


def prepare() -> None:
    """Start the helper ahead of the first view."""
    _helper.start()


def finish() -> None:
    """End the helper; the next view starts one again."""
    _helper.stop()


async def _ask(message: bytes, namespace: int, request: bytes, *more: int) -> dict[str, Any]:
    """The answer of a maker to `request`. ViewError where it says what it cannot do."""
    with ExitStack() as stack:
        try:
            file = os.memfd_create("view")
            stack.callback(os.close, file)
            os.write(file, request)
            read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, read_end)
            try:
                _helper.send(message, [namespace, file, write_end, *more])
            finally:
                os.close(write_end)
        except OSError as error:
            raise ViewError(f"cannot reach the helper that makes the view: {error}") from error
        await _readable(read_end)
        text = os.read(read_end, ANSWER_BYTES)
    if not text:
        raise ViewError("the helper that makes the view ended, or took too long")
    answer: dict[str, Any] = json.loads(text)
    if "problem" in answer:
        raise ViewError(str(answer["problem"]))
    return answer


async def _readable(fd: int) -> None:
    """Wait for the answer, or for the end of who should have written it."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, tell)
    try:
        await ready
    finally:
        loop.remove_reader(fd)

# SPDX-License-Identifier: Apache-2.0
"""Opens that wait and names that appear: each session's groups, its watcher, and what the gate has.

The keeper holds copies of all of it: a dead worker or gate means that opens wait, and the watcher
outlives both. A watcher that is gone is started again, and looks at everything anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monitor.daemon.context import Context, Refused
from monitor.daemon.gate.opens import OpensFacts
from monitor.daemon.view import viewing
from monitor.daemon.view.request import ViewError, WatchRequest
from monitor.kernel import fanotify
from monitor.kernel.cgroup import Cgroup, unified_mount
from monitor.policy.opens import OpenKind, OpenRule
from monitor.session.registry import UnknownSession
from monitor.session.session import Session, State
from monitor.wire.opens import OpensMemory

# Names under which the keeper has them, before the session's.
GROUP, NAMES, MEMORY, CHANNEL = "fanotify.", "names.", "opens.", "watch."
KINDS = (GROUP, NAMES, MEMORY, CHANNEL)
MESSAGE_BYTES = 4096
# A watcher that cannot be started again this often ends its session.
ATTEMPTS = 5
PAUSE_SECONDS = 0.2


@dataclass(slots=True)
class _Files:
    """What one session has: its descriptors, and who waits for its watcher's word."""

    group: int
    names: int
    memory: int
    channel: socket.socket | None = None
    failures: int = 0
    waiting: list[asyncio.Future[None]] = field(default_factory=list)


class Opening:
    """The opens of one worker's sessions. `end_soon` ends one whose files cannot be watched."""

    def __init__(
        self,
        context: Context,
        end_soon: Callable[[Session, str], None],
        soon: Callable[[Coroutine[Any, Any, Any]], None],
    ) -> None:
        self.context = context
        self._end_soon = end_soon
        self._soon = soon
        self._files: dict[str, _Files] = {}

    # -- a session's life ----------------------------------------------------------------------

    async def begin(self, session: Session, pid: int) -> dict[str, Any] | None:
        """Mark and watch what the session's rules name, before it runs; facts for its launch.

        `pid` is a process that lives where it will. None where nothing is to be watched. Refused.
        """
        if not _watches(session):
            return None
        try:
            files = self._make(session.id)
            self._introduce(session, files, fresh=True)
            found = await self._watch(session, files, pid)
        except (ViewError, OSError, ValueError) as error:
            raise Refused(f"the files of the session cannot be watched: {error}") from error
        return {"marked": found.marked, "watched": found.watched, "notes": list(found.notes)}

    def adopt(self, kept: dict[str, int]) -> None:
        """Go on with what a worker before has left with the keeper; the rest is closed.

        A session that is ending has its opens wait as well until nothing of it is left.
        """
        found: dict[str, dict[str, int]] = {}
        for name in [name for name in kept if name.startswith(KINDS)]:
            kind, _, identity = name.partition(".")
            found.setdefault(identity, {})[kind + "."] = kept.pop(name)
        for session in self.context.registry.live():
            mine = found.get(session.id, {})
            if len(mine) == len(KINDS):
                del found[session.id]
                channel = socket.socket(fileno=mine[CHANNEL])
                files = _Files(mine[GROUP], mine[NAMES], mine[MEMORY], channel)
                self._files[session.id] = files
                self._introduce(session, files)
                self._listen(session.id, files)
            elif session.state in (State.RUNNING, State.FROZEN) and _watches(session):
                self._end_soon(session, "the marks on its files are lost")
        for identity, descriptors in found.items():
            for kind, fd in descriptors.items():
                os.close(fd)
                self.context.kept.drop(kind + identity)

    def again(self) -> None:
        """A new gate has started: it has to be told of everything."""
        for identity, files in self._files.items():
            with contextlib.suppress(UnknownSession):
                self._introduce(self.context.registry.get(identity), files)

    def ended(self, identity: str) -> None:
        """The session is over: nothing of it waits any more, and its watcher goes."""
        files = self._files.pop(identity, None)
        if files is None:
            return
        with contextlib.suppress(OSError):
            self._tell({"do": "opens.end", "session": identity}, ())
        if files.channel is not None:
            asyncio.get_running_loop().remove_reader(files.channel.fileno())
            # With the keeper's copy the watcher's last one goes, and it ends.
            files.channel.close()
        for fd in (files.group, files.names, files.memory):
            os.close(fd)
        for kind in KINDS:
            with contextlib.suppress(OSError):
                self.context.kept.drop(kind + identity)
        self._answered(files)

    # -- changes -------------------------------------------------------------------------------

    def tell(self, session: Session) -> None:
        """The session has another plan: the gate goes by its rules. `change` follows."""
        if session.id in self._files:
            self._tell({"do": "opens", **_facts(session).to_json()}, ())

    async def change(self, session: Session) -> None:
        """The session goes on under another plan: mark, watch and mask what it says now.

        What was masked stays so, and so do marks, on which no rule says anything any more. A
        session that had nothing to be watched gets what it needs; one that cannot have it ends.
        """
        files = self._files.get(session.id)
        if files is None:
            try:
                await self.begin(session, _any_process(session))
            except Refused as error:
                self._end_soon(session, error.reason)
            return
        request = _request(session).to_json()
        with tempfile.TemporaryFile() as file:
            file.write(request)
            file.flush()
            await self._told(files, {"do": "change"}, [file.fileno()])
        # The rows that the gate read meanwhile may have been those of the old rules.
        self.tell(session)

    async def remark(self, session: Session, labels: Sequence[int]) -> None:
        """These labels came off: opens of what earns them wait again. While it is frozen."""
        files = self._files.get(session.id)
        if files is None:
            return
        self._tell({"do": "opens.unearned", "session": session.id, "labels": list(labels)}, ())
        await self._told(files, {"do": "scan"}, [])

    async def _told(
        self, files: _Files, message: dict[str, Any], descriptors: Sequence[int]
    ) -> None:
        """Have the watcher do something, and wait until it has."""
        done = asyncio.get_running_loop().create_future()
        files.waiting.append(done)
        # One that is gone is followed by one that looks at everything anyway.
        if files.channel is not None:
            with contextlib.suppress(OSError):
                socket.send_fds(files.channel, [json.dumps(message).encode()], list(descriptors))
        await done

    # ------------------------------------------------------------------------------------------

    def _tell(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        self.context.gates.tell(message, descriptors)

    def _make(self, identity: str) -> _Files:
        files = _Files(fanotify.permission_group(), fanotify.name_group(), os.memfd_create("opens"))
        self._files[identity] = files
        OpensMemory(files.memory).prepare()
        for kind, fd in ((GROUP, files.group), (NAMES, files.names), (MEMORY, files.memory)):
            self.context.kept.store(kind + identity, fd)
        return files

    def _introduce(self, session: Session, files: _Files, *, fresh: bool = False) -> None:
        """Tell the gate of a session: from then on it answers. `fresh`: no gate did before."""
        message = {"do": "opens", "fresh": fresh, **_facts(session).to_json()}
        self._tell(message, [files.group, files.memory])

    async def _watch(self, session: Session, files: _Files, pid: int) -> viewing.Watched:
        """Start the session's watcher; returns when it has marked everything."""
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if files.channel is not None:
            files.channel.close()
        files.channel = mine
        self.context.kept.store(CHANNEL + session.id, mine.fileno())
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = await viewing.watch(
                namespace,
                _request(session),
                its.fileno(),
                files.group,
                files.names,
                files.memory,
            )
        finally:
            os.close(namespace)
            its.close()
        self._listen(session.id, files)
        return found

    def _listen(self, identity: str, files: _Files) -> None:
        if self._files.get(identity) is files and files.channel is not None:
            files.channel.setblocking(False)
            loop = asyncio.get_running_loop()
            loop.add_reader(files.channel.fileno(), self._heard, identity, files)

    def _heard(self, identity: str, files: _Files) -> None:
        """The watcher says something, or is gone."""
        assert files.channel is not None
        try:
            data = files.channel.recv(MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(files.channel.fileno())
            self._soon(self._restart(identity, files))
            return
        message = json.loads(data)
        files.failures = 0
        if message["say"] == "scanned":
            self._answered(files)
        elif message["say"] == "failed":
            self._give_up(identity, files, message["problem"])

    def _answered(self, files: _Files) -> None:
        for future in files.waiting:
            if not future.done():
                future.set_result(None)
        files.waiting.clear()

    async def _restart(self, identity: str, files: _Files) -> None:
        """Start a watcher again in place of one that ended."""
        while self._files.get(identity) is files:
            try:
                session = self.context.registry.get(identity)
                await self._watch(session, files, _any_process(session))
            except UnknownSession:
                return
            except (ViewError, OSError, Refused) as error:
                files.failures += 1
                if files.failures >= ATTEMPTS:
                    self._give_up(identity, files, str(error))
                    return
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                self._answered(files)
                return

    def _give_up(self, identity: str, files: _Files, problem: str) -> None:
        print(f"ri-monitord: session {identity}: {problem}", file=sys.stderr)
        with contextlib.suppress(UnknownSession):
            session = self.context.registry.get(identity)
            self._end_soon(session, f"its files cannot be watched: {problem}")
        self._answered(files)


# Imported when there is a session: its room takes its time.


def _watches(session: Session) -> bool:
    from monitor.policy.watched import watches

    return watches(session.plan)


def _rules(session: Session) -> tuple[OpenRule, ...]:
    from monitor.policy.watched import open_rules

    return open_rules(session.plan, len(session.above), session.labels)


def _facts(session: Session) -> OpensFacts:
    cgroup = "/" + str(Path(session.cgroup).relative_to(unified_mount()))
    return OpensFacts(session.id, cgroup, _rules(session))


def _request(session: Session) -> WatchRequest:
    from monitor.policy.watched import watched_masks

    rules = _rules(session)
    opens = tuple((rule.pattern, rule.kind is OpenKind.DENY) for rule in rules)
    # The view of a session inside another is that one's: a mask would fall on both.
    own = session.parent is None
    return WatchRequest.of(session.plan, watched_masks(session.plan), opens, own)


def _any_process(session: Session) -> int:
    """A process of the session: it stands in the session's view. Refused where there is none."""
    cgroup = Cgroup(Path(session.cgroup))
    with contextlib.suppress(OSError):
        for pid in cgroup.processes():
            return pid
    raise Refused("no process of the session is left")

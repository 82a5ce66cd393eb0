# SPDX-License-Identifier: Apache-2.0
"""One launch: the conversation with a launcher and its child, from the request to `go`.

The order of monitor/launch/protocol.py is the only one there is. Whatever goes wrong is raised; who
runs the launch takes down what `session` names.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monitor.daemon import arming, grants
from monitor.daemon.context import Context, LaunchRequest, Refused
from monitor.daemon.launch import floor, layers, readback
from monitor.daemon.launch import request as launch_request
from monitor.daemon.launch.channel import Closed, LaunchChannel, sealed
from monitor.daemon.launch.readback import Status
from monitor.daemon.packet_floor import NAME as PACKETS
from monitor.kernel import cgroup
from monitor.kernel.cgroup import Cgroup
from monitor.kernel.peer import Peer, gone
from monitor.launch import protocol
from monitor.launch.protocol import Message, ProtocolError
from monitor.session.session import Session

# The child waits this much longer than the daemon, which then tells it why.
PATIENCE_SECONDS = 5


class Launch:
    """One launch. `session` is set from the moment there is something to take down."""

    def __init__(
        self, context: Context, channel: LaunchChannel, peer: Peer, known: bool = False
    ) -> None:
        """`known`: this user has been given sessions before."""
        self.context = context
        self.channel = channel
        self.peer = peer
        self.known = known
        self.step = "read the request"
        self.request: LaunchRequest | None = None
        self.session: Session | None = None
        self._threads: list[asyncio.Task[None]] = []

    def asked(self) -> dict[str, Any]:
        """Who asked for what, for the record of a refusal."""
        asked: dict[str, Any] = {"uid": self.peer.uid}
        if self.request is not None:
            asked |= {
                "agent": self.request.agent,
                "profile": self.request.profile or self.request.profile_source,
                "observe": self.request.observe,
                "command": self.request.argv0,
            }
            if self.request.grant is not None:
                asked |= grants.said(self.request.grant)
        return asked

    async def run(self) -> Session:
        """The whole conversation, up to `go`. Refused, ProtocolError, NotWorn, Closed, OSError."""
        message, _pid = await self.channel.receive(protocol.REQUEST, self.peer.pid)
        # A cgroup cannot be made while the kernel gets ready for the move, so who may have no
        # session at all does not make others wait for theirs.
        if self.known:
            self._in_thread(cgroup.announce_move)
        self.request = launch_request.read(message)
        before = self._check_launcher()
        self.step = "make the session"
        session = await self.context.sessions.create(self.peer, self.request, self._parent())
        self.session = session
        packets = self.context.packets.begin(session)
        if not self.known:
            self._in_thread(cgroup.announce_move)
        self.context.sessions.attach(session, self.channel.connection)
        self.step = "send the session"
        self._send_session(session, launch_request.environment(message))
        self.step = "wait for the child"
        _message, pid = await self.channel.receive(protocol.CHILD)
        self._check_child(pid)
        entered = self._in_thread(Cgroup(Path(session.cgroup)).enter, pid)
        namespace, view = await self._view(session, pid)
        self.step = "mark the files that its rules name"
        files = await self.context.opens.begin(session, pid)
        self.step = "wait until the child is confined"
        message = await self._confined(session, pid)
        self.step = "move the child into the session's cgroup"
        await asyncio.shield(entered)
        self.step = "put its packet rules in force"
        await self.context.packets.begun(packets)
        self.step = "read back what the child wears"
        facts = readback.check(pid, self._expected(session, before, namespace))
        facts |= {"launcher": self.peer.pid, "command": self.request.argv0, "view": view}
        if files is not None:
            facts["files"] = files
        if not self.context.packets.reach(pid):
            facts["missing"] = [PACKETS]
        facts |= {
            f"landlock_{name}": message.number(name) for name in ("layers", "rules", "absent")
        }
        self.step = "let the LSM programs judge the session"
        arming.arm(self.context, session)
        self.step = "record the launch"
        session = self.context.sessions.started(session, pid, facts)
        self.session = session
        if session.parent is not None:
            self.context.gates.session(session)
        self.channel.send(protocol.GO)
        return session

    async def _confined(self, session: Session, pid: int) -> Message:
        """The child's word that it is confined; the gate gets the listener of its filter."""
        if not self._listens(session):
            message, _pid = await self.channel.receive(protocol.CONFINED, pid)
            return message
        message, listener = await self.channel.receive_one(protocol.CONFINED, pid)
        self.step = "hand the filter's listener to the gate"
        self.context.gates.begin(session, listener, pid)
        return message

    def _listens(self, session: Session) -> bool:
        """A session inside another is served by the listener of the outermost one."""
        return session.parent is None and bool(session.plan.syscalls.notified)

    async def settled(self) -> None:
        """Wait for what still works on the session: before that it cannot be taken down."""
        for task in self._threads:
            with contextlib.suppress(OSError):
                await asyncio.shield(task)

    def _in_thread(self, action: Callable[..., None], *arguments: object) -> asyncio.Task[None]:
        """Do what makes the kernel wait while the launch goes on."""
        task = asyncio.create_task(asyncio.to_thread(action, *arguments))
        # Whether it failed is asked where its result is needed.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._threads.append(task)
        return task

    def _parent(self) -> Session | None:
        """The session that the launcher is a process of; None: of no session. Refused."""
        pid = self.peer.pid
        try:
            place = cgroup.within(self.context.config.instance, pid)
            number = place.stat().st_ino if place else 0
        except OSError as error:
            raise Refused(f"process {pid}, which asked, is gone") from error
        if gone(self.channel.connection):
            # What was read may be of another process with its number.
            raise Refused(f"process {pid}, which asked, is gone")
        if place is None:
            return None
        parent = self.context.registry.by_cgroup(number)
        if parent is None:
            raise Refused("a process of a session that is not known cannot start another")
        return parent

    def _by_root(self, session: Session) -> bool:
        """Whether the launcher has root's capabilities: inside a session nobody has."""
        return self.peer.uid == 0 and session.parent is None

    def _send_session(self, session: Session, names: list[str]) -> None:
        plan, seconds = session.plan, self.context.config.limits.launch_seconds
        fields = [
            ("id", session.id.encode()),
            ("view", self._view_kind(session)),
            ("seconds", b"%d" % (int(seconds) + PATIENCE_SECONDS)),
        ]
        fields += self._environment(session, names)
        if self._listens(session):
            fields.append(("listen", b"1"))
        if plan.limits.files is not None:
            fields.append(("files", b"%d" % plan.limits.files))
        if self._by_root(session):
            fields += [("uid", b"%d" % session.uid), ("gid", b"%d" % session.gid)]
            fields += [("group", b"%d" % group) for group in self._groups(session)]
        try:
            contents = {
                "seccomp": floor.export(plan.syscalls, self._listens(session)),
                "layers": layers.document(plan, self.context.host.landlock_abi),
            }
        except ValueError as error:
            raise Refused(f"the profile cannot be held here: {error}") from error
        with contextlib.ExitStack() as stack:
            descriptors = []
            for name, content in contents.items():
                descriptors.append(sealed(f"ri-{name}", content))
                stack.callback(os.close, descriptors[-1])
            self.channel.send(protocol.SESSION, *fields, descriptors=descriptors)

    def _view_kind(self, session: Session) -> bytes:
        if session.plan.view is None or session.plan.observe:
            return protocol.VIEW_NONE
        return protocol.VIEW_ROOT if self.peer.uid == 0 else protocol.VIEW_USER

    def _environment(self, session: Session, names: list[str]) -> list[tuple[str, bytes]]:
        from monitor.policy.environment import kept

        plan = session.plan.environment
        keep = kept(plan, names)
        made: dict[str, str] = {}
        if session.uid != self.peer.uid:
            # Those of the one who started it would lead CMD to another's home.
            account = pwd.getpwuid(session.uid)
            own = {
                "HOME": account.pw_dir,
                "USER": account.pw_name,
                "LOGNAME": account.pw_name,
                "SHELL": account.pw_shell or "/bin/sh",
            }
            made |= {name: own[name] for name in kept(plan, own)}
        made |= dict(plan.set)
        pairs = [f"{name}={value}" for name, value in made.items()]
        return [("keep", os.fsencode(name)) for name in keep if name not in made] + [
            ("set", os.fsencode(pair)) for pair in pairs
        ]

    def _groups(self, session: Session) -> list[int]:
        """Supplementary groups of the user whom CMD runs as; root without capabilities has none."""
        return [] if session.uid == 0 else os.getgrouplist(session.user, session.gid)

    def _check_launcher(self) -> Status:
        """What the launcher wears: its child starts with the same."""
        status = _status(self.peer.pid)
        if set(status.uids) != {self.peer.uid}:
            raise Refused(
                f"the launcher has several user ids ({', '.join(map(str, status.uids))})",
                "start it without a set-user-id program in between",
            )
        return status

    def _check_child(self, pid: int) -> None:
        """The process that is to become CMD must be the launcher's own child."""
        if pid == self.peer.pid or _status(pid).parent != self.peer.pid:
            raise ProtocolError(f"process {pid} is not a child of the launcher {self.peer.pid}")
        instance = self.context.config.instance
        if cgroup.within(instance, pid) != cgroup.within(instance, self.peer.pid):
            raise ProtocolError(f"process {pid} is not where the launcher {self.peer.pid} is")

    async def _view(self, session: Session, pid: int) -> tuple[str | None, dict[str, Any] | None]:
        """(the child's mount namespace, facts on its view); None each where it gets none."""
        kind = self._view_kind(session)
        if kind == protocol.VIEW_NONE:
            return None, None
        from monitor.daemon.view import viewing

        self.step = "wait until the child has unshared its namespaces"
        await self.channel.receive(protocol.UNSHARED, pid)
        namespace = readback.namespace(pid)
        if namespace == readback.namespace(self.peer.pid):
            raise ProtocolError(f"process {pid} has not unshared its mount namespace")
        self.step = "make the view"
        identity = viewing.Identity(session.uid, self._gid(session), kind == protocol.VIEW_USER)
        try:
            made = await viewing.make(pid, session.plan, identity)
        except viewing.ViewError as error:
            raise Refused(str(error)) from error
        self.channel.send(protocol.VIEWED)
        facts = {"masked": made.masked, "milliseconds": made.milliseconds}
        return namespace, facts | {"notes": list(made.notes)}

    def _gid(self, session: Session) -> int:
        """The group CMD runs in: the caller's own, which newgrp(1) may have changed."""
        return session.gid if self._by_root(session) else self.peer.gid

    def _expected(
        self, session: Session, before: Status, namespace: str | None
    ) -> readback.Expected:
        from_root = self._by_root(session)
        bounded = from_root or self._view_kind(session) == protocol.VIEW_USER
        if session.parent is not None:
            # It shares what the session above has.
            namespace = readback.namespace(self.peer.pid)
            bounded = before.capabilities["CapBnd"] == 0
        return readback.Expected(
            launcher=self.peer.pid,
            uid=session.uid,
            gid=self._gid(session),
            groups=tuple(self._groups(session)) if from_root else None,
            filters=before.filters,
            bounded=bounded,
            namespace=namespace,
            cgroup=Path(session.cgroup),
        )


def _status(pid: int) -> Status:
    try:
        return Status.read(pid)
    except OSError as error:
        raise Closed(f"process {pid} is gone") from error

# SPDX-License-Identifier: Apache-2.0
"""The launch channel: from a request to a session in which CMD runs, and then its lifeline.

The order of monitor/launch/protocol.py is the only one there is: any other message, an error, the
time being over or a closed connection ends the launch, and the session with all that was made for
it. CMD starts only after what its process wears has been read back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import socket
import sys
import traceback
from collections import Counter
from pathlib import Path

from monitor.daemon.context import Context, Refused
from monitor.daemon.ending import EndingFailed
from monitor.daemon.launch.channel import Closed, LaunchChannel, readable
from monitor.daemon.launch.conversation import Launch
from monitor.daemon.launch.readback import NotWorn
from monitor.daemon.leases import NotRenewed
from monitor.kernel import cgroup
from monitor.kernel.cgroup import Cgroup
from monitor.kernel.peer import Peer, peer_of
from monitor.launch import protocol
from monitor.launch.protocol import ProtocolError
from monitor.policy.action import Verb, Verdict
from monitor.session.registry import UnknownSession
from monitor.session.session import Session

# Out of descriptors: connections wait in the backlog until some are closed.
PAUSE_SECONDS = 0.1
# How long a launcher may take to end by itself.
FAREWELL_SECONDS = 0.5
# A refusal is recorded once in this time for each user, with the number of those before it.
RECORD_SECONDS = 1.0
MOST_REFUSED = 4096
# Refused connections that are waited for at a time: each takes a descriptor.
MOST_FAREWELLS = 64


class Launching:
    """Serves the launch socket of one worker."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.faults = 0  # launches that ended in an error of our own
        # Launches under way, by the uid or the cgroup that they come from.
        self._waiting: Counter[int | str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._farewells = 0
        self._known: set[int] = set()  # uids that have been given a session
        self._refusals: dict[int | str, tuple[float, int]] = {}

    async def serve(self, listener: socket.socket) -> None:
        """Take connections until cancelled; each is served on its own."""
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        # Messages sent before a connection is accepted carry credentials too.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            while True:
                try:
                    connection, _address = await loop.sock_accept(listener)
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED):
                        raise
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                self._spawn(connection)
        finally:
            for task in self._tasks:
                task.cancel()

    async def adopt(self, session: Session, connection: socket.socket) -> None:
        """Go on watching the lifeline of a session that an earlier worker launched."""
        with connection:
            await self._watch(session, LaunchChannel(connection))

    # -- one connection ------------------------------------------------------------------------

    def _spawn(self, connection: socket.socket) -> None:
        task = asyncio.create_task(self._connection(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, connection: socket.socket) -> None:
        with connection:
            try:
                channel, peer = LaunchChannel(connection), peer_of(connection)
            except OSError:
                return  # it is gone already
            # One user's idle connections must not keep the others out.
            whose, most = self._whose(peer)
            if self._waiting[whose] >= most:
                channel.refuse("too many of your launches are under way", "try again in a moment")
                await self._heard(connection)
                return
            self._waiting[whose] += 1
            launch = Launch(self.context, channel, peer, peer.uid in self._known)
            try:
                session = await self._launch(launch)
            finally:
                self._waiting[whose] -= 1
                if not self._waiting[whose]:
                    del self._waiting[whose]
            if session is not None:
                self._known.add(peer.uid)
                await self._watch(session, channel)

    def _whose(self, peer: Peer) -> tuple[int | str, float]:
        """Whose launch it is, a user's or a session's, and how many may be under way of those."""
        limits = self.context.config.limits
        try:
            place = cgroup.within(self.context.config.instance, peer.pid)
        except OSError:
            place = None
        if place is not None:
            return str(place), limits.per_session
        return peer.uid, math.inf if peer.uid == 0 else limits.per_user

    async def _heard(self, connection: socket.socket) -> None:
        """Wait until a refusal was read, where there is room: closing early would take it back."""
        if self._farewells >= MOST_FAREWELLS:
            return
        self._farewells += 1
        try:
            await _heard(connection)
        finally:
            self._farewells -= 1

    async def _launch(self, launch: Launch) -> Session | None:
        """The running session; None: there is none, and nothing of it is left."""
        seconds = self.context.config.limits.launch_seconds
        reason, hint = "", ""
        try:
            async with asyncio.timeout(seconds):
                return await launch.run()
        except Refused as error:
            reason, hint = error.reason, error.hint
        except ProtocolError as error:
            reason, hint = f"launch message: {error}", "ri-exec and the daemon differ in version"
        except NotWorn as error:
            reason = f"the process is not confined as it must be: {error}"
        except TimeoutError:
            reason = f"the launch was not done within {seconds:g} s (at: {launch.step})"
        except Closed:
            await self._end(launch, "its launch was broken off")
            return None
        except Exception as error:  # the loop's edge: one launch must not end the others
            if not isinstance(error, OSError):
                self.faults += 1
                traceback.print_exc()
            reason = f"cannot {launch.step}: {error}"
        except BaseException:
            await self._end(launch, "the daemon was stopped during its launch")
            raise
        self._record(launch, reason)
        launch.channel.refuse(reason, hint)
        # The child is killed with the session: it is to tell first why.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await readable(launch.channel.connection)
        await self._end(launch, f"its launch failed: {reason}")
        return None

    async def _end(self, launch: Launch, why: str) -> None:
        await launch.settled()
        if launch.session is not None:
            await self._end_session(launch.session, why)

    async def _end_session(self, session: Session, why: str) -> None:
        # It says itself what went wrong, and tries again.
        with contextlib.suppress(EndingFailed, OSError):
            await self.context.sessions.end(session, why)

    async def _watch(self, session: Session, channel: LaunchChannel) -> None:
        """End the session when its launcher closes the lifeline, or sends what is not due on it."""
        if session.lease:
            await self._renew(session, channel)
        else:
            await readable(channel.connection)
        why = "its command ended"
        try:
            if session.pid in Cgroup(Path(session.cgroup)).processes():
                why = "its launcher ended"
        except OSError:
            why = "its cgroup is gone"
        await self._end_session(session, why)

    async def _renew(self, session: Session, channel: LaunchChannel) -> None:
        """Renew a lease as often as its launcher asks; until the lifeline ends."""
        while True:
            try:
                await channel.receive(protocol.RENEW, session.launcher)
            except (Closed, ProtocolError):
                return
            try:
                self.context.sessions.leases.renew(session.id)
            except (NotRenewed, UnknownSession):
                continue  # it runs out
            except OSError as error:
                print(f"ri-monitord: cannot renew session {session.id}: {error}", file=sys.stderr)

    def _record(self, launch: Launch, reason: str) -> None:
        """A refusal in the audit log; who asks all the time does not fill the disk with it."""
        now = asyncio.get_running_loop().time()
        whose, _most = self._whose(launch.peer)
        last, left_out = self._refusals.get(whose, (-RECORD_SECONDS, 0))
        if now - last < RECORD_SECONDS:
            self._refusals[whose] = (last, left_out + 1)
            return
        if len(self._refusals) >= MOST_REFUSED:
            del self._refusals[next(iter(self._refusals))]
        self._refusals[whose] = (now, 0)
        details = launch.asked() | {"refused_before": left_out}
        self.context.recording.daemon_record(
            launch.session,
            Verb.SESSION_LAUNCH,
            str(details.get("profile") or "?"),
            details,
            verdict=Verdict.DENY,
            reason=reason,
            pid=launch.peer.pid,
        )


async def _heard(connection: socket.socket) -> None:
    """Take what the other side has sent until it closes, or is too slow."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            while True:
                await readable(connection)
                if not connection.recv(protocol.MAXIMUM, socket.MSG_DONTWAIT):
                    return

# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the gate: starts it, tells it of sessions, and takes what it says.

The gate holds actions and decides on them (monitor/daemon/gate); here are its asks, its records and
the labels that it saw earned. A listener's last copy must never close while its session lives: the
keeper has one, and the slots in which the next gate finds what this one had taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.audit.record import Draft
from monitor.daemon.gate.channel import Channel
from monitor.daemon.gate.facts import Facts, plan_file
from monitor.kernel import notify
from monitor.kernel.cgroup import unified_mount
from monitor.policy.action import Mechanism, Verb, Verdict
from monitor.session.asks import Answer, Ask, Wanted
from monitor.session.registry import UnknownSession
from monitor.session.session import Session

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

# Names under which the keeper has them, before the session's.
LISTENER, SLOTS, ROOT = "listener.", "slots.", "root."
KINDS = (LISTENER, SLOTS, ROOT)
# A gate that dies at once again is started after a pause.
HEALTHY_SECONDS, LONGEST_PAUSE = 2.0, 2.0
# How long an approval of one connection waits for the kernel to make it.
ONCE_NANOSECONDS = 10 * 10**9
# A gate that says nothing for so long is waited for no longer: it is being started again.
CAUGHT_UP_SECONDS = 2.0
NOT_IN_FORCE = "the approval cannot be put in force: {}"


@dataclass(frozen=True, slots=True)
class _Place:
    """What waits for one answer: the gate's number for it, and which of its links."""

    life: int
    number: int
    index: int


class _Waiter:
    """Stands for one held action, for one link; the asks call it with the answer."""

    def __init__(self, gates: Gates, place: _Place, details: dict[str, Any], session: str) -> None:
        self.gates = gates
        self.place = place
        self.details = details
        self.session = session
        self.ask: Ask | None = None

    def __call__(self, answer: Answer) -> None:
        self.gates.answered(self, answer)


class Gates:
    """One gate, started again when it dies."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.started = 0  # how many gates there were
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._since = 0.0
        self._pause = 0.0
        self._stopping = False
        self._kept: dict[str, tuple[int, int, int]] = {}  # session -> listener, slots, root
        self._waiting: dict[_Place, _Waiter] = {}
        self._drafts: list[Draft] = []
        self._echoes: dict[int, asyncio.Future[None]] = {}
        self._numbers = itertools.count()
        self._answering: set[asyncio.Task[None]] = set()

    # -- the process ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start a gate and tell it of everything."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-P", "-m", "monitor.daemon.gate.process"]
        arguments = [str(theirs.fileno()), self.context.config.instance, str(os.getpid())]
        self._process = subprocess.Popen(
            [*command, *arguments], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        self.started += 1
        self._since = time.monotonic()
        self._channel = Channel(ours, self._blocked)
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable)
        # First, while the low numbers are free under which opens may wait; Python's mmap takes one.
        self.context.opens.again()
        # Sessions inside others come after those around them.
        for session in sorted(self.context.registry.live(), key=lambda each: len(each.above)):
            if self._serves(session):
                self.session(session)

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    def stop(self) -> None:
        """The worker ends; what waits is found by the next."""
        self._stopping = True
        self._close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _close(self) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None
        for echo in self._echoes.values():
            if not echo.done():
                echo.set_result(None)
        self._echoes.clear()

    def _gone(self) -> None:
        """The gate has died: what it held waits in the kernel for the next."""
        self._close()
        if self._process is not None:
            self._process.kill()
            status = self._process.wait()
            if not self._stopping:
                print(f"ri-monitord: the gate ended ({status}), starting it again", file=sys.stderr)
        for waiter in self._waiting.values():
            self.context.asks.detach(waiter)
        self._waiting.clear()
        if self._stopping:
            return
        if time.monotonic() - self._since > HEALTHY_SECONDS:
            self._pause = 0.0
        asyncio.get_running_loop().call_later(self._pause, self.start)
        self._pause = min(LONGEST_PAUSE, self._pause * 2 or 0.1)

    def tell(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send it something; the next gate is told of everything that matters anyway."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.send(message, descriptors)

    async def caught_up(self) -> None:
        """Wait until the gate goes by all it was told, and what it said before has been taken in.

        Nothing is to be waited for where there is none: the next one starts from what is true now.
        """
        if self._channel is None:
            return
        number = next(self._numbers)
        echo = self._echoes[number] = asyncio.get_running_loop().create_future()
        self.tell({"do": "echo", "number": number})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(echo, CAUGHT_UP_SECONDS)
        self._echoes.pop(number, None)

    def _blocked(self, waiting: bool) -> None:
        if waiting and self._channel is not None:
            asyncio.get_running_loop().call_later(0.01, self._flush)

    def _flush(self) -> None:
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.flush()

    # -- sessions ------------------------------------------------------------------------------

    def adopt(self, kept: dict[str, int]) -> None:
        """Take over what a worker before has left with the keeper; the rest is closed."""
        found: dict[str, dict[str, int]] = {}
        for name in [name for name in kept if name.startswith(KINDS)]:
            kind, _, identity = name.partition(".")
            found.setdefault(identity, {})[f"{kind}."] = kept.pop(name)
        live = {session.id: session for session in self.context.registry.live()}
        for identity, mine in found.items():
            if identity in live and len(mine) == len(KINDS):
                self._kept[identity] = (mine[LISTENER], mine[SLOTS], mine[ROOT])
                continue
            for kind, descriptor in mine.items():
                os.close(descriptor)
                self.context.kept.drop(kind + identity)
        for session in live.values():
            if _listens(session) and session.id not in self._kept:
                self.context.sessions.end_soon(session, "what holds its actions is lost")

    def begin(self, session: Session, listener: int, pid: int) -> None:
        """Hold the actions of a session, whose process `pid` made the listener. Takes it over.

        OSError, ValueError: it is none, or cannot be kept.
        """
        if not notify.is_listener(listener):
            os.close(listener)
            raise ValueError("what the launcher sent is no listener of a filter")
        try:
            root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            os.close(listener)
            raise
        self._kept[session.id] = (listener, notify.Slots.create(), root)
        for kind, descriptor in zip(KINDS, self._kept[session.id], strict=True):
            self.context.kept.store(kind + session.id, descriptor)
        self.session(session)

    def session(self, session: Session) -> None:
        """Tell the gate of a session that starts, with what it needs to serve it."""
        self._introduce(session, self._kept.get(session.id, ()))

    def changed(self, session: Session) -> None:
        """The session goes on under another plan."""
        self._introduce(session, ())

    def _introduce(self, session: Session, listening: Sequence[int]) -> None:
        if not self._serves(session):
            return
        whole = self.context.registry.whole(session)
        facts = Facts(
            session.id,
            self._outermost(session),
            "/" + str(Path(session.cgroup).relative_to(unified_mount())),
            session.cgroup_id,
            whole.policies,
            whole.labels,
            whole.plan,
        )
        plan = plan_file(whole.plan)
        try:
            self.tell({"do": "session", **facts.to_message()}, [plan, *listening])
        finally:
            os.close(plan)

    def ended(self, identity: str) -> None:
        """The session is over: nothing of it waits any more."""
        self.tell({"do": "end", "session": identity})
        for waiter in [each for each in self._waiting.values() if each.session == identity]:
            self._withdraw(waiter)
        kept = self._kept.pop(identity, None)
        if kept is None:
            return
        for kind, descriptor in zip(KINDS, kept, strict=True):
            os.close(descriptor)
            with contextlib.suppress(OSError):
                self.context.kept.drop(kind + identity)

    def _serves(self, session: Session) -> bool:
        return self._outermost(session) in self._kept

    def _outermost(self, session: Session) -> str:
        above = self.context.registry.above(session)
        return above[0].id if above else session.id

    # -- what it says --------------------------------------------------------------------------

    def _readable(self) -> None:
        channel = self._channel
        try:
            while channel is not None and (received := channel.receive()) is not None:
                message, descriptors = received
                for descriptor in descriptors:
                    os.close(descriptor)
                self._take(message)
        except OSError:
            self._gone()
        drafts, self._drafts = self._drafts, []
        if drafts:
            self.context.recording.record(drafts)
        for draft in drafts:
            if draft.verdict is Verdict.DENY:
                self.context.sessions.notices.denied(
                    draft.session, draft.verb, draft.object, draft.reason
                )
            if draft.mechanism is Mechanism.BUDGET:
                self.context.budgets.over(draft)

    def _take(self, message: dict[str, Any]) -> None:
        match message["say"]:
            case "ask":
                self._ask(message)
            case "gone":
                for place in [p for p in self._waiting if p.number == message["number"]]:
                    self._withdraw(self._waiting[place])
            case "record":
                self._record(message)
            case "label":
                self._label(message)
            case "echo":
                echo = self._echoes.get(message["number"])
                if echo is not None and not echo.done():
                    echo.set_result(None)

    def _ask(self, message: dict[str, Any]) -> None:
        fields = message["wanted"]
        wanted = Wanted(
            **fields
            | {
                "session": message["session"],
                "verb": Verb(fields["verb"]),
                "argv": tuple(fields["argv"]),
            }
        )
        place = _Place(self.started, message["number"], message["index"])
        waiter = _Waiter(self, place, message["details"], message["session"])
        self._waiting[place] = waiter
        waiter.ask = self.context.asks.raise_(wanted, waiter)

    def answered(self, waiter: _Waiter, answer: Answer) -> None:
        """Somebody, or time, has answered for one link of a held action."""
        if self._waiting.pop(waiter.place, None) is None or waiter.place.life != self.started:
            return
        allow, reason = answer.allow, answer.reason
        if allow and waiter.details:
            try:
                self._approve(waiter, answer)
            except (OSError, ValueError) as error:
                allow, reason = False, NOT_IN_FORCE.format(error)
            else:
                task = asyncio.ensure_future(self._let_packets_go(waiter, reason))
                self._answering.add(task)
                task.add_done_callback(self._answering.discard)
                return
        self._answer(waiter, allow, reason)

    async def _let_packets_go(self, waiter: _Waiter, reason: str) -> None:
        """Answer when the session's packet rules have the destination too."""
        allow = True
        session = self.context.registry.by_cgroup(waiter.details["cgroup"])
        try:
            if session is not None:
                await self.context.packets.approved(session)
        except (OSError, ValueError, UnknownSession) as error:
            allow, reason = False, NOT_IN_FORCE.format(error)
        if waiter.place.life == self.started:
            self._answer(waiter, allow, reason)

    def _answer(self, waiter: _Waiter, allow: bool, reason: str) -> None:
        self.tell(
            {
                "do": "answer",
                "number": waiter.place.number,
                "index": waiter.place.index,
                "allow": allow,
                "reason": reason,
            }
        )

    def _approve(self, waiter: _Waiter, answer: Answer) -> None:
        """Let the kernel make the connection, before the gate lets the call go on."""
        details = waiter.details
        expires, uses = answer.expires, -1
        if answer.uses is not None:
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            expires, uses = now + ONCE_NANOSECONDS, answer.uses
        self.context.tables.approve(
            details["cgroup"],
            details["numbers"][waiter.place.index],
            details["protocol"],
            details["address"],
            details["port"],
            expires,
            uses,
        )

    def _withdraw(self, waiter: _Waiter) -> None:
        if self._waiting.pop(waiter.place, None) is not None and waiter.ask is not None:
            self.context.asks.withdraw(waiter.ask, waiter)

    def _session(self, identity: str) -> Session | None:
        try:
            return self.context.registry.get(identity)
        except UnknownSession:
            return None

    def _label(self, message: dict[str, Any]) -> None:
        session = self._session(message["session"])
        if session is not None:
            self.context.labels.earn(session, message["name"], message["why"], pid=message["pid"])

    def _record(self, message: dict[str, Any]) -> None:
        session = self._session(message["session"])
        if session is None:
            return
        details = dict(message["details"])
        if message["link"] is not None:
            details["link"] = message["link"]
        draft = Draft(
            time=time.time(),
            session=session.id,
            agent=session.agent,
            chain=session.chain.names(),
            pid=message["pid"],
            exe=message["exe"],
            verb=Verb(message["verb"]),
            object=message["object"],
            verdict=Verdict(message["verdict"]),
            reason=message["reason"],
            rule=message["rule"],
            mechanism=Mechanism(message["mechanism"]),
            count=1,
            details=details,
        )
        self._drafts.append(draft)


def _listens(session: Session) -> bool:
    """Whether the session's own filter has a listener."""
    return session.parent is None and bool(session.plan.syscalls.notified)

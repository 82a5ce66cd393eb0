# SPDX-License-Identifier: Apache-2.0
"""The packet rules of a worker's sessions: put in force, held to what the sessions may do now.

They lie beneath the cgroup programs, which are changed first and at once. What rules a session has
to have follows from what is known of it (`_wanted`), and is looked at every tick: so nothing that
changes its authority can be forgotten here. All changes are made by one thread, in their order.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from monitor.daemon.packet_records import PacketRecords
from monitor.daemon.packets import check
from monitor.daemon.packets.facts import Counters, Element, SessionFacts
from monitor.daemon.packets.packets import Packets
from monitor.daemon.probes.tables import narrowing
from monitor.kernel.cgroup import Cgroup, instance_root
from monitor.policy import packets as policy_packets
from monitor.policy.action import Verb, Verdict
from monitor.policy.decide_network import port_range
from monitor.policy.packets import EVERYTHING, NOTHING, Interval, PacketRules
from monitor.policy.plan import Policy
from monitor.session.registry import UnknownSession
from monitor.session.session import Session, State

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

T = TypeVar("T")
# Two programs that undo each other's changes would otherwise do nothing else.
REPAIR_SECONDS = 1.0
NAME = "packets"  # as the control is called in launch records


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a session's rules follow from. Kernel ids stand for one policy each.

    `above` are those of the sessions above, whose rules have a say in which ports a name is for.
    """

    shut: bool
    observe: bool
    policies: tuple[int, ...]
    above: tuple[int, ...]
    earned: frozenset[int]


class PacketFloor:
    """Of one worker. `problem`: why packets are not held on this host; "": they are."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.problem = ""
        # What all sessions may reach that look names up: where the resolver listens.
        self.resolver: tuple[Interval, ...] = ()
        self.records = PacketRecords(context)
        self.repairs = 0
        self._packets: Packets | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="packets")
        self._applied: dict[str, _Wanted] = {}
        self._given: dict[str, frozenset[Element]] = {}  # what people allowed
        self._failing: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: Future[None] | None = None
        self._repaired = 0.0

    # -- its life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the table or take it over; `problem` says why not."""
        self._loop = asyncio.get_running_loop()
        try:
            self.records.start(await self._do(self._open))
        except OSError as error:
            self.problem = str(error)
            print(f"ri-monitord: sessions go without packet rules: {error}", file=sys.stderr)

    def _open(self) -> int | None:
        self._packets = packets = Packets(self.context.config.instance)
        packets.prepare()
        return packets.group

    async def adopt(self) -> None:
        """Take away the rules of sessions that are no more, and bring those of the others up."""
        live = self._live()
        with contextlib.suppress(OSError):  # a stray takes no room of anybody's
            await self._do(lambda: self._table().leftovers([each.id for each in live]))
        self.look(live)

    async def verify(self) -> None:
        """Find out by an attempt whether rules like these hold packets on this host."""
        if self.problem:
            return
        try:
            if not await self._do(lambda: _holds(self.context.config.instance)):
                self.problem = "the rules are in place, and this kernel holds no packet by them"
        except OSError as error:
            print(f"ri-monitord: packet rules cannot be tried: {error}", file=sys.stderr)

    async def stop(self) -> None:
        """The worker ends. Without sessions the table goes as well; killed, it leaves it."""
        if self._packets is not None and not self.context.registry.live():
            with contextlib.suppress(OSError):
                await self._do(self._packets.drop)
        self.records.stop()
        self._thread.shutdown(wait=True)
        if self._packets is not None:
            self._packets.close()

    # -- a session -----------------------------------------------------------------------------

    def begin(self, session: Session) -> Future[None] | None:
        """Have a new session's rules put in force; what to wait for before its command may run.

        None: this host has none to give.
        """
        if self.problem:
            return None
        wanted = self._wanted(session)
        self._applied[session.id] = wanted
        return self._thread.submit(self._apply, session, wanted)

    async def begun(self, beginning: Future[None] | None) -> None:
        """OSError where the rules could not be put in force."""
        if beginning is not None:
            await asyncio.wrap_future(beginning)

    def reach(self, pid: int) -> bool:
        """Whether the rules are about a process's packets. OSError: it is gone."""
        return not self.problem and _network(f"/proc/{pid}") == _network("/proc/self")

    def look(self, sessions: Iterable[Session]) -> None:
        """Bring the rules of sessions up to what they may do now."""
        if self.problem:
            return
        for session in sessions:
            # One that ends is refused everything, stopped and cut, and then its rules go.
            if session.state is State.ENDING:
                continue
            wanted = self._wanted(session)
            if self._applied.get(session.id) != wanted:
                self._applied[session.id] = wanted
                self._soon(self._bring(session, wanted))

    async def changed(self, session: Session) -> None:
        """`look` at a session and those inside, and wait until their rules are in force."""
        registry = self.context.registry
        self.look([session, *registry.beneath(session.id)])
        await asyncio.gather(*self._tasks)  # what was begun before is on its way, too

    async def allow(self, session: str, elements: Sequence[Element]) -> None:
        """Let a session reach more, until its time or the session's end.

        OSError; ValueError; UnknownSession.
        """
        if self.problem or not elements:
            return
        # A packet passes the rules of the sessions above as well.
        registry = self.context.registry
        own = registry.get(session)
        above = [each.id for each in registry.above(own) if not each.plan.observe]

        def add() -> None:
            if not own.plan.observe:  # the rules of those that are hold nothing back
                self._table().add_elements(session, elements)
            for name in above:
                self._table().add_elements(name, elements, widely=True)

        await self._do(add)

    async def disallow(self, session: str, elements: Sequence[Element]) -> None:
        """Take back what was allowed. OSError."""
        if self.problem or not elements:
            return
        await self._do(lambda: self._table().remove_elements(session, elements))

    async def counters(self, session: str) -> Counters | None:
        """What a session's packets came to, when all are recorded; None: nobody counted."""
        self.records.settle()
        if self.problem:
            return None
        try:
            return await self._do(lambda: self._table().counters(session))
        except OSError:
            return None

    async def remove(self, session: str) -> None:
        """The session has no process any more. What cannot be removed goes with the next one."""
        self._applied.pop(session, None)
        self._given.pop(session, None)
        self._failing.pop(session, None)
        self.records.forget(session)
        if self.problem:
            return
        try:
            await self._do(lambda: self._table().remove(session))
        except OSError as error:
            print(f"ri-monitord: packet rules of session {session} stay: {error}", file=sys.stderr)

    # -- time ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Hold all rules to what the sessions may do, and put right what others changed."""
        if self.problem:
            return
        self.look(self._live())
        if self._watching is None or self._watching.done():
            self._watching = self._thread.submit(self._watch)

    def _watch(self) -> None:
        """In the thread: whether another program touched the table."""
        if time.monotonic() - self._repaired < REPAIR_SECONDS or not self._table().touched():
            return
        self._repaired = time.monotonic()
        try:
            self._table().prepare()
            problem = ""
        except OSError as error:
            problem = str(error)
        self._loop.call_soon_threadsafe(self._repair, problem)

    def _repair(self, problem: str) -> None:
        """Another program changed the table: it stands again, and each session's rules follow."""
        self.repairs += 1
        self._applied.clear()
        self._given.clear()
        live = self._live()
        self.look(live)
        reason = "another program changed the packet rules; they were put in place again"
        if problem:
            reason = f"another program changed the packet rules: {problem}"
        details = {"what": "packet rules", "sessions": len(live)}
        self.context.recording.daemon_record(
            None, Verb.DAEMON_REPAIR, "packet rules", details, reason=reason
        )

    # -- approvals -----------------------------------------------------------------------------

    async def approved(self, session: Session) -> None:
        """A person has allowed a destination: let packets go there. OSError."""
        if self.problem:
            return
        yes = self._approved(session)
        before = self._given.get(session.id, frozenset())
        self._given[session.id] = yes
        try:
            await self.disallow(session.id, sorted(before - yes, key=str))
            await self.allow(session.id, sorted(yes - before, key=str))
        except OSError:
            self._given.pop(session.id, None)
            raise
        await self._do(lambda: None)  # what another call added is in force as well

    def _approved(self, session: Session) -> frozenset[Element]:
        """Destinations that some rule asks about, and each that asks has a person's yes for."""
        whole = self.context.registry.whole(session)
        narrowed = narrowing(whole.plan.policies, whole.labels)
        earned = self.context.tables.earned(narrowed)
        policies: list[tuple[int, Policy]] = [
            *zip(whole.policies, whole.plan.policies, strict=True),
            *((number, policy) for number, policy in narrowed.items() if number in earned),
        ]
        answered = set(self.context.tables.approved(session.cgroup_id))
        found = set()
        for _number, protocol, address, port in answered:
            ranges = [
                (number, port_range(policy.connect, address, port, protocol))
                for number, policy in policies
            ]
            if all(
                ports is not None
                and (
                    ports.verdict is Verdict.ALLOW
                    or (
                        ports.verdict is Verdict.ASK
                        and (number, protocol, address, port) in answered
                    )
                )
                for number, ports in ranges
            ):
                found.add(Element(address, protocol, port, port))
        return frozenset(found)

    # -- how -----------------------------------------------------------------------------------

    def _live(self) -> list[Session]:
        """All live sessions, those that others run in before these."""
        return sorted(self.context.registry.live(), key=lambda each: len(each.above))

    def _wanted(self, session: Session) -> _Wanted:
        """Its own links and labels: those of sessions above are in the rules of those."""
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        shut = (
            session.denied is not None
            or 0 < session.expires_boottime <= now
            or self.context.sessions.conditions.paused(session)
        )
        labels = narrowing(session.plan.policies, session.labels)
        return _Wanted(
            shut=shut,
            observe=session.plan.observe,
            policies=session.policies,
            above=session.above,
            earned=frozenset(self.context.tables.earned(labels)),
        )

    async def _bring(self, session: Session, wanted: _Wanted) -> None:
        try:
            await self._do(lambda: self._apply(session, wanted))
            await self.approved(session)
            # The table may have been made anew.
            await self.allow(session.id, self.context.names.elements(session.id))
            self._failing.pop(session.id, None)
        except (OSError, ValueError, UnknownSession) as error:
            if self._applied.get(session.id) == wanted:
                del self._applied[session.id]  # tried again at the next tick
            if self._failing.get(session.id) != str(error) and self._lives(session):
                self._failing[session.id] = str(error)
                print(
                    f"ri-monitord: packet rules of session {session.id}: {error}", file=sys.stderr
                )

    def _apply(self, session: Session, wanted: _Wanted) -> None:
        if self._applied.get(session.id) != wanted:
            return  # it has ended, or there is something newer
        facts = SessionFacts(session.id, Path(session.cgroup))
        self._table().replace(facts, self._rules(session, wanted))

    def _rules(self, session: Session, wanted: _Wanted) -> PacketRules:
        if wanted.shut:
            return NOTHING
        if wanted.observe:
            return EVERYTHING
        links, every = session.plan.policies, self.context.registry.whole(session).plan.policies
        narrowed = narrowing(links, session.labels)
        more = [policy for number, policy in narrowed.items() if number in wanted.earned]
        rules = policy_packets.rules(
            [*links, *more],
            spans=policy_packets.name_spans(every),
            exposed=[each.expose for each in links],
        )
        if session.parent is None and not any(each.names for each in links):
            return rules
        return policy_packets.reaching(rules, self.resolver)

    def _table(self) -> Packets:
        if self._packets is None:
            raise OSError(errno.ENOSYS, "there are no packet rules")
        return self._packets

    def _lives(self, session: Session) -> bool:
        return session.id in {each.id for each in self.context.registry.live()}

    async def _do(self, action: Callable[[], T]) -> T:
        """Do it in the thread, behind what was asked for before."""
        return await asyncio.wrap_future(self._thread.submit(action))

    def _soon(self, action: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _network(process: str) -> str:
    """Rules are of one network namespace; a launcher may be in another."""
    return str(Path(f"{process}/ns/net").readlink())


def _holds(instance: str) -> bool:
    """As for this instance's sessions, in one beside it: that one has no other programs."""
    beside = f"{instance}.check"
    packets = Packets(beside)
    root = Cgroup(instance_root(beside))
    try:
        packets.prepare()
        return check.holds(beside)
    finally:
        with contextlib.suppress(OSError):
            packets.drop()
        packets.close()
        with contextlib.suppress(OSError):
            root.remove()

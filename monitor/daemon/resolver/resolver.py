# SPDX-License-Identifier: Apache-2.0
"""What becomes of a question: judged, asked upstream, judged again, allowed, and then answered.

Knows its surroundings by `Hooks`. One event loop, no threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from monitor.daemon.resolver.asking import Asker
from monitor.resolver import replies
from monitor.resolver.addresses import Address, Network
from monitor.resolver.answers import Answer
from monitor.resolver.cache import Cache, Key
from monitor.resolver.decision import TYPES, Admission, Cause, NameTable, Permission, judge
from monitor.resolver.limits import Limits, Meter, Repeats
from monitor.resolver.names import NameRule, from_labels, shown, to_labels
from monitor.resolver.replies import Reply
from monitor.resolver.wire import (
    NXDOMAIN,
    REFUSED,
    SERVFAIL,
    Query,
    read_query,
    write_reply,
)

RATE_SECONDS = 1.0  # a connection that asked too much waits for its refusal


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a question comes from: IPPROTO_UDP or IPPROTO_TCP, address and port."""

    protocol: int
    address: str
    port: int


@dataclass(slots=True)
class Resolution:
    """One question and what became of it, for the record.

    `session` None: nobody knows who asks, and nothing was answered. `cause` None: answered, with
    what upstream says, be it that there is nothing (`rcode`). `private` were left out. `rules` are
    each link's rules for the name (NameRule.rule), empty where a link has none. `times`: of a
    flood, how many questions it stands for.
    """

    session: str | None
    peer: Peer
    name: str
    kind: str
    cause: Cause | None
    rcode: int
    addresses: tuple[Address, ...] = ()
    aliases: tuple[str, ...] = ()
    private: tuple[Address, ...] = ()
    rules: tuple[tuple[int, ...], ...] = ()
    ttl: int = 0
    cached: bool = False
    seconds: float = 0.0
    times: int = 1


class Hooks(Protocol):
    """What the resolver needs of the daemon around it."""

    def who(self, peer: Peer) -> str | None:
        """The session that a question from `peer` comes from."""

    async def allow(self, session: str, admissions: Sequence[Admission]) -> None:
        """Let the session connect to these addresses. Done when the kernel knows; else raises."""

    def record(self, resolution: Resolution) -> None:
        """Told of every question, after it was answered or refused."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How refusals look and what is held to. `unlisted` is NXDOMAIN or REFUSED.

    `own` are public networks that count as private; `search` the host's search domains.
    """

    unlisted: int = NXDOMAIN
    limits: Limits = field(default_factory=Limits)
    own: tuple[Network, ...] = ()
    search: tuple[str, ...] = ()


class _Refused(Exception):
    """The question is not answered with what it asks for."""

    def __init__(self, cause: Cause, rcode: int) -> None:
        super().__init__(cause.value)
        self.cause = cause
        self.rcode = rcode


@dataclass(slots=True)
class _Session:
    tables: tuple[NameTable, ...]
    meter: Meter


class Resolver:
    """Answers the questions of the sessions that it was told of."""

    def __init__(
        self,
        hooks: Hooks,
        asker: Asker,
        settings: Settings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hooks = hooks
        self.asker = asker
        self.settings = settings or Settings()
        self._clock = clock
        self._sessions: dict[str, _Session] = {}
        self._cache = Cache()
        self._repeats = Repeats()
        self._asking: dict[Key, asyncio.Task[Answer | None]] = {}

    def govern(
        self, session: str, links: Sequence[Sequence[NameRule]], limits: Limits | None = None
    ) -> None:
        """From now on `session` may look up what every one of `links` lists. What it used stays."""
        tables = tuple(NameTable(rules) for rules in links)
        limits = limits or self.settings.limits
        known = self._sessions.get(session)
        if known is None:
            self._sessions[session] = _Session(tables, Meter(limits))
        else:
            known.tables = tables
            known.meter.limits = limits

    def release(self, session: str) -> None:
        """The session has ended: it is told nothing more."""
        self._sessions.pop(session, None)
        self._repeats.left(session)

    def sessions(self) -> tuple[str, ...]:
        return tuple(self._sessions)

    async def answer(self, data: bytes, peer: Peer, datagram: bool) -> bytes | None:
        """The reply to the message `data`; None: it deserves none."""
        began = self._clock()
        query = read_query(data)
        if query is None:
            return None
        session = self._hooks.who(peer)
        resolution = Resolution(
            session,
            peer,
            shown(query.labels),
            TYPES.get(query.kind, str(query.kind)),
            Cause.UNLISTED,
            REFUSED,
        )
        if session is None:
            self._record_once(resolution)
            return None
        reply = await self._reply(session, query, resolution)
        resolution.seconds = self._clock() - began
        if resolution.cause is not Cause.RATE:
            self._hooks.record(resolution)
        else:
            self._record_once(resolution)
            if not datagram:
                await asyncio.sleep(RATE_SECONDS)  # whoever sends on and on is read slowly
        room = query.room if datagram else None
        return write_reply(query, reply.rcode, reply.records, reply.ttl, room)

    def _record_once(self, resolution: Resolution) -> None:
        """Once a second at most: a flood of questions must not become one of records."""
        resolution.times = self._repeats.times(resolution.session, self._clock())
        if resolution.times:
            self._hooks.record(resolution)

    async def _reply(self, session: str, query: Query, resolution: Resolution) -> Reply:
        """The reply; what is to be recorded of it goes into `resolution`."""
        try:
            return await self._answered(session, query, resolution)
        except _Refused as refused:
            resolution.cause, resolution.rcode = refused.cause, refused.rcode
            return Reply(refused.rcode)

    async def _answered(self, session: str, query: Query, resolution: Resolution) -> Reply:
        known = self._sessions.get(session)
        if known is None:
            raise _Refused(Cause.UNLISTED, REFUSED)
        if not known.meter.question(self._clock()):
            raise _Refused(Cause.RATE, REFUSED)
        if query.error:
            raise _Refused(Cause.MALFORMED, query.error)
        permission = self._judge(session, query)
        resolution.rules = tuple(tuple(rule.rule for rule in link) for link in permission.links)
        answer, resolution.cached = await self._upstream(known, permission, query.kind)
        if not resolution.cached:
            # The session may have ended meanwhile, or its rules changed.
            permission = self._judge(session, query)
        reply = replies.reply(
            answer,
            query.kind,
            permission,
            self._sessions[session].tables,
            self.asker.lifetimes,
            self.settings.own,
        )
        resolution.aliases = tuple(shown(alias) for alias in answer.aliases)
        resolution.private = reply.private
        if reply.admissions:
            try:
                await self._hooks.allow(session, reply.admissions)
            except OSError as error:
                raise _Refused(Cause.TABLES, SERVFAIL) from error
        resolution.addresses = tuple(each.address for each in reply.admissions)
        resolution.cause = Cause.PRIVATE if reply.private and not reply.records else None
        resolution.rcode, resolution.ttl = reply.rcode, reply.ttl
        return reply

    def _judge(self, session: str, query: Query) -> Permission:
        known = self._sessions.get(session)
        if known is None:
            raise _Refused(Cause.UNLISTED, REFUSED)
        name = from_labels(query.labels)
        found = judge(name, query.kind, known.tables, self.settings.search)
        if isinstance(found, Permission):
            return found
        unlisted = found in {Cause.UNLISTED, Cause.SEARCH, Cause.PORTS}
        raise _Refused(found, self.settings.unlisted if unlisted else REFUSED)

    async def _upstream(
        self, known: _Session, permission: Permission, kind: int
    ) -> tuple[Answer, bool]:
        """(the answer, whether it was there already)."""
        key = permission.name, kind
        answer = self._cache.get(key, self._clock())
        if answer is not None:
            return answer, True
        if known.meter.waiting >= known.meter.limits.waiting:
            raise _Refused(Cause.WAITING, SERVFAIL)
        if not known.meter.say(permission.name, permission.free):
            raise _Refused(Cause.VOLUME, REFUSED)
        known.meter.waiting += 1
        try:
            answer = await self._shared(key)
        finally:
            known.meter.waiting -= 1
        if answer is None:
            raise _Refused(Cause.UPSTREAM, SERVFAIL)
        return answer, False

    async def _shared(self, key: Key) -> Answer | None:
        """Ask, or wait for the same question that was asked already."""
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(self._ask(key))
            self._asking[key] = asking
        return await asyncio.shield(asking)  # one that no longer waits does not stop the others

    async def _ask(self, key: Key) -> Answer | None:
        name, kind = key
        try:
            answer = await self.asker.ask(to_labels(name), kind)
            if answer is not None:
                self._cache.put(key, answer, self._clock())
            return answer
        finally:
            del self._asking[key]

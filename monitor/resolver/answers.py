# SPDX-License-Identifier: Apache-2.0
"""What upstream answered, reduced to what a session may be told. Pure.

Only what answers the question is kept: records at the end of the chain of aliases that begins with
the asked name. Everything else in the message (other names, other types, authority, additional
records) is dropped, so that an answer cannot speak of a name that was not asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import dns.exception

from monitor.resolver import records
from monitor.resolver.addresses import Address
from monitor.resolver.decision import AAAA, CNAME, SOA, A
from monitor.resolver.records import Labels, Record, Service
from monitor.resolver.wire import FORMERR, IN, NOERROR, NXDOMAIN, OPT, write_name

LONGEST_CHAIN = 16
MOST_RECORDS = 512  # in all sections: more take too long to read
MOST_KEPT = 100

_HEADER = struct.Struct(">HHHHHH")
_QR, _TC, _OPCODE = 0x8000, 0x0200, 0x7800


class Unusable(Enum):
    """Why a message is not the answer to a question."""

    FOREIGN = auto()  # not to this question: another one's, or somebody's guess. Wait on.
    CASE = auto()  # to this question, in other letters: ask again over TCP
    TRUNCATED = auto()  # ask again over TCP
    PLAIN = auto()  # the server does not speak EDNS: ask again without
    BROKEN = auto()  # it is no message, or contradicts itself
    FAILED = auto()  # SERVFAIL, REFUSED and the like: ask another server


@dataclass(frozen=True, slots=True)
class Answer:
    """All that upstream said to one question.

    `aliases` are the names behind the asked one, in order. `follow`: the chain leads there, and the
    message says nothing of it. `ttl` is the least of the whole chain, or how long a "no" counts.
    """

    rcode: int
    addresses: tuple[Address, ...] = ()
    services: tuple[Service, ...] = ()
    aliases: tuple[Labels, ...] = ()
    ttl: int = 0
    follow: Labels | None = None

    @property
    def negative(self) -> bool:
        return not self.addresses and not self.services


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Seconds. What is shown to a client never outlives what is allowed.

    `longest` is as long as anything counts, `negative` as long as a "no" does; an address is
    allowed for `shortest` at least, so that one with TTL 0 can be connected to.
    """

    shortest: int = 30
    longest: int = 3600
    negative: int = 300

    def allowed(self, ttl: int) -> int:
        return min(max(ttl, self.shortest), max(self.longest, self.shortest))


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to upstream, as it was sent."""

    identity: int
    labels: tuple[bytes, ...]  # in the letters that were sent
    kind: int
    question: bytes = field(init=False)

    def __post_init__(self) -> None:
        question = write_name(self.labels) + struct.pack(">HH", self.kind, IN)
        object.__setattr__(self, "question", question)


def read(data: bytes, asked: Asked, lifetimes: Lifetimes, exact: bool = True) -> Answer | Unusable:
    """What the message `data` answers to `asked`; `exact`: the name in the very letters."""
    if len(data) < _HEADER.size:
        return Unusable.FOREIGN
    identity, flags, questions, *counts = _HEADER.unpack_from(data)
    if identity != asked.identity or not flags & _QR or flags & _OPCODE:
        return Unusable.FOREIGN
    rcode = flags & 15
    if questions == 0 and rcode == FORMERR:
        return Unusable.PLAIN
    repeated = data[_HEADER.size : _HEADER.size + len(asked.question)]
    if questions != 1 or repeated.lower() != asked.question.lower():
        return Unusable.FOREIGN
    if exact and repeated != asked.question:
        return Unusable.CASE
    if flags & _TC:
        return Unusable.TRUNCATED
    if rcode == FORMERR:
        return Unusable.PLAIN
    if rcode not in {NOERROR, NXDOMAIN}:
        return Unusable.FAILED
    if sum(counts) > MOST_RECORDS:
        return Unusable.BROKEN
    try:
        return _interpret(data, asked, counts, rcode, lifetimes)
    except (dns.exception.DNSException, ValueError, struct.error):
        return Unusable.BROKEN


def _interpret(
    data: bytes, asked: Asked, counts: Sequence[int], rcode: int, lifetimes: Lifetimes
) -> Answer | Unusable:
    every = list(records.find(data, _HEADER.size + len(asked.question), sum(counts)))
    found: dict[tuple[Labels, int], list[Record]] = {}
    for each in every[: counts[0]]:
        if each.of_class == IN:
            found.setdefault((each.owner, each.kind), []).append(each)
    at: Labels = tuple(label.lower() for label in asked.labels)
    least = lifetimes.longest
    aliases: list[Labels] = []
    while (at, asked.kind) not in found and (at, CNAME) in found:
        alias = found[at, CNAME][0]
        at = records.target(data, alias)
        if at in aliases or len(aliases) == LONGEST_CHAIN:
            return Unusable.BROKEN
        aliases.append(at)
        least = min(least, alias.ttl)
    final = found.get((at, asked.kind), [])[:MOST_KEPT]
    if final and rcode == NOERROR:
        ttl = min(least, *(each.ttl for each in final))
        if asked.kind in {A, AAAA}:
            return Answer(rcode, records.addresses(data, final), (), tuple(aliases), ttl)
        return Answer(rcode, (), records.services(data, final), tuple(aliases), ttl)
    return _no(data, every[counts[0] :], rcode, tuple(aliases), least, lifetimes)


def _no(
    data: bytes,
    rest: Sequence[Record],
    rcode: int,
    aliases: tuple[Labels, ...],
    least: int,
    lifetimes: Lifetimes,
) -> Answer | Unusable:
    """There is nothing; or the chain leads on; or an OPT record says that it is an error."""
    if any(each.kind == OPT and each.extended for each in rest):
        return Unusable.FAILED
    soa = next((each for each in rest if each.kind == SOA and each.of_class == IN), None)
    if rcode == NOERROR and aliases and soa is None:
        return Answer(rcode, (), (), aliases, least, aliases[-1])
    no = 0 if soa is None else min(records.minimum(data, soa), lifetimes.negative)
    return Answer(rcode, (), (), aliases, min(least, no))


def continued(first: Answer, second: Answer) -> Answer | None:
    """The answer to the first question, whose chain leads on to the second's name; None: a loop."""
    aliases = (*first.aliases, *second.aliases)
    if len(aliases) > LONGEST_CHAIN or len(set(aliases)) < len(aliases):
        return None
    ttl = min(first.ttl, second.ttl)
    return Answer(second.rcode, second.addresses, second.services, aliases, ttl, second.follow)

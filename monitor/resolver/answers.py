# SPDX-License-Identifier: Apache-2.0
"""What upstream answered, reduced to what a session may be told. Pure.

Only what answers the question is kept: records at the end of the chain of aliases that begins with
the asked name. Everything else in the message (other names, other types, authority, additional
records) is dropped, so that an answer cannot speak of a name that was not asked for.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from io import BytesIO

import dns.exception
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
from dns.rdtypes.svcbbase import ParamKey

from monitor.resolver.addresses import Address
from monitor.resolver.decision import AAAA, CNAME, HTTPS, SOA, SRV, A
from monitor.resolver.wire import FORMERR, IN, NOERROR, NXDOMAIN, write_name

LONGEST_CHAIN = 16
MOST_RECORDS = 1024  # in all sections: more take too long to read
MOST_KEPT = 100

_HEADER = struct.Struct(">HHHHHH")
_QR, _TC, _OPCODE = 0x8000, 0x0200, 0x7800
# What a client may be told of an HTTPS record: never addresses, and never keys that hide a name.
_KEPT_PARAMETERS = {ParamKey.ALPN, ParamKey.NO_DEFAULT_ALPN, ParamKey.PORT}


class Unusable(Enum):
    """Why a message is not the answer to a question."""

    FOREIGN = auto()  # not to this question: another one's, or somebody's guess. Wait on.
    CASE = auto()  # to this question, in other letters: ask again over TCP
    TRUNCATED = auto()  # ask again over TCP
    PLAIN = auto()  # the server does not speak EDNS: ask again without
    BROKEN = auto()  # it is no message, or contradicts itself
    FAILED = auto()  # SERVFAIL, REFUSED and the like: ask another server


@dataclass(frozen=True, slots=True)
class Service:
    """One HTTPS record (`parameters` and `port` as they may be given on) or SRV record."""

    priority: int
    target: tuple[bytes, ...]  # empty: the name itself
    port: int | None
    weight: int = 0
    parameters: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """All that upstream said to one question.

    `aliases` are the names behind the asked one, in order. `follow`: the chain leads there, and the
    message says nothing of it. `ttl` is the least of the whole chain, or how long a "no" counts.
    """

    rcode: int
    addresses: tuple[Address, ...] = ()
    services: tuple[Service, ...] = ()
    aliases: tuple[tuple[bytes, ...], ...] = ()
    ttl: int = 0
    follow: tuple[bytes, ...] | None = None

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
        message = dns.message.from_wire(data)
    except (dns.exception.DNSException, ValueError, struct.error):
        return Unusable.BROKEN
    return _interpret(message, rcode, asked, lifetimes)


def _interpret(
    message: dns.message.Message, rcode: int, asked: Asked, lifetimes: Lifetimes
) -> Answer | Unusable:
    if message.rcode() != rcode:  # the OPT record adds to it
        return Unusable.FAILED
    found = {
        (each.name, int(each.rdtype)): each for each in message.answer if int(each.rdclass) == IN
    }
    at = dns.name.Name((*asked.labels, b""))
    least = lifetimes.longest
    aliases: list[dns.name.Name] = []
    while (at, asked.kind) not in found and (at, CNAME) in found:
        alias = found[at, CNAME]
        at = next(iter(alias)).target
        if at in aliases or len(aliases) == LONGEST_CHAIN:
            return Unusable.BROKEN
        aliases.append(at)
        least = min(least, alias.ttl)
    chain = tuple(_labels(each) for each in aliases)
    final = found.get((at, asked.kind))
    if final is not None and rcode == NOERROR:
        addresses, services = _records(final, asked.kind)
        return Answer(rcode, addresses, services, chain, min(least, final.ttl))
    soa = _soa(message.authority)
    if rcode == NOERROR and aliases and soa is None:
        return Answer(rcode, (), (), chain, least, chain[-1])
    no = 0 if soa is None else min(soa, lifetimes.negative)
    return Answer(rcode, (), (), chain, min(least, no))


def _records(final: dns.rrset.RRset, kind: int) -> tuple[tuple[Address, ...], tuple[Service, ...]]:
    records = list(final)[:MOST_KEPT]
    if kind in {A, AAAA}:
        return tuple(ipaddress.ip_address(each.address) for each in records), ()
    if kind == SRV:
        services: list[Service | None] = [
            Service(each.priority, _labels(each.target), each.port, each.weight) for each in records
        ]
    else:
        services = [_service(each) for each in records] if kind == HTTPS else []
    return (), tuple(each for each in services if each is not None)


def _service(record: dns.rdtypes.svcbbase.SVCBBase) -> Service | None:
    """The record without its hints and keys; None where it says that it is nothing without them."""
    mandatory = record.params.get(ParamKey.MANDATORY)
    if mandatory is not None and not set(mandatory.keys) <= _KEPT_PARAMETERS:
        return None
    kept = {key: value for key, value in record.params.items() if key in _KEPT_PARAMETERS}
    parameters = b""
    for key in sorted(kept):
        value = BytesIO()
        if kept[key] is not None:
            kept[key].to_wire(value)
        parameters += struct.pack(">HH", key, len(value.getvalue())) + value.getvalue()
    port = kept.get(ParamKey.PORT)
    target = _labels(record.target)
    return Service(record.priority, target, port.port if port else None, 0, parameters)


def _labels(name: dns.name.Name) -> tuple[bytes, ...]:
    return tuple(label.lower() for label in name.labels if label)


def _soa(authority: Sequence[dns.rrset.RRset]) -> int | None:
    """How long a "no" counts (RFC 2308 section 5); None: nobody says so."""
    for each in authority:
        if int(each.rdtype) == SOA:
            return int(min(each.ttl, *(record.minimum for record in each)))
    return None


def continued(first: Answer, second: Answer) -> Answer | None:
    """The answer to the first question, whose chain leads on to the second's name; None: a loop."""
    aliases = (*first.aliases, *second.aliases)
    if len(aliases) > LONGEST_CHAIN or len(set(aliases)) < len(aliases):
        return None
    ttl = min(first.ttl, second.ttl)
    return Answer(second.rcode, second.addresses, second.services, aliases, ttl, second.follow)

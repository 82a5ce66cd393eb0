# SPDX-License-Identifier: Apache-2.0
"""Questions of sessions and our replies to them, as bytes (RFC 1035, RFC 6891).

Questions come from whoever the session runs, so that they are read strictly: one question, its name
without compression, nothing behind it but an OPT record. What comes from upstream is read by
dnspython (answers.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS = 16
IN = 1
OPT = 41
SMALLEST = 512  # RFC 1035 section 4.2.1: of UDP without EDNS
LARGEST = 4096  # of UDP in loopback, where nothing is fragmented

_HEADER = struct.Struct(">HHHHHH")
_QR, _AA, _TC, _RD, _RA, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
_OPCODE = 0x7800
_TO_QUESTION = b"\xc0\x0c"  # a pointer to the name behind the header
_LONGEST_WIRE_NAME = 255


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `question` are its bytes as they came: a reply repeats them, case and all.

    `error` is the rcode of what is answered without looking at the question (NOERROR: look at it);
    `room` is what a reply over UDP may have, `edns` whether the reply has an OPT record.
    """

    identity: int
    flags: int
    question: bytes
    labels: tuple[bytes, ...]
    kind: int
    error: int
    edns: bool
    room: int


class _Broken(Exception):
    """The bytes end too early or say what no question says."""


def read_query(data: bytes) -> Query | None:
    """The question in `data`; None: it deserves no answer (an answer itself, or no header)."""
    if len(data) < _HEADER.size:
        return None
    identity, flags, questions, answers, authority, additional = _HEADER.unpack_from(data)
    if flags & _QR:
        return None
    if flags & _OPCODE:
        return _error(identity, flags, NOTIMP)
    if questions != 1 or answers or authority or additional > 1:
        return _error(identity, flags, FORMERR)
    try:
        labels, at = _name(data, _HEADER.size)
        kind, of_class = _two(data, at)
        question, at = data[_HEADER.size : at + 4], at + 4
        error, edns, room = NOERROR if of_class == IN else REFUSED, False, SMALLEST
        if additional:
            version, room, at = _opt(data, at)
            error, edns = BADVERS if version else error, True
    except _Broken:
        return _error(identity, flags, FORMERR)
    if at != len(data):
        return _error(identity, flags, FORMERR)
    room = min(max(room, SMALLEST), LARGEST)
    return Query(identity, flags, question, labels, kind, error, edns, room)


def _error(identity: int, flags: int, error: int) -> Query:
    return Query(identity, flags, b"", (), 0, error, False, SMALLEST)


def _name(data: bytes, at: int) -> tuple[tuple[bytes, ...], int]:
    labels, begin = [], at
    while True:
        if at >= len(data):
            raise _Broken
        length = data[at]
        at += 1
        if length == 0:
            break
        if length > 63 or at + length > len(data):  # from 64 on: pointers, which need a name before
            raise _Broken
        labels.append(data[at : at + length])
        at += length
    if at - begin > _LONGEST_WIRE_NAME:
        raise _Broken
    return tuple(labels), at


def _two(data: bytes, at: int) -> tuple[int, int]:
    if at + 4 > len(data):
        raise _Broken
    return int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")


def _opt(data: bytes, at: int) -> tuple[int, int, int]:
    """(version, room for UDP, where it ends) of an OPT record. Its options are not looked at."""
    if len(data) < at + 11 or data[at] != 0:
        raise _Broken
    kind, room = _two(data, at + 1)
    version = data[at + 6]
    end = at + 11 + int.from_bytes(data[at + 9 : at + 11], "big")
    if kind != OPT or end > len(data):
        raise _Broken
    return version, room, end


@dataclass(frozen=True, slots=True)
class Data:
    """One record of a reply; its name is the question's."""

    kind: int
    data: bytes


def write_reply(
    query: Query, rcode: int, records: Sequence[Data] = (), ttl: int = 0, room: int | None = None
) -> bytes:
    """The reply to `query`; where it needs more than `room`, an empty one that says so (TC)."""
    reply = _reply(query, rcode, records, ttl)
    if room is None or len(reply) <= room:
        return reply
    return _reply(query, rcode, (), 0, _TC)


def _reply(query: Query, rcode: int, records: Sequence[Data], ttl: int, more: int = 0) -> bytes:
    flags = _QR | _RA | more | query.flags & (_RD | _CD | _OPCODE) | rcode & 15
    parts = [
        _HEADER.pack(query.identity, flags, bool(query.question), len(records), 0, query.edns),
        query.question,
    ]
    for record in records:
        head = struct.pack(">HHIH", record.kind, IN, ttl, len(record.data))
        parts += (_TO_QUESTION, head, record.data)
    if query.edns:
        parts.append(struct.pack(">BHHBBHH", 0, OPT, LARGEST, rcode >> 4, 0, 0, 0))
    return b"".join(parts)


def write_name(labels: Sequence[bytes]) -> bytes:
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def write_query(identity: int, labels: Sequence[bytes], kind: int, edns_room: int | None) -> bytes:
    """A question for upstream, with nothing of the session's question in it but the name.

    No options: no client subnet, no cookie. `edns_room` None: without an OPT record.
    """
    asked = write_name(labels) + struct.pack(">HH", kind, IN)
    opt = b"" if edns_room is None else struct.pack(">BHHIH", 0, OPT, edns_room, 0, 0)
    return _HEADER.pack(identity, _RD, 1, 0, 0, bool(opt)) + asked + opt

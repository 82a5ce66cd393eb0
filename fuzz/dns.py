# SPDX-License-Identifier: Apache-2.0
"""The DNS wire: questions of sessions and messages of upstream, as bytes.

Any question gets a reply that dnspython can read, or none; any message of upstream is an Answer or
Unusable; what is replied of it gives a session no address that is not public.
"""

from __future__ import annotations

import struct

import dns.message

from fuzz.target import Target
from monitor.resolver.addresses import is_public
from monitor.resolver.answers import Answer, Asked, Lifetimes, read
from monitor.resolver.decision import NameTable, Permission, judge
from monitor.resolver.names import canonical, from_labels, parse, to_labels
from monitor.resolver.replies import reply
from monitor.resolver.wire import NOERROR, SERVFAIL, Query, read_query, write_reply

NAME = "api.example.org"
TABLES = (NameTable([parse(f"{NAME}:443"), parse("**.example.org:80")]),)
LIFETIMES = Lifetimes()
KINDS = (1, 28, 33, 65)
HEADER = struct.Struct(">HHHHHH")


def run(data: bytes) -> None:
    kind = KINDS[data[0] & 3] if data else 1
    _question(data[1:])
    _answer(data[1:], kind)
    _name(data[1:])


def _question(data: bytes) -> None:
    query = read_query(data)
    if query is None:
        return
    rcode = query.error or SERVFAIL
    written = write_reply(query, rcode, room=query.room)
    assert len(written) <= query.room
    dns.message.from_wire(written)
    if query.error == NOERROR:
        judged = judge(from_labels(query.labels), query.kind, TABLES, ("example.net",))
        assert not isinstance(judged, Permission) or judged.name.endswith("example.org")


def _answer(data: bytes, kind: int) -> None:
    """`data` as what follows the header and the question, and as a whole message."""
    asked = Asked(7, to_labels(NAME), kind)
    counts = [byte & 7 for byte in data[:3]] + [0, 0, 0]
    body = HEADER.pack(7, 0x8180, 1, *counts[:3]) + asked.question + data[3:]
    for message in (data, body):
        found = read(message, asked, LIFETIMES)
        if isinstance(found, Answer):
            _replied(found, asked, kind)


def _replied(answer: Answer, asked: Asked, kind: int) -> None:
    permission = judge(NAME, kind, TABLES)
    assert isinstance(permission, Permission)
    told = reply(answer, kind, permission, TABLES, LIFETIMES)
    assert all(is_public(each.address) for each in told.admissions)
    assert all(each.ttl <= LIFETIMES.longest for each in told.admissions)
    query = Query(7, 0x0100, asked.question, asked.labels, kind, NOERROR, True, 4096)
    dns.message.from_wire(write_reply(query, told.rcode, told.records, told.ttl))


def _name(data: bytes) -> None:
    try:
        name = canonical(data[:300].decode("utf-8", "replace"))
    except ValueError:
        return
    assert canonical(name) == name
    assert from_labels(to_labels(name)) == name


_QUESTION = b"\x03api\x07example\x03org\x00\x00\x01\x00\x01"
_POINTER = b"\xc0\x0c"
_A = b"\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x5d\xb8\xd8\x22"
_PRIVATE = b"\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xa9\xfe\xa9\xfe"
_CNAME = b"\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x02\xc0\x10"
_HTTPS = b"\x00\x41\x00\x01\x00\x00\x00\x3c\x00\x07\x00\x01\x00\x00\x01\x00\x00"
_OPT = b"\x00\x00\x29\x10\x00\x00\x00\x00\x00\x00\x00"

TARGET = Target(
    run,
    [
        b"\0" + HEADER.pack(7, 0x0100, 1, 0, 0, 1) + _QUESTION + _OPT,
        b"\0" + HEADER.pack(7, 0x8180, 1, 1, 0, 0) + _QUESTION + _POINTER + _A,
        b"\0\x01\0\0" + _POINTER + _A,
        b"\0\x02\0\1" + _POINTER + _CNAME + _POINTER + _PRIVATE + _OPT,
        b"\3\x01\0\0" + _POINTER + _HTTPS,
        b"\0xn--bcher-kva.example",
    ],
    [_QUESTION, _POINTER, _A, _PRIVATE, _CNAME, _HTTPS, _OPT, b"\xc0\x00", b"\x3f" + b"a" * 63],
    2048,
)

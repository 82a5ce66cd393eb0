# SPDX-License-Identifier: Apache-2.0
"""The records of a message from upstream: found by dnspython's parser, read where they matter."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.wire
from dns.rdtypes.svcbbase import ParamKey

from monitor.resolver.addresses import Address
from monitor.resolver.decision import HTTPS, SOA, SRV, A

Labels = tuple[bytes, ...]  # in lower case, without the empty one at the end

MOST_LABELS = 2048  # of all owners: a message may point to one long name a thousand times

_FIXED = struct.Struct(">HHIH")
_TTL_SIGN = 0x80000000
# What a client may be told of an HTTPS record: never addresses, and never keys that hide a name.
_KEPT_PARAMETERS = {ParamKey.ALPN, ParamKey.NO_DEFAULT_ALPN, ParamKey.PORT}


@dataclass(frozen=True, slots=True)
class Record:
    """One record; its data are `size` bytes of the message from `at`."""

    owner: Labels
    kind: int
    of_class: int
    ttl: int
    at: int
    size: int
    extended: int  # of an OPT record: the rcode's upper bits (RFC 6891 section 6.1.3)


@dataclass(frozen=True, slots=True)
class Service:
    """One HTTPS record (`parameters` and `port` as they may be given on) or SRV record."""

    priority: int
    target: Labels  # empty: the name itself
    port: int | None
    weight: int = 0
    parameters: bytes = b""


def find(data: bytes, at: int, count: int) -> Iterator[Record]:
    """`count` records from `at` on; FormError and the like where they are not there."""
    parser = dns.wire.Parser(data, at)
    labels = 0
    for _number in range(count):
        owner = _labels(parser)
        labels += len(owner)
        if labels > MOST_LABELS:
            raise ValueError("names that take too long to read")
        kind, of_class, ttl, size = _FIXED.unpack(parser.get_bytes(_FIXED.size))
        begin = parser.current
        parser.get_bytes(size)
        # RFC 2181 section 8: a number with this bit counts as 0.
        counts = 0 if ttl & _TTL_SIGN else ttl
        yield Record(owner, kind, of_class, counts, begin, size, ttl >> 24)
    if parser.remaining():
        raise ValueError("bytes behind the last record")


def target(data: bytes, record: Record) -> Labels:
    """The name that a CNAME record leads to."""
    parser = dns.wire.Parser(data, record.at)
    with parser.restrict_to(record.size):
        return _labels(parser)


def minimum(data: bytes, record: Record) -> int:
    """What a SOA record says of how long a "no" counts (RFC 2308 section 5)."""
    read = _read(data, record, SOA)
    return min(record.ttl, int(read.minimum))


def addresses(data: bytes, records: Sequence[Record]) -> tuple[Address, ...]:
    """Those of A or AAAA records, each once."""
    read = ipaddress.IPv4Address if records[0].kind == A else ipaddress.IPv6Address
    # Bytes of another length than the family's are a ValueError.
    return tuple(dict.fromkeys(read(data[each.at : each.at + each.size]) for each in records))


def services(data: bytes, records: Sequence[Record]) -> tuple[Service, ...]:
    """Those of HTTPS or SRV records."""
    read = _srv if records[0].kind == SRV else _https
    found = (read(data, record) for record in records)
    return tuple(each for each in found if each is not None)


def _labels(parser: dns.wire.Parser) -> Labels:
    return tuple(label.lower() for label in parser.get_name(decompress=True).labels if label)


def _read(data: bytes, record: Record, kind: int) -> Any:
    return dns.rdata.from_wire(
        dns.rdataclass.IN, dns.rdatatype.RdataType(kind), data, record.at, record.size
    )


def _srv(data: bytes, record: Record) -> Service:
    read = _read(data, record, SRV)
    labels = tuple(label.lower() for label in read.target.labels if label)
    return Service(read.priority, labels, read.port, read.weight)


def _https(data: bytes, record: Record) -> Service | None:
    """The record without its hints and keys; None where it says that it is nothing without them."""
    read = _read(data, record, HTTPS)
    mandatory = read.params.get(ParamKey.MANDATORY)
    if mandatory is not None and not set(mandatory.keys) <= _KEPT_PARAMETERS:
        return None
    kept = {key: value for key, value in read.params.items() if key in _KEPT_PARAMETERS}
    parameters = b""
    for key in sorted(kept):
        value = BytesIO()
        if kept[key] is not None:
            kept[key].to_wire(value)
        parameters += struct.pack(">HH", key, len(value.getvalue())) + value.getvalue()
    port = kept.get(ParamKey.PORT)
    labels = tuple(label.lower() for label in read.target.labels if label)
    return Service(read.priority, labels, port.port if port else None, 0, parameters)

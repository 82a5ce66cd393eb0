# SPDX-License-Identifier: Apache-2.0
"""Rows of the map `named`: what is allowed at an address that a name came to. Pure."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from monitor.wire import layout
from monitor.wire.layout import SpanFlag, struct_format
from monitor.wire.rows import RowError, address_of, packed_address

_KEY = struct.Struct(struct_format(layout.ri_named_key))
_SPAN = struct.Struct(struct_format(layout.ri_named_span))
_HEAD = struct.Struct("=II")
SIZE = ctypes.sizeof(layout.ri_named)


@dataclass(frozen=True, slots=True)
class NamedSpan:
    """Ports that every link allows there until CLOCK_BOOTTIME ns `until`.

    `rules` are each link's rule (an index in Policy.rules), as the session's row has the links.
    `host`: a link names the host. `labels`: a bit for each label of the row that leaves it.
    """

    protocol: int
    first: int
    last: int
    until: int
    rules: tuple[int, ...]
    host: bool = False
    labels: int = 0


def key(cgroup: int, address: IPv4Address | IPv6Address) -> bytes:
    """The key of one address of a session."""
    return _KEY.pack(cgroup, packed_address(address))


def key_cgroup(data: bytes) -> int:
    """Whose it is."""
    return int(_KEY.unpack(data)[0])


def key_address(data: bytes) -> IPv4Address | IPv6Address:
    return address_of(_KEY.unpack(data)[1])


def value(spans: Sequence[NamedSpan]) -> bytes:
    """The value; RowError where there are more than a row holds."""
    if len(spans) > layout.NAMED_SPANS:
        raise RowError(
            f"{len(spans)} ranges of ports by name at one address; a row holds {layout.NAMED_SPANS}"
        )
    packed = b"".join(
        _SPAN.pack(
            each.until,
            each.first,
            each.last,
            each.protocol,
            SpanFlag.HOST if each.host else SpanFlag.NONE,
            each.labels,
            *each.rules,
            *(-1,) * (layout.MAX_POLICIES - len(each.rules)),
            place,
        )
        for place, each in enumerate(spans)
    )
    return (_HEAD.pack(len(spans), 0) + packed).ljust(SIZE, b"\0")


def spans(data: bytes) -> tuple[NamedSpan, ...]:
    """What a row allows; `rules` with -1 where the session has no such link."""
    count, _reserved = _HEAD.unpack_from(data)
    found = []
    for index in range(count):
        until, first, last, protocol, flags, labels, *rest = _SPAN.unpack_from(
            data, _HEAD.size + index * _SPAN.size
        )
        host = SpanFlag.HOST in SpanFlag(flags)
        found.append(NamedSpan(protocol, first, last, until, tuple(rest[:-1]), host, labels))
    return tuple(found)

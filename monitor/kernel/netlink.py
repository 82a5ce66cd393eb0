# SPDX-License-Identifier: Apache-2.0
"""What all netlink families have in common: headers, messages one behind the other, attributes.

Source: netlink(7), uapi/linux/netlink.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port id
ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF


class Received(NamedTuple):
    """One message; `port` is that of the socket on whose behalf the kernel sends it."""

    kind: int
    flags: int
    sequence: int
    port: int
    body: bytes


def messages(data: bytes) -> Iterator[Received]:
    """The messages of what one recv(2) gave."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        body = data[offset + HEADER.size : offset + length]
        yield Received(kind, flags, sequence, port, body)
        offset += (length + 3) & ~3


def request(kind: int, flags: int, body: bytes, sequence: int = 1) -> bytes:
    """A message to the kernel."""
    size = HEADER.size + len(body)
    return HEADER.pack(size, kind, NLM_F_REQUEST | flags, sequence, 0) + body


def error_of(body: bytes) -> int:
    """The errno that an NLMSG_ERROR is about; 0: it says that all is done."""
    (code,) = struct.unpack_from("=i", body)
    return -int(code)


def attribute(kind: int, value: bytes) -> bytes:
    size = ATTRIBUTE.size + len(value)
    return ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def nested(kind: int, *values: bytes) -> bytes:
    return attribute(kind | NLA_F_NESTED, b"".join(values))


def listed(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of attributes one behind the other."""
    offset = 0
    while offset + ATTRIBUTE.size <= len(data):
        size, kind = ATTRIBUTE.unpack_from(data, offset)
        if size < ATTRIBUTE.size:
            return
        yield kind & NLA_TYPE_MASK, data[offset + ATTRIBUTE.size : offset + size]
        offset += (size + 3) & ~3


def attributes(data: bytes) -> dict[int, bytes]:
    """The values by type, where each type is there once."""
    return dict(listed(data))

# SPDX-License-Identifier: Apache-2.0
"""TLS hellos of the tests: as clients make them, built by hand, and read as the kernel must."""

from __future__ import annotations

import contextlib
import ssl
import struct
from collections.abc import Sequence

SERVER_NAME = 0  # RFC 6066 section 3
PADDING = 21  # RFC 7685
Extension = tuple[int, bytes]


def client_hello(name: str | None) -> bytes:
    """What this Python's OpenSSL begins with."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def names(*every: bytes, kind: int = 0) -> Extension:
    """The extension that names hosts."""
    entries = b"".join(struct.pack(">BH", kind, len(each)) + each for each in every)
    return SERVER_NAME, struct.pack(">H", len(entries)) + entries


def message(extensions: Sequence[Extension], session: bytes = b"", ciphers: int = 4) -> bytes:
    """A hello's handshake message."""
    block = b"".join(struct.pack(">HH", kind, len(data)) + data for kind, data in extensions)
    body = b"\3\3" + bytes(range(32)) + bytes([len(session)]) + session
    body += struct.pack(">H", 2 * ciphers) + b"\x13\x01" * ciphers + b"\1\0"
    if extensions:
        body += struct.pack(">H", len(block)) + block
    return b"\1" + len(body).to_bytes(3, "big") + body


def record(data: bytes) -> bytes:
    """A handshake record."""
    return b"\x16\3\1" + struct.pack(">H", len(data)) + data


def hello(*extensions: Extension, session: bytes = b"", ciphers: int = 4) -> bytes:
    """A hello in one record."""
    return record(message(extensions, session, ciphers))


class Broken(ValueError):
    """A hello that must not pass."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise Broken("it ends early")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    @property
    def left(self) -> int:
        return len(self.data) - self.at


def name_of(data: bytes) -> bytes | None:
    """The name that a whole hello asks for, None: none. Broken: no server should be sent it.

    The reference of what the kernel's program does.
    """
    if len(data) < 9 or data[0] != 22 or data[1] != 3 or data[5] != 1:
        raise Broken("no hello")
    size = int.from_bytes(data[3:5], "big")
    if int.from_bytes(data[6:9], "big") + 4 != size:
        raise Broken("not one message in one record")
    body = _Reader(data[9 : 5 + size])
    body.take(34)
    session = body.number(1)
    if session > 32:
        raise Broken("a long session id")
    body.take(session)
    body.take(body.number(2))
    body.take(body.number(1))
    if not body.left:
        return None
    if body.number(2) != body.left:
        raise Broken("extensions and their length differ")
    found: bytes | None = None
    while body.left:
        kind, data = body.number(2), body.take(body.number(2))
        if kind == SERVER_NAME:
            if found is not None:
                raise Broken("names twice")
            found = _one_name(data)
    return found


def _one_name(data: bytes) -> bytes:
    reader = _Reader(data)
    if reader.number(2) != reader.left or reader.number(1):
        raise Broken("not a list of one host name")
    name = reader.take(reader.number(2))
    if reader.left or not 0 < len(name) <= 253:
        raise Broken("not one name")
    return name

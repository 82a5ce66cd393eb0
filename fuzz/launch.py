# SPDX-License-Identifier: Apache-2.0
"""The launch protocol: any bytes are a message or a ProtocolError, at either end.

A request is what it says or is refused in one line; a message that was read can be written again,
and comes out the same.
"""

from __future__ import annotations

from fuzz.target import Target
from monitor.daemon.context import Refused
from monitor.daemon.launch import request
from monitor.launch import protocol
from monitor.launch.protocol import Message, ProtocolError


def run(data: bytes) -> None:
    try:
        message = protocol.decode(data)
    except ProtocolError as error:
        assert str(error)
        return
    assert protocol.decode(protocol.encode(message.kind, *message.fields)).fields == message.fields
    if message.kind == protocol.REQUEST:
        _asked(message)
    for name in protocol.NAMES[message.kind]:
        try:
            message.number(name)
        except ProtocolError as error:
            assert str(error)


def _asked(message: Message) -> None:
    try:
        asked = request.read(message)
    except (ProtocolError, Refused) as error:
        assert "\n" not in str(error) or "profile" in str(error)
        return
    assert asked.workspace.startswith("/")
    assert asked.cwd.startswith("/")
    assert asked.ttl is None or asked.ttl >= 0
    request.environment(message)


_REQUEST = (("profile", b"coder"), ("agent", b"a"), ("workspace", b"/w"), ("cwd", b"/w"))

TARGET = Target(
    run,
    [
        protocol.encode(protocol.REQUEST, *_REQUEST),
        protocol.encode(protocol.REQUEST, *_REQUEST, ("ttl", b"8h"), ("lease", b"30s"),
                        ("depth", b"3"), ("observe", b"1"), ("user", b"b"), ("environ", b"PATH")),
        protocol.encode(protocol.REQUEST, ("grant", b"x"), *_REQUEST[2:], ("argv0", b"\xff")),
        protocol.encode(protocol.CONFINED, ("layers", b"1"), ("rules", b"7"), ("absent", b"0")),
        protocol.encode(protocol.REFUSED, ("reason", b"r"), ("hint", b"h")),
    ],
    [*(f"\0{name}=".encode() for name in protocol.NAMES[protocol.REQUEST]), b"request\0",
     b"session\0", b"confined\0", b"99999999999999999999", b"1w2d", b"\xed\xb2\x80", b"\xc3\xa4"],
    protocol.MAXIMUM,
)  # fmt: skip

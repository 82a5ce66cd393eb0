# SPDX-License-Identifier: Apache-2.0
"""The messages between ri-exec and the daemon: every value passes unchanged, nothing else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.launch import protocol
from monitor.launch.protocol import ProtocolError, decode, encode

values = st.binary(max_size=200).map(lambda value: value.replace(b"\0", b""))
names = st.sampled_from(sorted(protocol.NAMES[protocol.REQUEST]))


@given(st.lists(st.tuples(names, values), max_size=20))
def test_fields_come_out_as_they_went_in(fields: list[tuple[str, bytes]]) -> None:
    message = decode(encode(protocol.REQUEST, *fields))
    assert message.kind == protocol.REQUEST
    assert message.fields == fields


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    try:
        message = decode(data)
    except ProtocolError:
        return
    assert encode(message.kind, *message.fields) == data


def test_a_message_that_lost_its_end_is_an_error() -> None:
    data = encode(protocol.CONFINED, ("layers", b"1"), ("rules", b"10"))
    for length in range(len(data)):
        cut = data[:length]
        if cut.endswith(b"\0"):
            # Whole fields are gone: who reads them misses them.
            with pytest.raises(ProtocolError, match="is missing"):
                decode(cut).one("rules")
        else:
            with pytest.raises(ProtocolError):
                decode(cut)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "cut short"),
        (b"\0", "unknown message"),
        (b"nonsense\0", "unknown message 'nonsense'"),
        (b"go\0colour=red\0", "unknown field 'colour'"),
        (b"refused\0reason\0", "unknown field 'reason'"),
        (b"request\0\0", "unknown field"),
        (b"\xff\xfe\0", "unknown message"),
        (b"x" * protocol.MAXIMUM + b"\0", "more than"),
    ],
)
def test_what_is_no_message_is_named(data: bytes, what: str) -> None:
    with pytest.raises(ProtocolError, match=what):
        decode(data)


def test_values_keep_equal_signs_newlines_and_bytes_that_are_no_text() -> None:
    value = b"=a=\n\xff\xfe="
    assert decode(encode(protocol.SESSION, ("set", value))).one("set") == value


def test_what_cannot_be_written_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="NUL"):
        encode(protocol.NOTICE, ("text", b"a\0b"))
    with pytest.raises(ProtocolError, match="no field"):
        encode(protocol.NOTICE, ("colour", b"red"))
    with pytest.raises(ProtocolError, match="may have"):
        encode(protocol.NOTICE, ("text", b"x" * protocol.MAXIMUM))


def test_a_document_may_be_longer_than_a_message() -> None:
    fields = [("tree", b"4 /" + b"x" * 1000)] * 1000
    data = encode(protocol.LAYERS, *fields, maximum=None)
    assert len(data) > protocol.MAXIMUM
    assert decode(data, maximum=None).fields == fields


def test_repeated_and_missing_fields() -> None:
    message = decode(b"request\0agent=a\0agent=b\0")
    assert message.all("agent") == [b"a", b"b"]
    assert message.get("profile") is None
    with pytest.raises(ProtocolError, match="repeated"):
        message.one("agent")
    with pytest.raises(ProtocolError, match="missing"):
        message.one("profile")
    with pytest.raises(ProtocolError, match="`go` is due"):
        message.expect(protocol.GO)


@pytest.mark.parametrize(
    "text", [b"", b"-1", b"+1", b" 1", b"1.5", b"0x10", b"1" * 21, b"\xd9\xa1"]
)
def test_what_is_no_number(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a number"):
        protocol.number(text, "uid")

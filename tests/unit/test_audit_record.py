# SPDX-License-Identifier: Apache-2.0
"""Records as data, as JSON and as text; their canonical form."""

from __future__ import annotations

import json
import os
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.audit import canonical
from monitor.audit.record import Draft, Record, printable, timestamp, to_dict
from tests.support.audit import draft, drafts, names

# What `rictl log --json` promises to scripts, in this order.
CONTRACT = [
    "id", "time", "session", "agent", "chain", "pid", "exe", "verb", "object", "verdict", "reason",
    "rule", "mechanism", "count",
]  # fmt: skip


def stored(given: Draft, number: int = 1) -> Record:
    body = canonical.encode(number, given)
    return canonical.decode(body, canonical.link(canonical.START, body))


@settings(deadline=None)
@given(drafts, st.integers(1, 2**62))
def test_a_record_comes_back_as_it_was(given: Draft, number: int) -> None:
    record = stored(given, number)
    assert record.id == number
    for field in fields(Draft):
        assert getattr(record, field.name) == getattr(given, field.name), field.name


@settings(deadline=None)
@given(drafts)
def test_the_body_is_ascii_json_and_nothing_else_gives_it(given: Draft) -> None:
    body = canonical.encode(1, given)
    assert body.isascii()
    assert len(json.loads(body)) == len(canonical.FIELDS)
    assert canonical.encode(1, stored(given)) == body


def test_the_body_of_a_known_record_never_changes() -> None:
    # A log that was written once must verify for ever.
    body = canonical.encode(
        3, draft(object=os.fsdecode(b"/tmp/\xff\xc3\xa9"), details={"b": 1, "a": [True]})
    )
    assert body == (
        '[3,1790000000.25,"0197f0a0-1111-7222-8333-444455556666",'
        '"spiffe://test.example/agent/coder",["user:alice","spiffe://test.example/agent/coder"],'
        '4711,"/usr/bin/cat","file.open","/tmp/\\udcff\\u00e9","allow","files.read lists it",'
        '"files.read: /usr/** (coder.yaml:7)","landlock",1,{"a":[true],"b":1}]'
    )
    assert canonical.link(canonical.START, body).hex() == (
        "5ea056dfc44878de3a14199bfd7cb65f9bfe7eefe4cd0d69a5493a24dc3efd2f"
    )


def test_a_file_name_of_any_bytes_comes_back() -> None:
    name = bytes(range(1, 256)).replace(b"/", b"")
    assert os.fsencode(stored(draft(object=os.fsdecode(name))).object) == name


@pytest.mark.parametrize(
    "details", [{"x": float("nan")}, {"x": object()}, {"x": b"bytes"}, {"x": float("inf")}]
)
def test_what_is_no_json_is_refused(details: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical.encode(1, draft(details=details))


@pytest.mark.parametrize(
    "body",
    ["", "[]", "{}", "[1]", "null", canonical.encode(1, draft()).replace("allow", "perhaps")],
)
def test_another_body_is_no_record(body: str) -> None:
    with pytest.raises(canonical.BodyError):
        canonical.decode(body, bytes(32))


def test_the_hash_covers_the_record_before() -> None:
    body = canonical.encode(1, draft())
    assert canonical.link(bytes(32), body) != canonical.link(bytes(31) + b"\1", body)
    assert canonical.link(bytes(32), body) != canonical.link(
        bytes(32), body.replace("4711", "4712")
    )


def test_json_is_as_scripts_expect_it() -> None:
    data = to_dict(stored(draft()))
    assert list(data) == CONTRACT
    assert data["time"] == "2026-09-21T14:13:20.250000Z"
    assert (data["verb"], data["verdict"], data["mechanism"]) == ("file.open", "allow", "landlock")
    full = to_dict(stored(draft(details={"inode": 5})), full=True)
    assert list(full) == [*CONTRACT, "details", "hash"]
    assert full["details"] == {"inode": 5}
    assert len(full["hash"]) == 64


def test_times_have_microseconds() -> None:
    assert timestamp(0.0000014) == "1970-01-01T00:00:00.000001Z"
    assert timestamp(1_790_000_000) == "2026-09-21T14:13:20.000000Z"


@settings(deadline=None)
@given(names)
def test_printable_text_can_be_printed_anywhere_that_takes_utf8(name: str) -> None:
    text = printable(name)
    text.encode("utf-8")
    assert text.isprintable()


def test_printable_text_shows_what_it_hides() -> None:
    assert printable("/tmp/é") == "/tmp/é"
    assert printable(os.fsdecode(b"a\xffb")) == "a\\xffb"
    assert printable("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert printable("a\u202eb\u2028") == "a\\u202eb\\u2028"

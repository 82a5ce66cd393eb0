# SPDX-License-Identifier: Apache-2.0
"""The API: what a request's query and body may hold, and the asks behind them, over HTTP itself.

Whatever is sent, the answer is one of HTTP's with a line for its sender; no handler fails. The
daemon as a whole is attacked by tests/host/test_robust_api.py.
"""

from __future__ import annotations

import json
import urllib.parse

from fuzz.target import Target
from monitor.daemon.api import answers, grants
from monitor.daemon.api.answers import BadRequest
from monitor.daemon.asks import reply
from monitor.identity import grant as tokens
from monitor.identity.grant_error import BadSignature, Malformed
from monitor.session import signal

FIELDS = {"agent": str, "what": str, "depth": int, "grant": str, "why": str, "then": str}


def run(data: bytes) -> None:
    which, body = (data[0] if data else 0), data[1:]
    RUNS[which % len(RUNS)](body)


def _query(data: bytes) -> None:
    pairs = urllib.parse.parse_qsl(data.decode("utf-8", "replace"), keep_blank_values=True)
    try:
        given = answers.parameters(dict(pairs), len(pairs), answers.RECORDS)
        asked = answers.records_request(given)
    except BadRequest as error:
        assert str(error)
        return
    assert 1 <= asked.query.limit <= answers.LARGEST_LIMIT


def _why(data: bytes) -> None:
    try:
        answers.why(data)
    except BadRequest as error:
        assert str(error)


def _fields(data: bytes) -> None:
    try:
        given = grants.fields(data, FIELDS)
    except BadRequest as error:
        assert str(error)
        return
    assert all(type(value) is FIELDS[name] for name, value in given.items())
    try:
        reply.scope(given)
        reply.why(given)
    except reply.BadReply as error:
        assert str(error)


def _grant(data: bytes) -> None:
    try:
        tokens.read(data.decode("utf-8", "surrogateescape"))
    except (Malformed, BadSignature) as error:
        assert str(error)


def _signal(data: bytes) -> None:
    try:
        found = signal.read(json.loads(data))
    except signal.Malformed as error:
        assert str(error)
        return
    except (ValueError, RecursionError):
        return
    assert found.subject


def _reply(data: bytes) -> None:
    """What an approver's program prints."""
    try:
        reply.parse(data)
    except reply.BadReply as error:
        assert str(error)


RUNS = (_query, _why, _fields, _grant, _signal, _reply)
_SIGNAL = {
    "sub_id": {"format": "opaque", "id": "agent:x"},
    "events": {
        "https://schemas.openid.net/secevent/caep/event-type/session-revoked": {
            "reason_admin": {"en": "x"}
        }
    },
}

TARGET = Target(
    run,
    [
        b"\0limit=10&verdict=deny&verb=file.open&since=1.5&after=3&newest=1",
        b'\1{"why": "because"}',
        b'\2{"agent": "a", "depth": 3, "why": "w", "then": "kill"}',
        b"\3ri-grant-v1.AAAA",
        b"\4" + json.dumps(_SIGNAL).encode(),
        b'\5{"verdict": "approve", "scope": "session"}',
    ],
    [b"NaN", b"1e999", b"-1", b"\\ud800", b'"', b"[[[[[[[[", b"follow=1", b"since=inf", b"uses",
     b"null", b"true", b"\xff", b"99999999999999999999999", b'"sub_id"', b'"events"', b'"format"'],
    8192,
)  # fmt: skip

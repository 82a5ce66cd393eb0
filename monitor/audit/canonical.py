# SPDX-License-Identifier: Apache-2.0
"""The one place that says which bytes of a record are stored, and what its hash covers.

A record's body is a JSON array in ASCII without spaces:

    [id,time,session,agent,[chain],pid,exe,verb,object,verdict,reason,rule,mechanism,count,{details}]

with the keys of details sorted. Characters outside ASCII are `\\u` escapes. So the lone surrogates
that stand for bytes which are not UTF-8 (PEP 383) are read back as they were, and `os.fsencode` of
a name gives its bytes. The body is what the database holds, and it is what is hashed:

    hash = BLAKE2b-256(hash of the record before + body), personalised "ri audit 1"

where the first record is behind a hash of 32 zero bytes.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from json.encoder import encode_basestring_ascii as _quote
from typing import Any

from monitor.audit.record import Draft, Record
from monitor.policy.action import Mechanism, Verb, Verdict

# Places in the array.
FIELDS = (
    "id", "time", "session", "agent", "chain", "pid", "exe", "verb", "object", "verdict", "reason",
    "rule", "mechanism", "count", "details",
)  # fmt: skip
START = bytes(32)

_DIGEST_SIZE = 32
_PERSON = b"ri audit 1"
_encode_details = json.JSONEncoder(separators=(",", ":"), sort_keys=True, allow_nan=False).encode


class BodyError(ValueError):
    """A stored body that is not the canonical form of any record."""


def encode(number: int, draft: Draft) -> str:
    """The body of `draft` as record `number`. TypeError, ValueError: its details are not JSON."""
    # By hand, because this runs for each record: a third of the time that json.dumps takes.
    details = _encode_details(draft.details) if draft.details else "{}"
    return (
        f"[{number:d},{float(draft.time)!r},{_quote(draft.session)},{_quote(draft.agent)},"
        f"[{','.join(map(_quote, draft.chain))}],{draft.pid:d},{_quote(draft.exe)},"
        f'"{draft.verb._value_}",{_quote(draft.object)},"{draft.verdict._value_}",'
        f'{_quote(draft.reason)},{_quote(draft.rule)},"{draft.mechanism._value_}",'
        f"{draft.count:d},{details}]"
    )


def link(previous: bytes, body: str) -> bytes:
    """The hash of the record with `body`, given the one before."""
    data = previous + body.encode("ascii")
    return blake2b(data, digest_size=_DIGEST_SIZE, person=_PERSON).digest()


def decode(body: str, digest: bytes) -> Record:
    """The record behind a stored row. BodyError: this is not what `encode` made."""
    try:
        fields: list[Any] = json.loads(body)
        (
            number, time, session, agent, chain, pid, exe, verb, what, verdict,
            reason, rule, mechanism, count, details,
        ) = fields  # fmt: skip
        return Record(
            time, session, agent, tuple(chain), pid, exe, Verb(verb), what, Verdict(verdict),
            reason, rule, Mechanism(mechanism), count, details, number, digest.hex(),
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise BodyError(f"not a record: {error}") from error

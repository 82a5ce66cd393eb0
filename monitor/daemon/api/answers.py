# SPDX-License-Identifier: Apache-2.0
"""The API's border: what a request may hold, and sessions as the API shows them. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from monitor.audit.query import Query
from monitor.policy.action import Verb, Verdict
from monitor.policy.plan import Plan
from monitor.session.session import Session

DEFAULT_LIMIT = 1000
LARGEST_LIMIT = 10_000
LONGEST_TEXT = 1024
COUNTS = (Verdict.ALLOW.value, Verdict.DENY.value, Verdict.WOULD_DENY.value)


class BadRequest(ValueError):  # noqa: N818 - named as HTTP does
    """The request cannot be understood; the message is one line for its sender."""


class RecordsRequest(NamedTuple):
    """What `GET /v1/records` asks for; `session` is a reference, `after` None: not said."""

    session: str | None
    query: Query
    after: int | None
    follow: bool


def parameters(given: Mapping[str, str], pairs: int, known: frozenset[str]) -> dict[str, str]:
    """The parameters of a query string of `pairs` pairs; each is known and stands once."""
    for name in given:
        if name not in known:
            raise BadRequest(f"unknown parameter {name[:40]!r}")
    if pairs != len(set(given)):
        raise BadRequest("a parameter is repeated")
    return dict(given)


RECORDS = frozenset(
    ["session", "verdict", "verb", "agent", "since", "after", "limit", "newest", "follow"]
)


def records_request(given: dict[str, str]) -> RecordsRequest:
    """The query behind the parameters of /v1/records, without its session."""
    limit = _whole(given, "limit", DEFAULT_LIMIT)
    if not 1 <= limit <= LARGEST_LIMIT:
        raise BadRequest(f"limit is from 1 to {LARGEST_LIMIT}")
    after = _whole(given, "after", None)
    query = Query(
        verdict=_one_of(Verdict, given, "verdict"),
        verb=_one_of(Verb, given, "verb"),
        agent=_text(given, "agent"),
        since=_seconds(given, "since"),
        after=after or 0,
        limit=limit,
        newest=flag(given, "newest"),
    )
    return RecordsRequest(_text(given, "session"), query, after, flag(given, "follow"))


def flag(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "0")
    if value not in ("0", "1"):
        raise BadRequest(f"{name} is 0 or 1")
    return value == "1"


def _text(given: Mapping[str, str], name: str) -> str | None:
    value = given.get(name) or None
    if value is not None and len(value) > LONGEST_TEXT:
        raise BadRequest(f"{name} is longer than {LONGEST_TEXT} characters")
    return value


def _whole(given: Mapping[str, str], name: str, default: Any) -> Any:
    value = given.get(name)
    if value is None:
        return default
    # SQLite's integers have 63 bits and a sign.
    if not (value.isascii() and value.isdigit()) or int(value[:20]) >= 1 << 63 or len(value) > 20:
        raise BadRequest(f"{name} is a whole number from 0")
    return int(value)


def _seconds(given: Mapping[str, str], name: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadRequest(f"{name} is a number of Unix seconds")
    return number


def _one_of(kind: Any, given: Mapping[str, str], name: str) -> Any:
    value = given.get(name)
    if not value:
        return None
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(each.value for each in kind)
        raise BadRequest(f"{value[:40]!r} is not a {name}: one of {known}") from None


def why(body: bytes) -> str:
    """The reason in the body of a change: `{"why": TEXT}`, `{}`, or nothing at all."""
    if not body:
        return ""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(data, dict):
        raise BadRequest("the body is a JSON object")
    for name in data:
        if name != "why":
            raise BadRequest(f"unknown field {name[:40]!r}")
    text = data.get("why", "")
    if not isinstance(text, str) or len(text) > LONGEST_TEXT:
        raise BadRequest(f"why is text of at most {LONGEST_TEXT} characters")
    return text


def session_json(
    session: Session, counts: Mapping[str, int], lost: int, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """A session as the API shows it; times in Unix seconds."""
    return {
        "id": session.id,
        "agent": session.agent,
        "chain": list(session.chain.names()),
        "user": session.user,
        "profile": session.profile,
        "state": session.state.value,
        "hold": session.hold.value if session.hold else None,
        "denied": session.denied.value if session.denied else None,
        "created": session.created,
        "expires": session.expires,
        "ended": session.ended,
        "pid": session.pid,
        "why": session.why,
        "workspace": session.workspace,
        "purpose": session.purpose,
        "observe": session.plan.observe,
        "inside": session.parent,
        "depth": session.depth,
        "labels": list(labels),
        "counts": {name: counts.get(name, 0) for name in COUNTS} | {"lost": lost},
    }


def plan_json(plan: Plan, digest: str) -> dict[str, Any]:
    """What a session is held to, in numbers and names."""
    return {
        "digest": digest,
        "observe": plan.observe,
        "run_as_root": plan.run_as_root,
        "records": plan.records.value,
        "audit_required": plan.audit_required,
        "view": plan.view is not None,
        "missing": list(plan.missing),
        "limits": {
            "ttl": plan.limits.ttl,
            "processes": plan.limits.processes,
            "files": plan.limits.files,
            "memory": plan.limits.memory,
            "on_expiry": plan.limits.on_expiry.value,
        },
        "policies": [
            {
                "profile": policy.profile,
                "files": len(policy.files),
                "masks": len(policy.masks),
                "connect": len(policy.connect),
                "bind": len(policy.bind),
                "unix": len(policy.unix),
                "sockets": len(policy.sockets),
            }
            for policy in plan.policies
        ],
    }

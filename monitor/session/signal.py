# SPDX-License-Identifier: Apache-2.0
"""Signals from other systems on agents, users and sessions, in the shape of CAEP events.

A signal is a security event token's payload without its envelope (RFC 8417): `sub_id` says whom it
is about (RFC 9493) and `events` holds one event under its type's URI, as in OpenID CAEP 1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
LONGEST = 1024
# What a level stands for where no score is given.
LEVELS = {"LOW": 20, "MEDIUM": 50, "HIGH": 80}
HIGHEST = 100
ENVELOPE = frozenset({"iss", "jti", "iat", "aud", "toe", "txn", "sub_id", "events"})


class Malformed(ValueError):  # noqa: N818 - as in identity/grant_error
    """It is no signal that is known here; the message is one line for its sender."""


class Kind(Enum):
    """What happened."""

    REVOKED = "session-revoked"
    ASSURANCE = "assurance-level-change"
    RISK = "risk-score-change"


# CAEP's own event for it knows levels only.
NAMES = {kind.value: kind for kind in Kind} | {"risk-level-change": Kind.RISK}


@dataclass(frozen=True, slots=True)
class Signal:
    """`subject` is `user:NAME`, `agent:NAME`, a SPIFFE id, or `session:` and a session's id.

    `score` is 0 to 100, for RISK; `fell`: the assurance level went down, for ASSURANCE.
    """

    kind: Kind
    subject: str
    score: int = 0
    fell: bool = True
    why: str = ""
    issuer: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"kind": self.kind.value})

    @classmethod
    def from_json(cls, text: str) -> Signal:
        """The reverse of `to_json`; trusts what it reads."""
        data = json.loads(text)
        return cls(**data | {"kind": Kind(data["kind"])})


def read(document: Any) -> Signal:
    """The signal that a JSON document is. Malformed."""
    whole = _object(document, "a signal")
    for name in whole:
        if name not in ENVELOPE:
            raise Malformed(f"unknown field {name[:40]!r}")
    events = _object(whole.get("events"), "events")
    if len(events) != 1:
        raise Malformed("events holds one event")
    ((uri, content),) = events.items()
    kind = NAMES.get(uri.removeprefix(CAEP))
    if kind is None:
        raise Malformed(
            f"unknown event {uri[:100]!r}: one of {', '.join(each.value for each in Kind)}"
        )
    event = _object(content, "the event")
    return Signal(
        kind=kind,
        subject=_subject(event.get("subject", whole.get("sub_id"))),
        score=_score(event) if kind is Kind.RISK else 0,
        fell=_fell(event) if kind is Kind.ASSURANCE else True,
        why=_reason(event),
        issuer=_text(whole.get("iss", ""), "iss"),
    )


def _subject(value: Any) -> str:
    if isinstance(value, str):
        return _named(value)
    found = _object(value, "sub_id")
    match found.get("format"):
        case "opaque":
            return _named(_text(found.get("id"), "sub_id.id"))
        case "uri":
            return _named(_text(found.get("uri"), "sub_id.uri"))
    raise Malformed("sub_id has the format opaque or uri")


def _named(word: str) -> str:
    prefix, _, rest = word.partition(":")
    if prefix not in ("user", "agent", "session", "spiffe") or not rest or len(word) > LONGEST:
        raise Malformed(
            f"{word[:100]!r} is no subject: user:NAME, agent:NAME, spiffe://…, session:ID"
        )
    return word


def _score(event: Mapping[str, Any]) -> int:
    if "score" in event:
        score = event["score"]
        if type(score) not in (int, float) or not 0 <= score <= HIGHEST:
            raise Malformed(f"score is a number from 0 to {HIGHEST}")
        return int(score)
    level = event.get("current_level")
    if not isinstance(level, str) or level.upper() not in LEVELS:
        raise Malformed(f"a risk has a score, or a current_level: {', '.join(LEVELS)}")
    return LEVELS[level.upper()]


def _fell(event: Mapping[str, Any]) -> bool:
    direction = event.get("change_direction")
    if direction not in ("increase", "decrease"):
        raise Malformed("change_direction is increase or decrease")
    return bool(direction == "decrease")


def _reason(event: Mapping[str, Any]) -> str:
    for name in ("reason_admin", "risk_reason"):
        value = event.get(name)
        if isinstance(value, Mapping):  # by language
            value = value.get("en", next(iter(value.values()), ""))
        if value is not None:
            return _text(value, name)
    return ""


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Malformed(f"{what} is missing, or no JSON object")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise Malformed(f"{what} is text of at most {LONGEST} characters")
    return value

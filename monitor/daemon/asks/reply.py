# SPDX-License-Identifier: Apache-2.0
"""What an approver or a person may answer: the border of JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monitor.profile import durations
from monitor.session.asks import ONCE, SESSION, Scope

LONGEST_WHY = 1024
MOST_USES = 1_000_000
ANSWERS = {"approve": True, "deny": False}
SCOPES = ("uses", "for", "session")


class BadReply(ValueError):  # noqa: N818 - the counterpart of BadRequest
    """The answer cannot be understood; one line says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it was given."""

    allow: bool
    scope: Scope
    why: str


def parse(output: bytes) -> Reply | None:
    """`{"answer": "approve"|"deny", "uses"|"for"|"session", "why"}`; None: nothing was said.

    BadReply.
    """
    if not output.strip():
        return None
    try:
        data = json.loads(output)
    except (ValueError, RecursionError) as error:
        raise BadReply("the answer is not JSON") from error
    if not isinstance(data, dict):
        raise BadReply("the answer is not a JSON object")
    for name in data:
        if name not in {"answer", "why", *SCOPES}:
            raise BadReply(f"the answer has an unknown field {name[:40]!r}")
    answer = data.get("answer")
    if not isinstance(answer, str) or answer not in ANSWERS:
        raise BadReply("answer is approve or deny")
    return Reply(ANSWERS[answer], scope(data), why(data))


def scope(data: Mapping[str, Any]) -> Scope:
    """How far an answer reaches; once where nothing says else. BadReply."""
    given = [name for name in SCOPES if data.get(name) is not None and data[name] is not False]
    if len(given) > 1:
        raise BadReply("only one of uses, for and session can be given")
    if not given:
        return ONCE
    value = data[given[0]]
    match given[0]:
        case "uses":
            if type(value) is not int or not 1 <= value <= MOST_USES:
                raise BadReply(f"uses is a whole number from 1 to {MOST_USES}")
            return Scope(uses=value)
        case "for":
            if not isinstance(value, str):
                raise BadReply("for is a duration: 90s, 10m, 2h")
            try:
                return Scope(uses=None, seconds=durations.seconds(value))
            except ValueError as error:
                raise BadReply(f"for: {str(error)[:200]}") from error
        case _:
            if value is not True:
                raise BadReply("session is true or false")
            return SESSION


def why(data: Mapping[str, Any]) -> str:
    text = data.get("why")
    if text is None:
        return ""
    if not isinstance(text, str) or len(text) > LONGEST_WHY:
        raise BadReply(f"why is text of at most {LONGEST_WHY} characters")
    # JSON can hold half a character.
    return text.encode("utf-8", "backslashreplace").decode()

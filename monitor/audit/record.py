# SPDX-License-Identifier: Apache-2.0
"""The audit record: what happened or was refused, under which chain, and why.

Text comes from the kernel as it is: a path holds whatever bytes the agent put into it, as Python
keeps them (PEP 383). `to_dict` and `canonical.encode` keep them exactly; `printable` is for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from monitor.policy.action import Mechanism, Verb, Verdict


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that is not stored yet.

    `time` is in Unix seconds, `chain` the names outermost first. `rule` is the rule that decided,
    with its place, "" where none did. `count` is how many actions this stands for. `details` is
    JSON: strings as keys, no tuples; its keys are those of `Detail`.
    """

    time: float
    session: str
    agent: str
    chain: tuple[str, ...]
    pid: int
    exe: str
    verb: Verb
    object: str
    verdict: Verdict
    reason: str
    rule: str
    mechanism: Mechanism
    count: int
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Record(Draft):
    """A stored record. Ids are 1, 2, 3 …; `hash` covers the record and all before it, in hex."""

    id: int
    hash: str


def to_dict(record: Record, full: bool = False) -> dict[str, Any]:
    """The record in the order of `rictl log --json`; `full` adds `details` and `hash`."""
    data: dict[str, Any] = {
        "id": record.id,
        "time": timestamp(record.time),
        "session": record.session,
        "agent": record.agent,
        "chain": list(record.chain),
        "pid": record.pid,
        "exe": record.exe,
        "verb": record.verb.value,
        "object": record.object,
        "verdict": record.verdict.value,
        "reason": record.reason,
        "rule": record.rule,
        "mechanism": record.mechanism.value,
        "count": record.count,
    }
    if full:
        data |= {"details": record.details, "hash": record.hash}
    return data


def timestamp(seconds: float) -> str:
    """Unix seconds as RFC 3339 in UTC with microseconds."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    """`text` for a terminal or a log: what an agent may have put into a name cannot act there.

    Control and formatting characters are escaped, and bytes that are not UTF-8 come out as `\\xNN`.
    The exact text is in the JSON form.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383: a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")

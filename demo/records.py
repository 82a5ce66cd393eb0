# SPDX-License-Identifier: Apache-2.0
"""The audit records of a run, as `rictl log --json` prints them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from demo.script import Denial

_REFUSED = ("deny", "kill")


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of a record that the table shows."""

    number: int
    verb: str
    object: str
    verdict: str
    mechanism: str
    reason: str
    rule: str
    count: int

    @property
    def refused(self) -> bool:
        return self.verdict in _REFUSED


def parse(lines: str) -> list[Record]:
    """The records in the output of `rictl log --json`, in its order."""
    return [_record(json.loads(line)) for line in lines.splitlines() if line.strip()]


def _record(data: dict[str, object]) -> Record:
    return Record(
        number=int(str(data["id"])),
        verb=str(data["verb"]),
        object=str(data["object"]),
        verdict=str(data["verdict"]),
        mechanism=str(data["mechanism"]),
        reason=str(data["reason"]),
        rule=str(data["rule"] or ""),
        count=int(str(data["count"])),
    )


def find(records: Iterable[Record], denial: Denial) -> Record | None:
    """The first refusal that fits `denial`."""
    for record in records:
        if record.refused and record.verb in denial.verbs and denial.part in record.object:
            return record
    return None

# SPDX-License-Identifier: Apache-2.0
"""An order to take authority back: from whom, by whom, and what becomes of the processes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import Enum


class Then(Enum):
    """What follows when a session is refused everything and its connections are cut."""

    KILL = "kill"
    DENY = "deny"  # its processes run on


@dataclass(frozen=True, slots=True)
class Order:
    """`sessions` are whole ids, `grants` revocation ids; `by` names who gave the order."""

    sessions: tuple[str, ...]
    grants: tuple[str, ...]
    then: Then
    by: str
    why: str

    @property
    def reason(self) -> str:
        """Why its sessions end, in one line."""
        return f"revoked by {self.by}" + (f": {self.why}" if self.why else "")

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"then": self.then.value})

    @classmethod
    def from_json(cls, text: str) -> Order:
        """The reverse of `to_json`; trusts what it reads."""
        data = json.loads(text)
        return cls(
            sessions=tuple(data["sessions"]),
            grants=tuple(data["grants"]),
            then=Then(data["then"]),
            by=data["by"],
            why=data["why"],
        )

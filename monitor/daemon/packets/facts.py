# SPDX-License-Identifier: Apache-2.0
"""What the packet rules are told, and what they tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from monitor.policy.action import IPAddress


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """Which session: its id, and its cgroup, which must exist when its rules are put in force."""

    id: str
    cgroup: Path


@dataclass(frozen=True, slots=True)
class Element:
    """An address that a session may reach at ports `low`..`high`, for `seconds`; None: always.

    More than one port only as a union of the spans that its rules were made with.
    """

    address: IPAddress
    protocol: int
    low: int
    high: int
    seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Count:
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the session's rules were put in force: what was sent, and what was refused.

    `refused` wanted out, `turned` wanted in. `sent` is what its own chain let pass, so that
    with nested sessions it holds theirs as well. `rules`: sent by each interval of the rules in
    force, as (first address, last address, protocol, low port, high port).
    """

    sent: Count
    refused: Count
    turned: Count
    rules: Mapping[tuple[str, str, int, int, int], Count]

    def summary(self) -> dict[str, int]:
        """What the record of a session's end says."""
        return {
            "sent": self.sent.packets,
            "sent_bytes": self.sent.bytes,
            "refused": self.refused.packets,
            "turned": self.turned.packets,
        }


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a session's chains hang: its version, the id of its cgroup, its level."""

    version: str
    cgroup: int
    level: int

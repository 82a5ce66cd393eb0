# SPDX-License-Identifier: Apache-2.0
"""The netlink messages that lead packets to a session's chains, and that take those away."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from monitor.daemon.packets.chains import (
    COUNTERS,
    DIRECTIONS,
    FAMILIES,
    FIXED,
    chain_name,
    counter_name,
    fixed_name,
    named_name,
    peers_name,
    span_name,
)
from monitor.daemon.packets.facts import Placed
from monitor.kernel import nfnetlink
from monitor.policy.packets import Span


def cgroup_key(cgroup: int) -> bytes:
    return cgroup.to_bytes(8, sys.byteorder)


class Changes:
    """For one table; `root` is the level of the instance's cgroup."""

    def __init__(self, table: str, root: int) -> None:
        self._table = table
        self._root = root

    def entering(self, session: str, placed: Placed) -> list[nfnetlink.Message]:
        """Lead to a session's chains."""
        key = cgroup_key(placed.cgroup)
        found = [
            message
            for direction in DIRECTIONS
            for message in nfnetlink.add_jump(
                self._table,
                f"{direction}_{placed.level}",
                key,
                chain_name(direction, session, placed.version),
            )
        ]
        if self.outermost(placed.level):
            found += nfnetlink.add_elements(self._table, "known", [(key, None)])
        return found

    def leaving(self, placed: Placed) -> list[nfnetlink.Message]:
        """Lead to a session's chains no more."""
        names = [f"{direction}_{placed.level}" for direction in DIRECTIONS]
        if self.outermost(placed.level):
            names.append("known")
        key = cgroup_key(placed.cgroup)
        return [
            message
            for name in names
            for message in nfnetlink.delete_elements(self._table, name, [key])
        ]

    def without(self, session: str, version: str) -> list[nfnetlink.Message]:
        """Take a version away that nothing leads to."""
        found: list[nfnetlink.Message] = []
        for direction in DIRECTIONS:
            name = chain_name(direction, session, version)
            found += nfnetlink.delete_chain(self._table, name)
        for kind in FIXED:
            for family in FAMILIES:
                name = fixed_name(kind, family, session, version)
                found += nfnetlink.delete_set(self._table, name)
        return found

    def outermost(self, level: int) -> bool:
        return level == self._root + 1

    def removing(
        self, session: str, placed: Placed, spans: Iterable[Span]
    ) -> list[nfnetlink.Message]:
        """Take everything of a session's away."""
        found = self.leaving(placed) + self.without(session, placed.version)
        for made in (named_name, peers_name):
            for family in FAMILIES:
                found += nfnetlink.delete_set(self._table, made(family, session))
        found += self.without_spans(session, spans)
        for kind in COUNTERS:
            found += nfnetlink.delete_counter(self._table, counter_name(kind, session))
        return found

    def without_spans(self, session: str, spans: Iterable[Span]) -> list[nfnetlink.Message]:
        """Take sets away that no chain speaks of."""
        return [
            message
            for span in spans
            for family in FAMILIES
            for message in nfnetlink.delete_set(self._table, span_name(span, family, session))
        ]

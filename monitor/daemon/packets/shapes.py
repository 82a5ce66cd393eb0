# SPDX-License-Identifier: Apache-2.0
"""One session's chains and sets, made once by libnftables, and then as often as needed by netlink.

libnftables reads all sets of the host before each change: 9 ms, 25 with 200 sessions. So it makes
each shape of rules once, in a table of its own that no packet comes by. What the kernel gives back
of that is sent again with other names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monitor.daemon.packets.base import SHARED
from monitor.daemon.packets.chains import (
    COUNTERS,
    DIRECTIONS,
    FIXED,
    VERSIONS,
    Chains,
    chain_name,
    counter_name,
    end_key,
    fixed_name,
    owner,
)
from monitor.kernel import nfnetlink
from monitor.kernel.nfnetlink import Connection, Expression, Message
from monitor.kernel.nft import Nft
from monitor.policy.packets import PacketRules, Span

# Stands for the session in a shape.
PLACE = "of-nobody"
MOST_KEPT = 64


@dataclass(frozen=True, slots=True)
class _Kind:
    """What rules of one shape have in common."""

    everything: bool
    silent: bool
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class _Shape:
    """`sets` by name; `chains` by name, each rule as its expressions."""

    sets: Mapping[str, Mapping[int, bytes]]
    chains: Mapping[str, Sequence[Sequence[Expression]]]


class Shapes:
    """For one table. `group`: as of Chains."""

    def __init__(self, nft: Nft, netlink: Connection, table: str, group: int | None) -> None:
        self._nft = nft
        self._netlink = netlink
        self._table = table
        self._group = group
        self._known: dict[_Kind, _Shape] = {}

    def build(self, session: str, version: str, rules: PacketRules) -> list[Message]:
        """Everything of a version of a session's rules that is not there, nothing led to it."""
        shape = self._shape(_Kind(rules.everything, rules.silent, rules.spans))
        changes: list[Message] = []
        for kind in COUNTERS:
            changes += nfnetlink.add_counter(self._table, counter_name(kind, session))
        for number, (name, attributes) in enumerate(shape.sets.items(), 1):
            own = _named(name, session, version)
            changes += nfnetlink.add_set(self._table, own, number, attributes)
        for kind in FIXED:
            for each in getattr(rules, kind):
                name = fixed_name(kind, each.first.version, session, version)
                ends = (
                    end_key(each.first, each.protocol, each.low),
                    end_key(each.last, each.protocol, each.high),
                )
                changes += nfnetlink.add_interval(self._table, name, *ends)
        for direction in DIRECTIONS:
            chain = chain_name(direction, session, version)
            changes += nfnetlink.add_chain(self._table, chain)
            for expressions in shape.chains[chain_name(direction, PLACE, VERSIONS[0])]:
                renamed = [each.renamed(_Names(session, version)) for each in expressions]
                changes += nfnetlink.add_rule(self._table, chain, renamed)
        return changes

    def _shape(self, kind: _Kind) -> _Shape:
        known = self._known.get(kind)
        if known is None:
            if len(self._known) >= MOST_KEPT:
                del self._known[next(iter(self._known))]
            known = self._known[kind] = self._make(kind)
        return known

    def _make(self, kind: _Kind) -> _Shape:
        table = f"{self._table}_shape"
        rules = PacketRules(everything=kind.everything, silent=kind.silent, spans=kind.spans)
        chains = Chains(table, PLACE, self._group)
        shared = " ".join(f"chain {name} {{ }};" for name in SHARED)
        fresh = f"add table inet {table}\ndelete table inet {table}\n"
        self._nft.run(f"{fresh}table inet {table} {{ {shared} }}\n" + chains.lasting(rules))
        try:
            self._nft.apply(chains.version(VERSIONS[0], rules))
            return _Shape(
                sets=dict(self._netlink.sets(table)),
                chains={
                    name: self._netlink.rules(table, name)
                    for name in (chain_name(each, PLACE, VERSIONS[0]) for each in DIRECTIONS)
                },
            )
        finally:
            self._nft.run(f"delete table inet {table}\n")


class _Names(dict[str, str]):
    """The names of a shape's sets and counters as those of a session; others stay."""

    def __init__(self, session: str, version: str) -> None:
        super().__init__()
        self._session = session
        self._version = version

    def __missing__(self, name: str) -> str:
        return _named(name, self._session, self._version)


def _named(name: str, session: str, version: str) -> str:
    if name == PLACE:  # what packets are told of by
        return session
    found = owner(name)
    if found is None or found[0] != PLACE:
        return name
    if found[1]:
        name = name.removesuffix(found[1]) + version
    return name.replace(PLACE, session)

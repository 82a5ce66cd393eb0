# SPDX-License-Identifier: Apache-2.0
"""Which addresses one session may connect to, under which names, until when. Pure.

What a name allows is what all links allow for it together; only then names that share an address
are put together. The other way round (each link's ports of all names, then what they have in
common) would allow ports that no name does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from monitor.resolver.addresses import Address
from monitor.resolver.decision import A, Admission, NameTable, Permission, judge
from monitor.resolver.names import NameRule
from monitor.resolver.ports import TCP, covers

MOST = 4096  # addresses
HTTPS_PORT = 443


@dataclass(frozen=True, slots=True)
class Span:
    """Ports of an address that a name allows; `rules` are each link's rule (NameRule.rule)."""

    protocol: int
    first: int
    last: int
    until: float
    name: str
    rules: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """All that is allowed at an address: disjoint, sorted. Without spans: nothing any more."""

    address: Address
    spans: tuple[Span, ...]


@dataclass(slots=True)
class _Entry:
    """The names that an address was told for, each with what it allows and until when."""

    names: dict[str, tuple[Permission, float]] = field(default_factory=dict)
    spans: tuple[Span, ...] = ()


class Book:
    """One session's addresses. Each change is a list of rows to write."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._entries: dict[Address, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def admit(self, admissions: Sequence[Admission], now: float) -> list[Row]:
        """Rows to write before the answer is sent; OSError where there is no room for them."""
        new = {each.address for each in admissions if each.address not in self._entries}
        if len(self._entries) + len(new) > self._most:
            raise OSError(f"a session may have {self._most} addresses at a time")
        touched: dict[Address, None] = {}
        for each in admissions:
            names = self._entries.setdefault(each.address, _Entry()).names
            known = names.get(each.name)
            until = now + each.ttl if known is None else max(now + each.ttl, known[1])
            if known != (each.permission, until):
                names[each.name] = each.permission, until
                touched[each.address] = None
        return self._changed(touched)

    def expire(self, now: float, is_open: Callable[[Address], bool] = lambda _: False) -> list[Row]:
        """Rows to write for what has ended; an address with an open connection keeps its names."""
        touched = []
        for address, entry in self._entries.items():
            ended = [name for name, (_allows, until) in entry.names.items() if until <= now]
            if ended and not is_open(address):
                for name in ended:
                    del entry.names[name]
                touched.append(address)
        return self._changed(touched)

    def renew(self, addresses: Iterable[Address], until: float) -> list[Row]:
        """Rows to write for addresses with an open connection: all their names last that long."""
        touched = []
        for address in addresses:
            entry = self._entries.get(address)
            if entry is None:
                continue
            for name, (allows, ends) in entry.names.items():
                entry.names[name] = allows, max(ends, until)
            touched.append(address)
        return self._changed(touched)

    def restore(self, address: Address, permission: Permission, until: float) -> None:
        """Take over what is in force; `rows` then holds what the book makes of it."""
        entry = self._entries.setdefault(address, _Entry())
        known, ends = entry.names.get(permission.name, (permission, until))
        links = tuple(
            tuple(dict.fromkeys((*one, *other)))
            for one, other in zip(known.links, permission.links, strict=True)
        )
        entry.names[permission.name] = Permission(permission.name, links), max(ends, until)
        entry.spans = _spans(entry)

    def forget(self, addresses: Iterable[Address]) -> None:
        """Their rows are gone."""
        for address in addresses:
            self._entries.pop(address, None)

    def ending(self, until: float) -> list[Address]:
        """Addresses of which a name ends by then."""
        return [
            address
            for address, entry in self._entries.items()
            if any(ends <= until for _allows, ends in entry.names.values())
        ]

    def judge_again(
        self, tables: Sequence[NameTable], public: Callable[[Address], bool]
    ) -> list[Row]:
        """Rows to write after the session's rules have changed to `tables`."""
        for address, entry in self._entries.items():
            for name, (_allows, until) in list(entry.names.items()):
                found = judge(name, A, tables)
                left = found if isinstance(found, Permission) else None
                if left is not None and not public(address):
                    left = left.for_private()
                if left is None:
                    del entry.names[name]
                else:
                    entry.names[name] = left, until
        return self._changed(list(self._entries))

    def rows(self) -> list[Row]:
        """All there is, as for a kernel that knows nothing."""
        return [Row(address, entry.spans) for address, entry in self._entries.items()]

    def spans(self, address: Address) -> tuple[Span, ...]:
        """What is allowed at an address."""
        entry = self._entries.get(address)
        return () if entry is None else entry.spans

    def names(self, address: Address) -> tuple[str, ...]:
        """What an address was told for, the latest first."""
        entry = self._entries.get(address)
        if entry is None:
            return ()
        return tuple(sorted(entry.names, key=lambda name: -entry.names[name][1]))

    def over_tls(self, address: Address) -> tuple[str, ...]:
        """The names that a TLS client may ask for at an address: those that allow its port."""
        entry = self._entries.get(address)
        names = {} if entry is None else entry.names
        return tuple(
            name
            for name, (allows, _until) in names.items()
            if covers(allows.ports().get(TCP, ()), HTTPS_PORT)
        )

    def next_end(self) -> float | None:
        """When something ends."""
        ends = [until for each in self._entries.values() for _allows, until in each.names.values()]
        return min(ends, default=None)

    def _changed(self, addresses: Iterable[Address]) -> list[Row]:
        rows = []
        for address in addresses:
            entry = self._entries[address]
            spans = _spans(entry)
            if spans != entry.spans:
                entry.spans = spans
                rows.append(Row(address, spans))
            if not entry.names:
                del self._entries[address]
        return rows


def _spans(entry: _Entry) -> tuple[Span, ...]:
    """Where several names allow a port, it is the one's that does so for longest."""
    every = [
        Span(protocol, first, last, until, name, ())
        for name, (allows, until) in entry.names.items()
        for protocol, ranges in allows.ports().items()
        for first, last in ranges
    ]
    spans: list[Span] = []
    for protocol in sorted({each.protocol for each in every}):
        mine = [each for each in every if each.protocol == protocol]
        permissions = {name: allows for name, (allows, _until) in entry.names.items()}
        edges = {each.first for each in mine} | {each.last + 1 for each in mine}
        for name in {each.name for each in mine}:
            edges |= _edges(permissions[name].links, protocol)
        for first, end in _pairs(sorted(edges)):
            covering = [each for each in mine if each.first <= first <= each.last]
            if not covering:
                continue
            longest = max(covering, key=lambda each: (each.until, each.name))
            rules = _rules(permissions[longest.name].links, protocol, first)
            span = replace(longest, first=first, last=end - 1, rules=rules)
            if spans and _continues(spans[-1], span):
                span = replace(span, first=spans.pop().first)
            spans.append(span)
    return tuple(spans)


def _continues(one: Span, other: Span) -> bool:
    return other.first == one.last + 1 and replace(other, first=one.first) == replace(
        one, last=other.last
    )


def _pairs(edges: Sequence[int]) -> Iterable[tuple[int, int]]:
    return zip(edges, edges[1:], strict=False)


def _edges(links: Sequence[Sequence[NameRule]], protocol: int) -> set[int]:
    """Where one rule may take over from another."""
    ranges = [
        part
        for rules in links
        for rule in rules
        if rule.protocol == protocol
        for part in rule.ports
    ]
    return {first for first, _last in ranges} | {last + 1 for _first, last in ranges}


def _rules(links: Sequence[Sequence[NameRule]], protocol: int, port: int) -> tuple[int, ...]:
    return tuple(
        next(rule.rule for rule in rules if rule.protocol == protocol and covers(rule.ports, port))
        for rules in links
    )

# SPDX-License-Identifier: Apache-2.0
"""From policies to what a session's packets may be: disjoint intervals, all else refused.

Every policy must allow. What one of them asks about is not in here: its addresses are added one by
one when they are answered for, like those of names that were resolved.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from monitor.policy.action import IPAddress, Verdict
from monitor.policy.plan import NetPrefix, Policy

HIGHEST_PORT = 65535
# IPv4 is written IPv4-mapped in the tables.
MAPPED_FIRST = 0xFFFF << 32
MAPPED_LAST = MAPPED_FIRST | 0xFFFFFFFF
LAST = (1 << 128) - 1
ANY_SIX, ANY_FOUR = 0, MAPPED_FIRST


@dataclass(frozen=True, slots=True)
class Interval:
    """Addresses `first`..`last` with ports `low`..`high` of one IP protocol, all included.

    `rules`: for each policy, the number of its rule (Policy.rules).
    """

    first: IPAddress
    last: IPAddress
    protocol: int
    low: int
    high: int
    rules: tuple[int, ...] = field(default=(), compare=False)

    def holds(self, address: IPAddress, protocol: int, port: int) -> bool:
        return (
            self.protocol == protocol
            and self.low <= port <= self.high
            and address.version == self.first.version
            and int(self.first) <= int(address) <= int(self.last)
        )


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Ports of one protocol that addresses can be added for together; those of one are disjoint."""

    protocol: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class PacketRules:
    """What may leave a session's sockets and reach them. `everything`: nothing is held back.

    `send`: where to. `own`: at which of its own addresses it may be reached from this host;
    `exposed`: and from others. `spans`: see Span. `silent`: nobody is told of what is refused.
    """

    send: tuple[Interval, ...] = ()
    own: tuple[Interval, ...] = ()
    exposed: tuple[Interval, ...] = ()
    spans: tuple[Span, ...] = ()
    everything: bool = False
    silent: bool = False


EVERYTHING = PacketRules(everything=True)
# For a session without authority: the kernel goes on trying for what was open.
NOTHING = PacketRules(silent=True)


@dataclass(frozen=True, slots=True)
class _Ports:
    """Ports `low`..`high` of `protocol`, allowed by `rules`."""

    protocol: int
    low: int
    high: int
    rules: tuple[int, ...]


_Row = tuple[_Ports, ...]
_Piece = tuple[int, int, _Row]  # first address, last address, what is allowed there


def rules(
    policies: Sequence[Policy],
    spans: Iterable[Span] = (),
    exposed: Sequence[Sequence[NetPrefix]] | None = None,
) -> PacketRules:
    """The rules for a session that all of `policies` must allow, earned labels' among them.

    `exposed`: for each policy, the table of own addresses that others may reach, of those that it
    may bind; None: all of those.
    """
    own = _reachable([policy.bind for policy in policies])
    reached = own if exposed is None else list(_both(own, _common(exposed)))
    return PacketRules(
        send=_intervals(_common([policy.connect for policy in policies])),
        own=_intervals(own),
        exposed=_intervals(reached),
        spans=disjoint(spans),
    )


def name_spans(policies: Iterable[Policy]) -> Iterator[Span]:
    """The ports that names are listed for."""
    for policy in policies:
        for rule in policy.names:
            for low, high in rule.ports:
                yield Span(rule.protocol, low, high)


def reaching(rules: PacketRules, more: Iterable[Interval]) -> PacketRules:
    """`rules` with a few single destinations more."""
    new = (
        each
        for each in more
        if not any(known.holds(each.first, each.protocol, each.low) for known in rules.send)
    )
    return replace(rules, send=tuple(sorted((*rules.send, *new), key=_sorted_by)))


def disjoint(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same ports, cut so that no two overlap and each given span is a union of some."""
    given = set(spans)
    found: list[Span] = []
    for protocol in sorted({span.protocol for span in given}):
        here = [span for span in given if span.protocol == protocol]
        edges = sorted({edge for span in here for edge in (span.low, span.high + 1)})
        for low, behind in zip(edges, edges[1:], strict=False):
            if any(span.low <= low <= span.high for span in here):
                found.append(Span(protocol, low, behind - 1))
    return tuple(found)


def _reachable(tables: Sequence[Sequence[NetPrefix]]) -> list[_Piece]:
    """Own addresses and ports. Where a wildcard may be bound, every address of its family is one.

    A socket bound to `::` takes IPv4 as well. Port 0 is any port that the kernel chose.
    """
    pieces = [(first, last, _chosen(row)) for first, last, row in _common(tables)]
    six, four = _at(pieces, ANY_SIX), _at(pieces, ANY_FOUR)
    widened: list[_Piece] = []
    position = 0
    for first, last in (
        (0, MAPPED_FIRST - 1),
        (MAPPED_FIRST, MAPPED_LAST),
        (MAPPED_LAST + 1, LAST),
    ):
        anywhere = _union(six, four) if first == MAPPED_FIRST else six
        position = first
        for start, end, row in pieces:
            start, end = max(start, first), min(end, last)  # noqa: PLW2901 - cut to the part
            if start > end:
                continue
            if position < start:
                widened.append((position, start - 1, anywhere))
            widened.append((start, end, _union(row, anywhere)))
            position = end + 1
        if position <= last:
            widened.append((position, last, anywhere))
    return widened


def _chosen(row: _Row) -> _Row:
    """Port 0 stands for every port."""
    free = {ports.protocol: ports for ports in row if ports.low == 0}
    kept = [ports for ports in row if ports.protocol not in free]
    wide = [_Ports(each.protocol, 0, HIGHEST_PORT, each.rules) for each in free.values()]
    return tuple(sorted([*kept, *wide], key=lambda ports: (ports.protocol, ports.low)))


def _at(pieces: Iterable[_Piece], address: int) -> _Row:
    return next((row for first, last, row in pieces if first <= address <= last), ())


def _union(one: _Row, other: _Row) -> _Row:
    """Ports of either; where both have one, `one` gives its rules."""
    found = list(one)
    for ports in other:
        left = [(ports.low, ports.high)]
        for taken in one:
            if taken.protocol == ports.protocol:
                left = [part for low, high in left for part in _without(low, high, taken)]
        found += [_Ports(ports.protocol, low, high, ports.rules) for low, high in left]
    return tuple(sorted(found, key=lambda ports: (ports.protocol, ports.low)))


def _without(low: int, high: int, taken: _Ports) -> Iterator[tuple[int, int]]:
    if taken.high < low or taken.low > high:
        yield low, high
        return
    if low < taken.low:
        yield low, taken.low - 1
    if taken.high < high:
        yield taken.high + 1, high


def _common(tables: Sequence[Sequence[NetPrefix]]) -> list[_Piece]:
    """What every table allows, in ascending order."""
    if not tables:
        return []
    found = list(_flat(tables[0]))
    for table in tables[1:]:
        found = list(_both(found, list(_flat(table))))
    return found


def _flat(table: Sequence[NetPrefix]) -> Iterator[_Piece]:
    """The table's longest-match meaning as pieces that do not overlap."""
    prefixes = []
    for prefix in table:
        network = ipaddress.IPv6Network(prefix.network)
        first = int(network.network_address)
        row = tuple(
            _Ports(each.protocol, each.first, each.last, (each.rule,))
            for each in prefix.ports
            if each.verdict is Verdict.ALLOW
        )
        prefixes.append((first, int(network.broadcast_address), row))
    prefixes.sort(key=lambda each: (each[0], -each[1]))
    # Prefixes nest or are apart: the one on top is the longest that holds `position`.
    around: list[_Piece] = []
    position = 0
    for first, last, row in prefixes:
        while around and around[-1][1] < first:
            yield from _piece(position, around[-1][1], around[-1][2])
            position = around.pop()[1] + 1
        if around:
            yield from _piece(position, first - 1, around[-1][2])
        position = first
        around.append((first, last, row))
    while around:
        yield from _piece(position, around[-1][1], around[-1][2])
        position = around.pop()[1] + 1


def _piece(first: int, last: int, row: _Row) -> Iterator[_Piece]:
    if first <= last and row:
        yield first, last, row


def _both(one: Sequence[_Piece], other: Sequence[_Piece]) -> Iterator[_Piece]:
    mine, yours = iter(one), iter(other)
    left, right = next(mine, None), next(yours, None)
    while left and right:
        row = tuple(
            _Ports(a.protocol, max(a.low, b.low), min(a.high, b.high), a.rules + b.rules)
            for a in left[2]
            for b in right[2]
            if a.protocol == b.protocol and max(a.low, b.low) <= min(a.high, b.high)
        )
        yield from _piece(max(left[0], right[0]), min(left[1], right[1]), row)
        if left[1] <= right[1]:
            left = next(mine, None)
        else:
            right = next(yours, None)


def _intervals(pieces: Iterable[_Piece]) -> tuple[Interval, ...]:
    """Pieces with what is allowed alike made one, IPv4 taken out of IPv6."""
    found: list[Interval] = []
    open_at: dict[_Ports, tuple[int, int]] = {}
    for first, last, row in _by_family(pieces):
        over = [each for each in open_at if each not in row or open_at[each][1] + 1 != first]
        found += [_interval(*open_at.pop(ports), ports) for ports in over]
        for ports in row:
            begin = open_at[ports][0] if ports in open_at else first
            open_at[ports] = begin, last
        if last == MAPPED_LAST or last == MAPPED_FIRST - 1:
            found += [_interval(*reach, ports) for ports, reach in open_at.items()]
            open_at.clear()
    found += [_interval(*reach, ports) for ports, reach in open_at.items()]

    return tuple(sorted(found, key=_sorted_by))


def _sorted_by(each: Interval) -> tuple[int, int, int, int]:
    return each.first.version, int(each.first), each.protocol, each.low


def _by_family(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    for first, last, row in pieces:
        for low, high in (
            (0, MAPPED_FIRST - 1),
            (MAPPED_FIRST, MAPPED_LAST),
            (MAPPED_LAST + 1, LAST),
        ):
            yield from _piece(max(first, low), min(last, high), row)


def _interval(first: int, last: int, ports: _Ports) -> Interval:
    return Interval(
        _address(first), _address(last), ports.protocol, ports.low, ports.high, ports.rules
    )


def _address(number: int) -> IPAddress:
    if MAPPED_FIRST <= number <= MAPPED_LAST:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return ipaddress.IPv6Address(number)

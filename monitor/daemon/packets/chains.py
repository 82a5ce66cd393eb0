# SPDX-License-Identifier: Apache-2.0
"""One session's sets and chains as libnftables' JSON. Has no effects.

What is fixed by the session's rules has a version in its name (`a` or `b`): the next version is
built beside it, and one change of the verdict maps goes over to it. What is filled at run time, and
the counters, stay through versions. Per address family, because a set's key has one.

IPv4 packets with options and fragments are refused first. IPv6 packets with extension headers are
in no set's terms: the key has the protocol that the packet's first header names.

What leaves an own port without being the beginning of a TCP connection passes, to whomever: nothing
here tells an accepted connection from what a raw socket makes up (CAP_NET_RAW, and a bind rule).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from monitor.daemon.packets.base import MOST_ELEMENTS, PEER_SECONDS, SHARED
from monitor.policy.action import IPAddress
from monitor.policy.packets import Interval, PacketRules, Span

Item = dict[str, Any]

VERSIONS = ("a", "b")
DIRECTIONS = ("send", "take")
FAMILIES = (4, 6)
ADDRESS = {4: "ipv4_addr", 6: "ipv6_addr"}
HEADER = {4: ("ip", "protocol"), 6: ("ip6", "nexthdr")}
TCP, UDP = 6, 17
FRAGMENT = 0x3FFF  # net/ip.h: IP_MF | IP_OFFSET
# How many refused packets of one session are told of, and how many bytes of each.
TOLD_A_SECOND, TOLD_AT_ONCE = 20, 50
SNAP = 128

# What of PacketRules becomes a set of each version.
FIXED = ("send", "own", "exposed")
COUNTERS = ("sent", "refused", "turned")


def chain_name(direction: str, session: str, version: str) -> str:
    return f"{direction}_{session}_{version}"


def fixed_name(kind: str, family: int, session: str, version: str) -> str:
    return f"{kind}{family}_{session}_{version}"


def named_name(family: int, session: str) -> str:
    """The set of single addresses, protocols and ports that are added at run time."""
    return f"named{family}_{session}"


def span_name(span: Span, family: int, session: str) -> str:
    """The set of addresses that are added at run time for all ports of `span`."""
    return f"span{family}_{span.protocol}_{span.low}_{span.high}_{session}"


def peers_name(family: int, session: str) -> str:
    """The set of those who sent a datagram to a socket that the session may bind."""
    return f"peers{family}_{session}"


def counter_name(kind: str, session: str) -> str:
    return f"{kind}_{session}"


def owner(name: str) -> tuple[str, str] | None:
    """The session that a chain, a set or a counter belongs to, and the version or ""; None: none.

    As the functions above and `counter_name` make names.
    """
    kind, _, rest = name.partition("_")
    if kind in ("sessions", *SHARED):
        return None
    base = kind.rstrip("46")
    if base == "span" and rest.count("_") >= 3:
        return rest.split("_", 3)[3], ""
    if kind in COUNTERS or base in ("named", "peers"):
        return rest, ""
    if (kind in DIRECTIONS or base in FIXED) and rest[-2:] in ("_a", "_b"):
        return rest[:-2], rest[-1]
    return None


def end_key(address: IPAddress, protocol: int, port: int) -> bytes:
    """address . inet_proto . inet_service: each part fills whole 32-bit registers."""
    return address.packed + bytes((protocol, 0, 0, 0)) + port.to_bytes(2, "big") + bytes(2)


class Chains:
    """Builds the commands for one session in one table."""

    def __init__(self, table: str, session: str, group: int | None = None) -> None:
        """`group`: who listens to it is told of what is refused."""
        self._table = table
        self._session = session
        self._group = group

    def lasting(self, rules: PacketRules) -> str:
        """Counters and the sets that are filled at run time; harmless where they are there.

        In the language of nft(8): the JSON of libnftables 1.0.6 has no `flags dynamic`.
        """
        made = [f"counter {counter_name(kind, self._session)} {{ }}" for kind in COUNTERS]
        timed = f"flags timeout; size {MOST_ELEMENTS};"
        for family in FAMILIES:
            key = f"{ADDRESS[family]} . inet_proto . inet_service"
            made += [
                f"set {named_name(family, self._session)} {{ type {key}; {timed} }}",
                f"set {peers_name(family, self._session)} {{ type {key} . inet_service;"
                f" flags dynamic,timeout; timeout {PEER_SECONDS}s; size {MOST_ELEMENTS}; }}",
            ]
            made += [
                f"set {span_name(span, family, self._session)} {{"
                f" type {ADDRESS[family]}; {timed} }}"
                for span in rules.spans
            ]
        lines = "\n".join(f"  {each}" for each in made)
        return f"table inet {self._table} {{\n{lines}\n}}\n"

    def version(self, version: str, rules: PacketRules) -> list[Item]:
        """The chains and sets of a version that nothing leads to yet, whatever was left of it."""
        commands: list[Item] = []
        for direction in DIRECTIONS:
            name = chain_name(direction, self._session, version)
            commands += [self._add("chain", name=name), self._flush("chain", name)]
        for kind in FIXED:
            for family in FAMILIES:
                name = fixed_name(kind, family, self._session, version)
                more: Item = {"stmt": [{"counter": None}]} if kind == "send" else {}
                key = [ADDRESS[family], "inet_proto", "inet_service"]
                commands += [
                    self._add("set", name=name, type=key, flags=["interval"], **more),
                    self._flush("set", name),
                ]
                intervals = [each for each in getattr(rules, kind) if each.first.version == family]
                if intervals:
                    elements = [_interval(each) for each in intervals]
                    commands.append(self._add("element", name=name, elem=elements))
        send, take = (chain_name(each, self._session, version) for each in DIRECTIONS)
        commands += [self._rule(send, *each) for each in self._sending(version, rules)]
        commands += [self._rule(take, *each) for each in self._taking(version, rules)]
        return commands

    def _sending(self, version: str, rules: PacketRules) -> Iterable[Sequence[Item]]:
        """What leaves is counted and returns to the next session's chain, or is refused."""
        sent = {"counter": counter_name("sent", self._session)}
        passed = (sent, {"return": None})
        refused = ({"counter": counter_name("refused", self._session)}, _goto("refuse"))
        if rules.everything:
            yield passed
            return
        odd = [
            _match(_field("ip", "hdrlength"), 5, "!="),
            # Whole packets come by here, but for those that a raw socket makes.
            _match({"&": [_field("ip", "frag-off"), FRAGMENT]}, 0, "!="),
        ]
        for each in odd:
            yield from self._telling(rules, each)
            yield each, *refused
        for family in FAMILIES:
            to, own = _there(family), _here(family)
            yield _match(to, f"@{self._fixed('send', family, version)}"), *passed
            yield _match(to, f"@{named_name(family, self._session)}"), *passed
            for span in rules.spans:
                yield *self._in_span(span, family, "dport", "daddr"), *passed
            # No SYN leaves by this: an accepted connection's began at its peer.
            yield (
                *_tcp(family),
                _match(_flags(["fin", "syn", "rst", "ack"]), "syn", "!="),
                _match(own, f"@{self._fixed('own', family, version)}"),
                *passed,
            )
            yield (
                *_tcp(family),
                _match(_flags(["fin", "syn", "rst", "ack"]), "syn", "!="),
                _match(own, f"@{self._fixed('exposed', family, version)}"),
                *passed,
            )
            peer = _concat(*_there(family)["concat"], _field("th", "sport"))
            yield _match(peer, f"@{peers_name(family, self._session)}"), *passed
        yield _match(_flags("rst"), "rst"), {"jump": {"target": "resets"}}
        yield from self._telling(rules)
        yield refused

    def _taking(self, version: str, rules: PacketRules) -> Iterable[Sequence[Item]]:
        """What comes in: the beginning of a TCP connection, and everything that is not TCP."""
        passed = ({"return": None},)
        if rules.everything:
            yield passed
            return
        local = _match({"meta": {"key": "iif"}}, "lo")
        for family in FAMILIES:
            back, at = _back(family), _at(family)
            yield *_udp(), _match(back, f"@{self._fixed('send', family, version)}"), *passed
            yield *_udp(), _match(back, f"@{named_name(family, self._session)}"), *passed
            for span in rules.spans:
                if span.protocol == UDP:
                    yield *self._in_span(span, family, "sport", "saddr"), *passed
            for where, kind in ((local,), "own"), ((), "exposed"):
                found = (*where, _match(at, f"@{self._fixed(kind, family, version)}"))
                yield *_udp(), *found, self._remember(family), *passed
                yield *found, *passed
        yield from self._telling(rules)
        yield {"counter": counter_name("turned", self._session)}, _goto("turn_away")

    def _telling(self, rules: PacketRules, *matches: Item) -> Iterable[Sequence[Item]]:
        """A rule of its own: past the limit it matches no more."""
        if self._group is not None and not rules.silent:
            log = {"prefix": self._session, "group": self._group, "snaplen": SNAP}
            limit = {"rate": TOLD_A_SECOND, "burst": TOLD_AT_ONCE, "per": "second"}
            yield *matches, {"limit": limit}, {"log": log}

    def _in_span(self, span: Span, family: int, port: str, address: str) -> Sequence[Item]:
        ports: Any = {"range": [span.low, span.high]} if span.low < span.high else span.low
        return (
            _match(_field(*HEADER[family]), span.protocol),
            _match(_field("th", port), ports),
            _match(
                _field(HEADER[family][0], address),
                f"@{span_name(span, family, self._session)}",
            ),
        )

    def _remember(self, family: int) -> Item:
        """Note the peer of a datagram, so that an answer can go back."""
        peer = _concat(*_back(family)["concat"], _field("th", "dport"))
        element = {"elem": {"val": peer, "timeout": PEER_SECONDS}}
        name = f"@{peers_name(family, self._session)}"
        return {"set": {"op": "update", "elem": element, "set": name}}

    def _fixed(self, kind: str, family: int, version: str) -> str:
        return fixed_name(kind, family, self._session, version)

    def _add(self, what: str, **more: Any) -> Item:
        return {"add": {what: {"family": "inet", "table": self._table, **more}}}

    def _rule(self, chain: str, *expressions: Item) -> Item:
        return self._add("rule", chain=chain, expr=list(expressions))

    def _flush(self, what: str, name: str) -> Item:
        return {"flush": {what: {"family": "inet", "table": self._table, "name": name}}}


def _interval(each: Interval) -> Item:
    return _concat(
        _range(str(each.first), str(each.last)), each.protocol, _range(each.low, each.high)
    )


def _range(first: Any, last: Any) -> Any:
    return first if first == last else {"range": [first, last]}


def _concat(*parts: Any) -> Item:
    return {"concat": list(parts)}


def _field(protocol: str, field: str) -> Item:
    return {"payload": {"protocol": protocol, "field": field}}


def _ends(family: int, address: str, port: str) -> Item:
    header, protocol = HEADER[family]
    return _concat(_field(header, address), _field(header, protocol), _field("th", port))


def _there(family: int) -> Item:
    """Where a packet that leaves goes."""
    return _ends(family, "daddr", "dport")


def _here(family: int) -> Item:
    """Where a packet that leaves comes from."""
    return _ends(family, "saddr", "sport")


# The same two of a packet that comes in.
_at, _back = _there, _here


def _match(left: Item, right: Any, operation: str = "==") -> Item:
    return {"match": {"op": operation, "left": left, "right": right}}


def _flags(mask: Any) -> Item:
    return {"&": [_field("tcp", "flags"), mask]}


def _goto(chain: str) -> Item:
    return {"goto": {"target": chain}}


def _tcp(family: int) -> Sequence[Item]:
    return (_match(_field(*HEADER[family]), TCP),)


def _udp() -> Sequence[Item]:
    return (_match({"meta": {"key": "l4proto"}}, UDP),)

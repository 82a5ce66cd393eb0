# SPDX-License-Identifier: Apache-2.0
"""From `network` to the tables of the cgroup programs: prefixes, unix names, sockets.

The programs take the longest prefix that matches an address and then the port, and nothing else.
So each prefix of the table carries the whole verdict of all the rules that cover it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from monitor.policy import origins
from monitor.policy.action import IPAddress, Origin, Verdict
from monitor.policy.floor import AF_UNIX, ANY_PROTOCOL, SOCK_DGRAM
from monitor.policy.origins import Rules
from monitor.policy.plan import NetPrefix, PortRange, SocketRule, UnixRule
from monitor.profile.model import (
    AskNetworkRule,
    ConnectRule,
    NetworkRule,
    NetworkSection,
    Profile,
)
from monitor.profile.network import (
    EVERYWHERE,
    HIGHEST_PORT,
    MAPPED,
    PROTOCOLS,
    IPNetwork,
    name_rule,
    names_host,
    names_hosts,
    parse,
    parse_either,
)
from monitor.profile.variables import Variables, expand
from monitor.resolver.names import NameRule

TCP, UDP = PROTOCOLS["tcp"], PROTOCOLS["udp"]

# linux/socket.h, linux/net.h, uapi/linux/netlink.h
AF_INET = 2
AF_INET6 = 10
AF_NETLINK = 16
SOCK_STREAM = 1
SOCK_NETLINK_RAW = 3
SOCK_SEQPACKET = 5
UNIX_TYPES = (SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET)
NETLINK_TYPES = (SOCK_DGRAM, SOCK_NETLINK_RAW)
NETLINK_ROUTE = 0
ROUTE_READ = "route-read"

# Destinations that a rule must name by a prefix within them: a wider rule does not reach them.
RESERVED: tuple[tuple[str, str], ...] = (
    ("169.254.0.0/16", "link-local addresses, where clouds keep a host's credentials"),
    ("fe80::/10", "link-local addresses"),
    ("fd00:ec2::254/128", "the metadata service of Amazon EC2"),
    ("fd20:ce::254/128", "the metadata service of Google Compute Engine"),
    ("100.100.100.200/32", "the metadata service of Alibaba Cloud"),
    ("168.63.129.16/32", "the metadata service of Azure"),
    ("0.0.0.0/32", "stands for this host itself: name 127.0.0.1"),
    ("::/128", "stands for this host itself: name [::1]"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("ff00::/8", "multicast"),
)


@dataclass(frozen=True, slots=True)
class _Covering:
    """One prefix of one rule. `reserved` rules stand between wide allow rules and narrow ones."""

    network: IPNetwork
    ports: tuple[tuple[int, int], ...]
    protocol: int
    verdict: Verdict
    reserved: bool
    origin: Origin


@dataclass(frozen=True, slots=True)
class _Marking:
    """One prefix of one destination that earns the label with the index `label`."""

    network: IPNetwork
    ports: tuple[tuple[int, int], ...]
    protocol: int
    label: int
    origin: Origin


# Some resolvers bind a socket before they ask, to a port of the kernel's choosing, as it is bound
# without. Nothing reaches it there that would not otherwise.
_QUESTIONS = tuple(
    _Covering(
        ipaddress.ip_network(address),
        ((0, 0),),
        UDP,
        Verdict.ALLOW,
        False,
        origins.built_in("network.bind", f"{address}:0/udp: to ask for names"),
    )
    for address in ("0.0.0.0/32", "::/128")
)

_EVERY = {"0.0.0.0/32": EVERYWHERE[0], "::/128": EVERYWHERE[1]}

# Deny beats ask beats allow.
_RANKS = {Verdict.DENY: 0, Verdict.ASK: 1, Verdict.ALLOW: 2}


def connect_table(profile: Profile, rules: Rules) -> tuple[NetPrefix, ...]:
    """Where the profile lets its sessions connect and send to, and which labels that earns."""
    section = profile.network or NetworkSection()
    listed = [
        *_covering(profile, "network.connect", addressed(section), Verdict.ALLOW),
        *_covering(profile, "network.ask", section.ask, Verdict.ASK),
    ]
    # They hold against what names are answered with, too.
    reserved = _reserved() if listed or section.connect else ()
    return _table([*listed, *_denied(profile), *reserved], rules, _markings(profile))


def addressed(section: NetworkSection) -> list[ConnectRule]:
    """The rules of `connect` that name addresses."""
    return [rule for rule in section.connect if not names_host(rule.to)]


def name_rules(profile: Profile, rules: Rules) -> tuple[NameRule, ...]:
    """Which names its sessions may look up, and what for. Where any address may be, any name."""
    section = profile.network or NetworkSection()
    found = []
    for rule in sorted(section.connect, key=lambda rule: (rule.to, rule.private)):
        if names_hosts(rule.to):
            text = f"{rule.to}, private" if rule.private else rule.to
            origin = origins.make(profile, "network.connect", text, rule.position)
            found.append(name_rule(rule.to, rules.number(origin), rule.private))
    return tuple(found)


def reads_routes(profile: Profile) -> bool:
    """Whether it may list interfaces, addresses and routes, as getaddrinfo(3) does.

    Where it does not say, it may if its rules reach beyond this host.
    """
    section = profile.network or NetworkSection()
    if section.netlink is not None:
        return section.netlink == ROUTE_READ
    listed = [rule.to for rule in addressed(section)] + [rule.to for rule in section.ask]
    return _looks_up(profile) or any(
        not network.is_loopback for text in listed for network in parse(text).networks
    )


def _looks_up(profile: Profile) -> bool:
    section = profile.network or NetworkSection()
    return any(names_hosts(rule.to) for rule in section.connect)


def label_table(profile: Profile, name: str, rules: Rules) -> tuple[NetPrefix, ...]:
    """What the label `name` leaves of the network, as a further policy that must allow as well."""
    section = profile.network or NetworkSection()
    then = profile.labels[name].then
    if then.network is None:
        listed = [
            *_covering(profile, "network.connect", addressed(section), Verdict.ALLOW),
            *_covering(profile, "network.ask", section.ask, Verdict.ASK),
        ]
    else:
        key = f"labels.{name}.then.network.only"
        listed = _covering(profile, key, then.network.only, Verdict.ALLOW)
    if then.ask is not None:
        asking = origins.make(
            profile, f"labels.{name}.then.ask", then.ask, profile.places.get(f"labels.{name}")
        )
        listed = [replace(each, verdict=Verdict.ASK, origin=asking) for each in listed]
    reserved = _reserved() if listed else ()
    return _table([*listed, *reserved], rules)


def _markings(profile: Profile) -> list[_Marking]:
    found: list[_Marking] = []
    for index, (name, label) in enumerate(profile.labels.items()):
        for rule in label.connect:
            to = parse(rule.to)
            origin = origins.make(profile, f"labels.{name}.connect", rule.to, rule.position)
            found += [
                _Marking(network, to.ports, to.protocol, index, origin) for network in to.networks
            ]
    return found


def bind_table(profile: Profile, rules: Rules) -> tuple[NetPrefix, ...]:
    """Which own addresses the profile lets its sessions bind."""
    section = profile.network or NetworkSection()
    listed = _covering(profile, "network.bind", section.bind, Verdict.ALLOW)
    if _looks_up(profile):
        listed += _QUESTIONS
    return _table([*listed, *_denied(profile)], rules)


def expose_table(profile: Profile, rules: Rules) -> tuple[NetPrefix, ...]:
    """At which own addresses others may reach what may be bound; `::` and `0.0.0.0`: at all."""
    section = profile.network or NetworkSection()
    if not section.expose:
        return ()
    listed = [
        replace(each, network=_EVERY.get(str(each.network), each.network))
        for each in _covering(profile, "network.expose", section.expose, Verdict.ALLOW)
    ]
    return _table([*listed, *_denied(profile)], rules)


def unix_rules(
    profile: Profile, variables: Variables, resolve: Callable[[str], str], rules: Rules
) -> tuple[UnixRule, ...]:
    """The names that may be connected to, as written and with the host's own links followed.

    The program compares the name that a program passes, and `/var/run/x` is as good as `/run/x`.
    """
    numbers: dict[str, int] = {}
    listed = (profile.network or NetworkSection()).unix
    for rule in sorted(listed, key=lambda rule: rule.path):
        number = rules.number(origins.make(profile, "network.unix", rule.path, rule.position))
        path = expand(rule.path, variables, rule.position)
        numbers.setdefault(path, number)
        if not path.startswith("@"):
            numbers.setdefault(resolve(path), number)
    return tuple(UnixRule(path, number) for path, number in sorted(numbers.items()))


def may_listen(profile: Profile) -> bool:
    """Whether this link leaves listen(2): by a bind rule for TCP, or by no rule for TCP at all.

    A filter sees a descriptor, not what it is: so unix sockets may listen where the link has no
    TCP sockets that could. Each link by itself, so that a further one never opens it.
    """
    section = profile.network or NetworkSection()
    bound = TCP in _protocols(section.bind)
    reached = TCP in _protocols((*section.connect, *section.ask)) or _looks_up(profile)
    return bound or not reached


def socket_rules(profile: Profile, *, unix: bool, netlink: bool) -> tuple[SocketRule, ...]:
    """The sockets that the profile's rules need. `unix`: the kernel decides on unix names."""
    section = profile.network or NetworkSection()
    named = _protocols((*section.connect, *section.ask, *section.bind))
    if _looks_up(profile):
        named |= {TCP, UDP}  # questions are asked by both
    return sockets_for(named, unix=unix, netlink=netlink)


def _protocols(rules: Sequence[ConnectRule | NetworkRule | AskNetworkRule]) -> set[int]:
    return {parse_either(rule.to).protocol for rule in rules}


def sockets_for(protocols: Iterable[int], *, unix: bool, netlink: bool) -> tuple[SocketRule, ...]:
    """Sockets of these IP protocols, by list: what is not TCP or UDP runs no cgroup hook.

    `netlink` adds NETLINK_ROUTE: listing interfaces, addresses and routes. A session changes none
    of them for want of capabilities; a filter cannot see what is asked.
    """
    found: list[SocketRule] = []
    if unix:
        found += [SocketRule(AF_UNIX, kind, ANY_PROTOCOL) for kind in UNIX_TYPES]
    wanted = sorted(set(protocols))
    for protocol in wanted:
        kind = SOCK_STREAM if protocol == TCP else SOCK_DGRAM
        for family in (AF_INET, AF_INET6):
            found += [SocketRule(family, kind, number) for number in (0, protocol)]
    if netlink:
        found += [SocketRule(AF_NETLINK, kind, NETLINK_ROUTE) for kind in NETLINK_TYPES]
    return tuple(found)


def is_reserved(address: IPAddress) -> bool:
    """Whether only a rule within a reserved prefix reaches `address`."""
    return any(
        address.version == each.network.version and address in each.network for each in _reserved()
    )


def _denied(profile: Profile) -> list[_Covering]:
    section = profile.network or NetworkSection()
    return _covering(profile, "network.deny", section.deny, Verdict.DENY)


def _covering(
    profile: Profile,
    key: str,
    listed: Sequence[ConnectRule | NetworkRule | AskNetworkRule],
    verdict: Verdict,
) -> list[_Covering]:
    found = []
    for rule in listed:
        to = parse(rule.to)
        why = rule.why if isinstance(rule, AskNetworkRule) else ""
        origin = origins.make(profile, key, rule.to, rule.position, why)
        found += [
            _Covering(network, to.ports, to.protocol, verdict, False, origin)
            for network in to.networks
        ]
    return found


@cache
def _reserved() -> tuple[_Covering, ...]:
    return tuple(
        _Covering(
            ipaddress.ip_network(text),
            ((0, HIGHEST_PORT),),
            protocol,
            Verdict.DENY,
            True,
            origins.built_in("network.deny", f"{text}: {why}"),
        )
        for text, why in RESERVED
        for protocol in (TCP, UDP)
    )


def _table(
    covering: Sequence[_Covering], rules: Rules, markings: Sequence[_Marking] = ()
) -> tuple[NetPrefix, ...]:
    networks = {each.network for each in covering}
    if networks:
        networks |= {each.network for each in markings}
    # IPv4 lies within ::/0 as the kernel sees it, and rules about IPv6 do not speak of it.
    if any(network.version == 6 and MAPPED.subnet_of(network) for network in networks):
        networks.add(EVERYWHERE[0])
    ordered = sorted(networks, key=lambda network: ipaddress.IPv6Network(mapped(network)))
    return tuple(
        NetPrefix(mapped(each), _fold(each, covering, markings, rules)) for each in ordered
    )


def mapped(network: IPNetwork) -> str:
    """The text of `network` in the table's form: IPv4 is written IPv4-mapped."""
    if isinstance(network, ipaddress.IPv6Network):
        return str(network)
    return f"::ffff:{network.network_address}/{network.prefixlen + MAPPED.prefixlen}"


def _within(network: IPNetwork, other: IPNetwork) -> bool:
    if isinstance(network, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and network.subnet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and network.subnet_of(other)


def _fold(
    network: IPNetwork,
    covering: Sequence[_Covering],
    markings: Sequence[_Marking],
    rules: Rules,
) -> tuple[PortRange, ...]:
    """The verdict for each port of the addresses whose longest prefix is `network`."""
    here = [each for each in covering if _within(network, each.network)]
    reserved = [each.network for each in here if each.reserved]
    # A rule reaches into a reserved prefix only if it is all within it.
    here = [
        each
        for each in here
        if each.verdict is Verdict.DENY or all(_within(each.network, outer) for outer in reserved)
    ]
    # All of these beat reserved; then the narrower rule gives its name.
    here.sort(
        key=lambda each: (
            each.reserved,
            _RANKS[each.verdict],
            -each.network.prefixlen,
            str(each.origin),
        )
    )
    marks = [each for each in markings if _within(network, each.network)]
    ranges: list[PortRange] = []
    for protocol in sorted({each.protocol for each in here}):
        ranges += _merged(_deciding(here, marks, protocol, rules))
    return tuple(ranges)


def _deciding(
    here: Sequence[_Covering], marks: Sequence[_Marking], protocol: int, rules: Rules
) -> Iterator[PortRange]:
    """The first of `here` that speaks of each port, from one change to the next."""
    speaking = [each for each in here if each.protocol == protocol]
    marking = [each for each in marks if each.protocol == protocol]
    starts = {
        edge
        for ports in (*(each.ports for each in speaking), *(each.ports for each in marking))
        for low, high in ports
        for edge in (low, high + 1)
    }
    edges = sorted(starts)
    for first, behind in zip(edges, edges[1:], strict=False):
        for each in speaking:
            if _names(each.ports, first):
                number = rules.number(each.origin)
                label = _label(marking, first)
                yield PortRange(protocol, first, behind - 1, each.verdict, number, label)
                break


def _names(ports: tuple[tuple[int, int], ...], port: int) -> bool:
    return any(low <= port <= high for low, high in ports)


def _label(marking: Sequence[_Marking], port: int) -> int:
    """The label that `port` earns; -1: none. The kernel's row has room for one."""
    found = [each for each in marking if _names(each.ports, port)]
    if any(each.label != found[0].label for each in found):
        one, other = found[0], next(each for each in found if each.label != found[0].label)
        raise origins.error(other.origin, f"{one.origin} gives another label for the same")
    return found[0].label if found else -1


def _merged(ranges: Iterable[PortRange]) -> list[PortRange]:
    """Neighbours with the same verdict by the same rule made one."""
    found: list[PortRange] = []
    for each in ranges:
        last = found[-1] if found else None
        if last and _follows(last, each):
            found[-1] = replace(last, last=each.last)
        else:
            found.append(each)
    return found


def _follows(last: PortRange, each: PortRange) -> bool:
    return replace(last, first=each.first, last=each.last) == each and last.last + 1 == each.first

# SPDX-License-Identifier: Apache-2.0
"""The text of a network rule: `ADDRESS[/PREFIX]:PORTS[/PROTOCOL]`, or a host name for ADDRESS.

`127.0.0.1:8000-8999`, `10.0.0.0/8:443,8443`, `[2001:db8::]/32:53/udp`, `any:*`; names as
monitor/resolver/names.py takes them, where they may stand. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from monitor.resolver.names import NameRule
from monitor.resolver.names import parse as parse_name
from monitor.resolver.ports import HIGHEST_PORT, PROTOCOLS, parse_ports, parse_protocol

__all__ = [
    "EVERYWHERE",
    "HIGHEST_PORT",
    "MAPPED",
    "PROTOCOLS",
    "Destination",
    "IPNetwork",
    "covers",
    "name_rule",
    "names_host",
    "names_hosts",
    "parse",
    "parse_either",
    "touches",
]

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

EVERYWHERE: tuple[IPNetwork, ...] = (
    ipaddress.IPv4Network("0.0.0.0/0"),
    ipaddress.IPv6Network("::/0"),
)
# RFC 4291 section 2.5.5.2: how an IPv6 socket names an IPv4 address.
MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

_FORM = "ADDRESS[/PREFIX]:PORTS[/PROTOCOL]"
_RULE = re.compile(
    r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<other>[^\[\]:/]*))(?:/(?P<prefix>[^:/]*))?"
    r":(?P<ports>[^:/]*)(?:/(?P<protocol>[^:/]*))?"
)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
_DOTTED = re.compile(r"[0-9.]+")
_HEXADECIMAL = re.compile(r"[0-9A-Fa-f:.]+")
_ANY = "any"


@dataclass(frozen=True, slots=True)
class Destination:
    """What one rule names. An address matches when it is in any of `networks`.

    IPv4 is always an IPv4Network, however it was written, and an IPv6Network never stands for IPv4:
    `[::]/0` does not cover `::ffff:10.0.0.1`. `ports` are (first, last), both included, sorted and
    disjoint; port 0 in a bind rule is a port of the kernel's choosing. `protocol` is the IP
    protocol number.
    """

    networks: tuple[IPNetwork, ...]
    ports: tuple[tuple[int, int], ...]
    protocol: int


def names_host(text: str) -> bool:
    """Whether a rule names its destination by host name. One that names nothing does not."""
    match = _RULE.fullmatch(text)
    address = (match["other"] if match else None) or "*"
    return address not in {_ANY, "*"} and not _DOTTED.fullmatch(address)


def names_hosts(text: str) -> bool:
    """Whether a rule of `connect` lets names be looked up: every name, where it is `any`."""
    match = _RULE.fullmatch(text)
    return names_host(text) or (match is not None and match["other"] == _ANY)


def name_rule(text: str, number: int = -1, private: bool = False) -> NameRule:
    """What a rule says of names, where names_hosts says that it does; ValueError."""
    return parse_name(text, number, private)


def parse_either(text: str) -> Destination | NameRule:
    """What a rule of `connect` names; ValueError says in one line what is wrong with it."""
    return parse_name(text) if names_host(text) else parse(text)


def parse(text: str) -> Destination:
    """The destination that `text` names; ValueError says in one line what is wrong with it."""
    match = _RULE.fullmatch(text)
    if match is None:
        if text.count(":") > 1 and "[" not in text:
            raise ValueError(f"an IPv6 address stands in brackets, [::1]:443: {_FORM}")
        raise ValueError(f"a network rule has the form {_FORM}")
    return Destination(
        networks=_networks(match["ipv6"], match["other"], match["prefix"]),
        ports=parse_ports(match["ports"]),
        protocol=parse_protocol(match["protocol"]),
    )


def covers(wider: Destination, to: Destination) -> bool:
    """Whether `wider` names all that `to` names."""
    return (
        wider.protocol == to.protocol
        and all(any(_inside(net, other) for other in wider.networks) for net in to.networks)
        and all(
            any(low <= first and last <= high for low, high in wider.ports)
            for first, last in to.ports
        )
    )


def touches(one: Destination, other: Destination) -> bool:
    """Whether there is a destination that both name."""
    return (
        one.protocol == other.protocol
        and any(
            _inside(net, each) or _inside(each, net)
            for net in one.networks
            for each in other.networks
        )
        and any(
            low <= last and first <= high for low, high in one.ports for first, last in other.ports
        )
    )


def _inside(net: IPNetwork, other: IPNetwork) -> bool:
    if isinstance(net, ipaddress.IPv4Network):
        return isinstance(other, ipaddress.IPv4Network) and net.subnet_of(other)
    return isinstance(other, ipaddress.IPv6Network) and net.subnet_of(other)


def _networks(ipv6: str | None, other: str | None, prefix: str | None) -> tuple[IPNetwork, ...]:
    if ipv6 is not None:
        return (_ipv6(ipv6, prefix),)
    address = other or ""
    if address == _ANY:
        if prefix is not None:
            raise ValueError("`any` is every address and takes no prefix")
        return EVERYWHERE
    if _DOTTED.fullmatch(address):
        return (_ipv4(address, prefix),)
    if address == "*":
        raise ValueError("every address is written `any`")
    if not address:
        raise ValueError("the address is missing; every address is written `any`")
    raise ValueError(
        f"{address!r} is not an address; host names are taken in network.connect alone"
    )


def _ipv4(text: str, prefix: str | None) -> ipaddress.IPv4Network:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise ValueError(f"{text} is not an IPv4 address") from None
    return _network4(address, _prefix(prefix, 32))


def _ipv6(text: str, prefix: str | None) -> IPNetwork:
    if "/" in text:
        raise ValueError("the prefix stands behind the bracket: [2001:db8::]/32:443")
    if not _HEXADECIMAL.fullmatch(text):
        raise ValueError(f"{text!r} is not an IPv6 address (a zone such as %eth0 is not taken)")
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError(f"{text} is not an IPv6 address") from None
    length = _prefix(prefix, 128)
    mapped = address.ipv4_mapped
    if mapped is not None:
        if length < MAPPED.prefixlen:
            raise ValueError(f"[{text}]/{length} mixes IPv4 and IPv6: write a rule for each")
        return _network4(mapped, length - MAPPED.prefixlen)
    network = ipaddress.IPv6Network((address, length), strict=False)
    if network.network_address != address:
        raise ValueError(
            f"[{text}]/{length} has bits set behind its prefix;"
            f" the network is [{network.network_address}]/{length}"
        )
    return network


def _network4(address: ipaddress.IPv4Address, length: int) -> ipaddress.IPv4Network:
    network = ipaddress.IPv4Network((address, length), strict=False)
    if network.network_address != address:
        raise ValueError(
            f"{address}/{length} has bits set behind its prefix; the network is {network}"
        )
    return network


def _prefix(text: str | None, highest: int) -> int:
    if text is None:
        return highest
    if not _NUMBER.fullmatch(text) or int(text) > highest:
        raise ValueError(f"the prefix /{text} is not a number from 0 to {highest}")
    return int(text)

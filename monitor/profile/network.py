# SPDX-License-Identifier: Apache-2.0
"""The text of a network rule: `ADDRESS[/PREFIX]:PORTS[/PROTOCOL]`.

`127.0.0.1:8000-8999`, `10.0.0.0/8:443,8443`, `[2001:db8::]/32:53/udp`, `any:*`. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# uapi/linux/in.h: IPPROTO_TCP, IPPROTO_UDP
PROTOCOLS = {"tcp": 6, "udp": 17}
HIGHEST_PORT = 65535
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
_HOST_NAME = re.compile(r"[A-Za-z0-9*_](?:[A-Za-z0-9*_.-]*[A-Za-z0-9*_])?\.?")


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


def parse(text: str) -> Destination:
    """The destination that `text` names; ValueError says in one line what is wrong with it."""
    match = _RULE.fullmatch(text)
    if match is None:
        if text.count(":") > 1 and "[" not in text:
            raise ValueError(f"an IPv6 address stands in brackets, [::1]:443: {_FORM}")
        raise ValueError(f"a network rule has the form {_FORM}")
    return Destination(
        networks=_networks(match["ipv6"], match["other"], match["prefix"]),
        ports=_ports(match["ports"]),
        protocol=_protocol(match["protocol"]),
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
    if address == "any":
        if prefix is not None:
            raise ValueError("`any` is every address and takes no prefix")
        return EVERYWHERE
    if _DOTTED.fullmatch(address):
        return (_ipv4(address, prefix),)
    if address == "*":
        raise ValueError("every address is written `any`")
    if not address:
        raise ValueError("the address is missing; every address is written `any`")
    if _HOST_NAME.fullmatch(address):
        raise ValueError(f"the host name {address} is enforced by a later release; name addresses")
    raise ValueError(f"{address!r} is not an address")


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


def _ports(text: str) -> tuple[tuple[int, int], ...]:
    if text == "*":
        return ((0, HIGHEST_PORT),)
    if not text:
        raise ValueError("the ports are missing; every port is written `*`")
    merged: list[tuple[int, int]] = []
    for first, last in sorted(_range(part) for part in text.split(",")):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _range(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    first = _port(low, text)
    last = _port(high, text) if dash else first
    if first > last:
        raise ValueError(f"the port range {text} ends before it begins")
    return first, last


def _port(text: str, whole: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > HIGHEST_PORT:
        raise ValueError(f"{whole!r} is not a port or a range of ports from 0 to {HIGHEST_PORT}")
    return int(text)


def _protocol(text: str | None) -> int:
    if text is None:
        return PROTOCOLS["tcp"]
    if text not in PROTOCOLS:
        raise ValueError(f"the protocol {text!r} is neither tcp nor udp")
    return PROTOCOLS[text]

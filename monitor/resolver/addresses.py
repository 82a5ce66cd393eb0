# SPDX-License-Identifier: Apache-2.0
"""Which addresses are public: what a public name may be answered with."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special purpose registries (RFC 6890 and after), and multicast. A list of our own: what
# ipaddress.is_global says has changed between versions of Python.
_NOT_PUBLIC4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: where clouds answer with credentials
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)
# Only this is given out to hosts (RFC 4291 section 2.4 and IANA); everything else is special.
_PUBLIC6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address stands inside
        "3fff::/20",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address stands inside


@lru_cache(4096)
def is_public(address: Address) -> bool:
    """Whether `address` is one of the internet's, and not of this host, its network or nobody."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _PUBLIC6 and not any(address in network for network in _NOT_PUBLIC6)


def is_own(address: Address, own: Iterable[Network]) -> bool:
    """Whether it is in one of `own`: public addresses of this host or its network."""
    return any(address.version == network.version and address in network for network in own)

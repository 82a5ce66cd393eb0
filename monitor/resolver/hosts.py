# SPDX-License-Identifier: Apache-2.0
"""The host's own table of names, hosts(5), which programs read before they ask anybody.

Its addresses are never asked for, so that they are to be admitted when a session begins, for names
that every link lists. An administrator wrote them: that they are not public is meant.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from monitor.resolver.addresses import Address
from monitor.resolver.decision import A, Admission, NameTable, Permission, judge
from monitor.resolver.names import canonical


def parse_hosts(text: str) -> dict[str, tuple[Address, ...]]:
    """Addresses by canonical name; lines and names that cannot be read are passed over."""
    found: dict[str, dict[Address, None]] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = ipaddress.ip_address(words[0])
        except ValueError:
            continue
        for word in words[1:]:
            try:
                found.setdefault(canonical(word), {})[address] = None
            except ValueError:
                continue
    return {name: tuple(addresses) for name, addresses in found.items()}


def admitted(
    hosts: dict[str, tuple[Address, ...]], tables: Sequence[NameTable], ttl: int
) -> list[Admission]:
    """What a session whose links have `tables` may connect to by the names in `hosts`."""
    judged = ((name, judge(name, A, tables), addresses) for name, addresses in hosts.items())
    return [
        Admission(name, address, ttl, found)
        for name, found, addresses in judged
        if isinstance(found, Permission)
        for address in addresses
    ]

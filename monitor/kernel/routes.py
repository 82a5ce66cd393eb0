# SPDX-License-Identifier: Apache-2.0
"""The networks that this host is in, as procfs lists them; proc_pid_net(5)."""

from __future__ import annotations

import ipaddress
from pathlib import Path

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ROUTES4 = Path("/proc/net/route")
_ADDRESSES6 = Path("/proc/net/if_inet6")
_WIDEST = {4: 8, 6: 32}  # a wider one is no network of a host's own, but a way out


def own_networks() -> tuple[Network, ...]:
    """Networks that are reached without a gateway. What cannot be read is none."""
    found: dict[Network, None] = {}
    for line in _lines(_ROUTES4)[1:]:
        fields = line.split()
        if len(fields) > 7 and int(fields[2], 16) == 0:
            address, mask = (int(fields[n], 16).to_bytes(4, "little") for n in (1, 7))
            length = int.from_bytes(mask, "big").bit_count()
            found[ipaddress.ip_network((address, length), strict=False)] = None
    for line in _lines(_ADDRESSES6):
        fields = line.split()
        network = ipaddress.ip_network((bytes.fromhex(fields[0]), int(fields[2], 16)), strict=False)
        found[network] = None
    return tuple(each for each in found if each.prefixlen >= _WIDEST[each.version])


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []

# SPDX-License-Identifier: Apache-2.0
"""Keys of the map `host_names`: names that a session was told an address for. Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from monitor.wire import layout
from monitor.wire.layout import struct_format
from monitor.wire.rows import RowError, address_of, packed_address

_KEY = struct.Struct(struct_format(layout.ri_host_key))
_NAME_SIZE = 256
VALUE = b"\1"

Address = IPv4Address | IPv6Address


def key(cgroup: int, address: Address, name: str) -> bytes:
    """The key of one name at one address; RowError where no TLS client could ask for the name."""
    text = name.encode("ascii", "replace").lower()
    if not 0 < len(text) < _NAME_SIZE:
        raise RowError(f"a host name has 1 to {_NAME_SIZE - 1} bytes, not {len(text)}")
    return _KEY.pack(cgroup, packed_address(address), len(text), 0, text)


def parse(data: bytes) -> tuple[int, Address, str]:
    """(cgroup, address, name) of a key."""
    cgroup, packed, length, _reserved, text = _KEY.unpack(data)
    return cgroup, address_of(packed), text[:length].decode("ascii", "replace")

# SPDX-License-Identifier: Apache-2.0
"""Who asks: the kernel notes the cgroup behind each packet to the resolver (names.bpf.c).

The sender's address and port are enough to find it. A port may get another owner, but its packet
then makes the note anew before it arrives.
"""

from __future__ import annotations

import ipaddress
import struct
import time

from monitor.daemon.resolver.resolver import Peer
from monitor.kernel.bpf import Map

# Longer than questions wait for a resolver that starts anew; as long as most clients wait.
FRESH_SECONDS = 5.0
_KEY = struct.Struct("=16s2sH")  # struct ri_flow_key
_FLOW = struct.Struct("=QQ")  # struct ri_flow
KEY_SIZE, FLOW_SIZE = _KEY.size, _FLOW.size


class Flows:
    """The map `flows`, by its descriptor."""

    def __init__(self, fd: int) -> None:
        self._map = Map(fd, KEY_SIZE, FLOW_SIZE, "flows")

    def cgroup(self, peer: Peer) -> int | None:
        """The cgroup of the socket that sent from `peer`; None: of none that is governed."""
        value = self._map.lookup(_key(peer))
        if value is None:
            return None
        cgroup, noted = _FLOW.unpack(value)
        # Somebody whose packets are not noted may have got the port since.
        age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - noted
        return int(cgroup) if age < FRESH_SECONDS * 1e9 else None


def _key(peer: Peer) -> bytes:
    address = ipaddress.ip_address(peer.address.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        packed = bytes(10) + b"\xff\xff" + address.packed
    else:
        packed = address.packed
    return _KEY.pack(packed, peer.port.to_bytes(2, "big"), peer.protocol)

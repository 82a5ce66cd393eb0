# SPDX-License-Identifier: Apache-2.0
"""The ends of an IP packet, as its first header and the one behind it say."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from monitor.policy.action import IPAddress

# uapi/linux/in.h
TCP, UDP = 6, 17
_WITH_PORTS = {TCP, UDP, 33, 132, 136}  # DCCP, SCTP, UDP-Lite
_SYN, _RST, _ACK = 2, 4, 16


@dataclass(frozen=True, slots=True)
class Packet:
    """Ports are 0 where the protocol has none, or the packet none that can be seen.

    `protocol`: what the first header names; an extension header of IPv6 is one of its own.
    `begins`: it opens a TCP connection.
    """

    source: IPAddress
    destination: IPAddress
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    begins: bool = False


def read(data: bytes) -> Packet | None:
    """None: it is no IP packet, or cut off within its header."""
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= 20:
        size, protocol = (data[0] & 15) * 4, data[9]
        source: IPAddress = ipaddress.IPv4Address(data[12:16])
        destination: IPAddress = ipaddress.IPv4Address(data[16:20])
        whole = not int.from_bytes(data[6:8], "big") & 0x1FFF
    elif version == 6 and len(data) >= 40:
        size, protocol, whole = 40, data[6], True
        source = ipaddress.IPv6Address(data[8:24])
        destination = ipaddress.IPv6Address(data[24:40])
    else:
        return None
    behind = data[size:]
    if not whole or protocol not in _WITH_PORTS or len(behind) < 4:
        return Packet(source, destination, protocol)
    begins = protocol == TCP and len(behind) > 13 and behind[13] & (_SYN | _RST | _ACK) == _SYN
    ports = int.from_bytes(behind[:2], "big"), int.from_bytes(behind[2:4], "big")
    return Packet(source, destination, protocol, *ports, begins)

# SPDX-License-Identifier: Apache-2.0
"""Sets an IPv6 routing header, which sends packets to another host than the one connected to."""

import socket
import struct

from attempt import attempt

IPV6_RTHDR = 57
# struct ipv6_sr_hdr: next header, length in 8 bytes, type 4, segments left, last entry, flags, tag;
# then the segments.
header = struct.pack("=BBBBBBH", 0, 2, 4, 0, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, "::1")
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
    attempt(lambda: sender.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, header))

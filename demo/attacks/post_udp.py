# SPDX-License-Identifier: Apache-2.0
"""Sends a file in one datagram: `post_udp.py ADDRESS PORT FILE`. IPv4 or IPv6."""

import socket
import sys

address, port, name = sys.argv[1:]
with open(name, "rb") as file:  # noqa: PTH123 - an attacker's one-liner, kept as one
    body = file.read(1024)
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sender:
    print("sent", sender.sendto(body, (address, int(port))), "bytes")

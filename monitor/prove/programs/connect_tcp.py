# SPDX-License-Identifier: Apache-2.0
"""Connects to ADDRESS PORT over TCP; an IPv4-mapped address goes out over IPv4."""

import socket
import sys

from attempt import attempt

address, port = sys.argv[1], int(sys.argv[2])


def connect() -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
        client.settimeout(5)
        client.connect((address, port))


attempt(connect)

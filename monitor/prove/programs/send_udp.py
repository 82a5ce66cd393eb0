# SPDX-License-Identifier: Apache-2.0
"""Sends a datagram to ADDRESS PORT without connecting."""

import socket
import sys

from attempt import attempt

address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sender:
    attempt(lambda: sender.sendto(b"data", (address, port)))

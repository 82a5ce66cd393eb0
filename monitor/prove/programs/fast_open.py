# SPDX-License-Identifier: Apache-2.0
"""Opens a TCP connection to ADDRESS PORT by sending: MSG_FASTOPEN needs no connect(2)."""

import socket
import sys

from attempt import attempt

address, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family) as client:
    attempt(lambda: client.sendto(b"data", socket.MSG_FASTOPEN, (address, port)))

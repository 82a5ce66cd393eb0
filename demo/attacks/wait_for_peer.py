# SPDX-License-Identifier: Apache-2.0
"""Listens and gives a file to whoever connects: `wait_for_peer.py PORT FILE`."""

import socket
import sys

port, name = sys.argv[1:]
with open(name, "rb") as file:  # noqa: PTH123 - an attacker's one-liner, kept as one
    body = file.read()
with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", int(port)))  # noqa: S104 - every interface is the point of it
    listener.listen()
    listener.settimeout(5)
    connection, peer = listener.accept()
    with connection:
        connection.sendall(body)
    print("gave", len(body), "bytes to", peer[0])

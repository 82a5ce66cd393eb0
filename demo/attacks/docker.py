# SPDX-License-Identifier: Apache-2.0
"""Asks a container engine for its containers: `docker.py SOCKET`."""

import socket
import sys

with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as engine:
    engine.settimeout(5)
    engine.connect(sys.argv[1])
    engine.sendall(b"GET /containers/json HTTP/1.0\r\nHost: docker\r\n\r\n")
    print(engine.recv(1000).decode())

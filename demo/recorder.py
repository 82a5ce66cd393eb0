# SPDX-License-Identifier: Apache-2.0
"""The attacker's host: writes down what arrives, and tries to fetch what waits for it.

Runs in a network namespace of its own: `recorder.py PORT PEER PEER-PORT`. Prints one JSON object a
line on stdout: first `{"channel": "ready"}`, then `{"channel", "from", "text"}` for each arrival.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

_LOCK = threading.Lock()
_RETRY_SECONDS = 0.2


def report(channel: str, peer: str, data: bytes) -> None:
    line = json.dumps({"channel": channel, "from": peer, "text": data.decode("utf-8", "replace")})
    with _LOCK:
        print(line, flush=True)


def receive_all(connection: socket.socket) -> bytes:
    """What the peer sends until it closes or is silent for half a second."""
    connection.settimeout(0.5)
    data = b""
    try:
        while chunk := connection.recv(4096):
            data += chunk
    except (TimeoutError, ConnectionError):
        pass
    return data


def accept_tcp(listener: socket.socket, channel: str) -> None:
    while True:
        connection, peer = listener.accept()
        with connection:
            report(channel, peer[0], receive_all(connection))
            try:
                connection.sendall(b"HTTP/1.0 204 Thank You\r\n\r\n")
            except ConnectionError:
                continue


def receive_udp(receiver: socket.socket, channel: str) -> None:
    while True:
        data, peer = receiver.recvfrom(65536)
        report(channel, peer[0], data)


def fetch(address: str, port: int) -> None:
    """Connect to the governed host again and again: somebody may listen there."""
    while True:
        try:
            with socket.create_connection((address, port), timeout=1) as connection:
                report("inbound", address, receive_all(connection))
        except OSError:
            pass
        time.sleep(_RETRY_SECONDS)


def bound(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> socket.socket:
    opened = socket.socket(family, kind)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    opened.bind(("", port))
    if kind == socket.SOCK_STREAM:
        opened.listen()
    return opened


def main() -> None:
    port, peer, peer_port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
        listener = bound(family, socket.SOCK_STREAM, port)
        receiver = bound(family, socket.SOCK_DGRAM, port)
        for work, opened, name in (
            (accept_tcp, listener, f"tcp{version}"),
            (receive_udp, receiver, f"udp{version}"),
        ):
            threading.Thread(target=work, args=(opened, name), daemon=True).start()
    report("ready", "", b"")
    fetch(peer, peer_port)


if __name__ == "__main__":
    main()

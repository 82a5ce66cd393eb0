# SPDX-License-Identifier: Apache-2.0
"""Where questions arrive: a port of loopback for datagrams and connections."""

from __future__ import annotations

import socket

_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_ROOM = 16 << 20
BACKLOG = 256


def listen(address: str, port: int = 0) -> tuple[socket.socket, socket.socket]:
    """A datagram and a listening socket on the same port of `address`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _attempt in range(16):
        datagrams = _bound(family, socket.SOCK_DGRAM, address, port)
        try:
            stream = _bound(family, socket.SOCK_STREAM, address, datagrams.getsockname()[1])
        except OSError:
            datagrams.close()
            if port:
                raise
            continue  # somebody's connection has the number
        stream.listen(BACKLOG)
        return datagrams, stream
    raise OSError(f"no port of {address} is free for datagrams and connections")


def _bound(family: int, kind: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            # A burst of all sessions waits here while the loop is busy.
            try:
                sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock

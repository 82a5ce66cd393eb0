# SPDX-License-Identifier: Apache-2.0
"""sock_diag netlink: find the sockets of one cgroup, and destroy them while they are open.

The kernel filters the dump by cgroup id (INET_DIAG_BC_CGROUP_COND, since Linux 5.7), so a cut costs
what the session has, not what the host has. A destroyed socket answers its owner ECONNABORTED and
its peer with a reset. Sources: uapi/linux/sock_diag.h, uapi/linux/inet_diag.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

# uapi/linux/netlink.h
NETLINK_SOCK_DIAG = 4
NLM_F_REQUEST = 1
NLM_F_ACK = 4
NLM_F_DUMP = 0x300
NLMSG_ERROR = 2
NLMSG_DONE = 3

# uapi/linux/sock_diag.h
SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21

# uapi/linux/inet_diag.h
INET_DIAG_REQ_BYTECODE = 1
INET_DIAG_BC_CGROUP_COND = 13
ALL_STATES = 0xFFFFFFFF

IPPROTO_UDPLITE = 136
FAMILIES = (socket.AF_INET, socket.AF_INET6)
PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, IPPROTO_UDPLITE)

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
REQUEST = struct.Struct("=BBBBI")  # inet_diag_req_v2 up to the socket id
ATTRIBUTE = struct.Struct("=HH")
SOCKET_ID_SIZE = 48  # inet_diag_sockid: ports, addresses, interface, cookie
MESSAGE_ID_OFFSET = 4  # of the socket id in inet_diag_msg
RECEIVE_SIZE = 1 << 16


def _filter(cgroup: int) -> bytes:
    """Bytecode that accepts the sockets of `cgroup` only: one test, `no` jumps past the end."""
    code = struct.pack("=BBHQ", INET_DIAG_BC_CGROUP_COND, 12, 16, cgroup)
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(code), INET_DIAG_REQ_BYTECODE) + code


def _send(diag: socket.socket, kind: int, flags: int, body: bytes) -> None:
    diag.send(HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, _flags, _sequence, _port = HEADER.unpack_from(data, offset)
        yield kind, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _check(body: bytes, what: str) -> None:
    (code,) = struct.unpack_from("=i", body)
    if code:
        raise OSError(-code, os.strerror(-code), what)


def _dump(diag: socket.socket, family: int, protocol: int, cgroup: int) -> list[bytes]:
    """The socket ids (inet_diag_sockid as bytes) of `cgroup`."""
    request = REQUEST.pack(family, protocol, 0, 0, ALL_STATES) + bytes(SOCKET_ID_SIZE)
    _send(diag, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request + _filter(cgroup))
    found: list[bytes] = []
    while True:
        for kind, body in _messages(diag.recv(RECEIVE_SIZE)):
            if kind == NLMSG_DONE:
                return found
            if kind == NLMSG_ERROR:
                _check(body, f"sock_diag dump of protocol {protocol}")
                return found
            found.append(body[MESSAGE_ID_OFFSET : MESSAGE_ID_OFFSET + SOCKET_ID_SIZE])


def _destroy(diag: socket.socket, family: int, protocol: int, identity: bytes) -> bool:
    request = REQUEST.pack(family, protocol, 0, 0, ALL_STATES) + identity
    _send(diag, SOCK_DESTROY, NLM_F_ACK, request)
    for kind, body in _messages(diag.recv(RECEIVE_SIZE)):
        if kind == NLMSG_ERROR:
            try:
                _check(body, "sock_diag destroy")
            except OSError as error:
                # Closed by its owner, or already unconnected: nothing is left to cut.
                if error.errno in (errno.ENOENT, errno.ENOTCONN, errno.EINVAL):
                    return False
                raise
    return True


def destroy_sockets(cgroup: int) -> int:
    """Destroy every TCP and UDP socket made in cgroup id `cgroup`; how many there were.

    The cgroup must exist (the kernel resolves the id) and should be frozen, or new sockets may
    come while the old ones go. OSError: EPERM without CAP_NET_ADMIN, EOPNOTSUPP where the kernel
    was built without CONFIG_INET_DIAG_DESTROY.
    """
    destroyed = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as diag:
        diag.bind((0, 0))
        for family in FAMILIES:
            for protocol in PROTOCOLS:
                try:
                    identities = _dump(diag, family, protocol, cgroup)
                except FileNotFoundError:
                    continue  # no such protocol in this kernel, so no such sockets
                for identity in identities:
                    destroyed += _destroy(diag, family, protocol, identity)
    return destroyed


def can_destroy() -> bool:
    """Whether this kernel destroys sockets on request (CONFIG_INET_DIAG_DESTROY)."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as diag:
        diag.bind((0, 0))
        request = REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, ALL_STATES)
        # No socket has port 0 on both sides, so there is nothing to find.
        _send(diag, SOCK_DESTROY, NLM_F_ACK, request + bytes(SOCKET_ID_SIZE))
        for kind, body in _messages(diag.recv(RECEIVE_SIZE)):
            if kind == NLMSG_ERROR:
                (code,) = struct.unpack_from("=i", body)
                return bool(code == -errno.ENOENT)
    return False

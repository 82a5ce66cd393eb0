# SPDX-License-Identifier: Apache-2.0
"""sock_diag netlink: find the sockets of cgroups, and destroy them while they are open.

The kernel filters the dump by cgroup id (INET_DIAG_BC_CGROUP_COND, since Linux 5.7), so a cut costs
what the sessions have, not what the host has; and many sessions are cut in one pass. A destroyed
socket answers its owner ECONNABORTED and its peer with a reset.
Sources: uapi/linux/sock_diag.h, uapi/linux/inet_diag.h.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from monitor.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    attribute,
    error_of,
    messages,
    request,
)

# uapi/linux/netlink.h
NETLINK_SOCK_DIAG = 4

# uapi/linux/sock_diag.h
SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21

# uapi/linux/inet_diag.h
INET_DIAG_REQ_BYTECODE = 1
INET_DIAG_BC_JMP = 1
INET_DIAG_BC_CGROUP_COND = 13
CONDITION = struct.Struct("=BBHQ")  # inet_diag_bc_op with its value
JUMP = struct.Struct("=BBH")
ALL_STATES = 0xFFFFFFFF

IPPROTO_UDPLITE = 136
FAMILIES = (socket.AF_INET, socket.AF_INET6)
PROTOCOLS = (socket.IPPROTO_TCP, socket.IPPROTO_UDP, IPPROTO_UDPLITE)

REQUEST = struct.Struct("=BBBBI")  # inet_diag_req_v2 up to the socket id
SOCKET_ID_SIZE = 48  # inet_diag_sockid: ports, addresses, interface, cookie
MESSAGE_ID_OFFSET = 4  # of the socket id in inet_diag_msg
MESSAGE_STATE_OFFSET = 1
SOCKET_ID = struct.Struct("!HH16s16s")  # ports and addresses, without interface and cookie
LISTEN = 10  # TCP_LISTEN, net/tcp_states.h
RECEIVE_SIZE = 1 << 16
# A jump is at most 64 KiB long, a netlink attribute too.
MOST_CGROUPS = 2048
# Requests in one message: their answers fit into the socket's buffer.
BATCH = 64


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port; IPv4-mapped addresses are given as IPv4."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int


@dataclass(frozen=True, slots=True)
class OpenSocket:
    """A TCP or UDP socket. `remote` has port 0 where it is not connected to anything.

    `identity` is the kernel's own (inet_diag_sockid), with the cookie that tells it from a later
    socket of the same addresses.
    """

    family: int
    protocol: int
    listens: bool
    local: Endpoint
    remote: Endpoint
    identity: bytes


def _filter(cgroups: Sequence[int]) -> bytes:
    """Bytecode that accepts the sockets of `cgroups` only.

    One test for each, with a jump to the end behind it that the next test is reached around; the
    last test's `no` leads past the end, which rejects.
    """
    code = b""
    for cgroup in reversed(cgroups):
        if code:
            code = JUMP.pack(INET_DIAG_BC_JMP, JUMP.size, JUMP.size + len(code)) + code
        size = CONDITION.size
        code = CONDITION.pack(INET_DIAG_BC_CGROUP_COND, size, size + JUMP.size, cgroup) + code
    return attribute(INET_DIAG_REQ_BYTECODE, code)


def _check(body: bytes, what: str) -> None:
    error = error_of(body)
    if error:
        raise OSError(error, os.strerror(error), what)


def _dump(diag: socket.socket, family: int, protocol: int, cgroups: Sequence[int]) -> list[bytes]:
    """The sockets of `cgroups`, an inet_diag_msg up to its socket id for each."""
    asked = REQUEST.pack(family, protocol, 0, 0, ALL_STATES) + bytes(SOCKET_ID_SIZE)
    diag.send(request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, asked + _filter(cgroups)))
    found: list[bytes] = []
    while True:
        for each in messages(diag.recv(RECEIVE_SIZE)):
            if each.kind == NLMSG_DONE:
                return found
            if each.kind == NLMSG_ERROR:
                _check(each.body, f"sock_diag dump of protocol {protocol}")
                return found
            found.append(each.body[: MESSAGE_ID_OFFSET + SOCKET_ID_SIZE])


def _socket(family: int, protocol: int, message: bytes) -> OpenSocket:
    identity = message[MESSAGE_ID_OFFSET:]
    port, remote_port, address, remote_address = SOCKET_ID.unpack_from(identity)
    return OpenSocket(
        family=family,
        protocol=protocol,
        listens=protocol == socket.IPPROTO_TCP and message[MESSAGE_STATE_OFFSET] == LISTEN,
        local=Endpoint(_address(family, address), port),
        remote=Endpoint(_address(family, remote_address), remote_port),
        identity=identity,
    )


def _address(family: int, packed: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(packed[:4])
    found = ipaddress.IPv6Address(packed)
    return found.ipv4_mapped or found


def _destroy(diag: socket.socket, family: int, protocol: int, identities: Sequence[bytes]) -> int:
    """Destroy the sockets, and wait for the answer to each; how many there were."""
    start = REQUEST.pack(family, protocol, 0, 0, ALL_STATES)
    requests = [request(SOCK_DESTROY, NLM_F_ACK, start + each) for each in identities]
    diag.send(b"".join(requests))
    left, destroyed = len(requests), 0
    while left:
        for answer in messages(diag.recv(RECEIVE_SIZE)):
            if answer.kind != NLMSG_ERROR:
                continue
            left -= 1
            try:
                _check(answer.body, "sock_diag destroy")
            except OSError as error:
                # Closed by its owner, or already unconnected: nothing is left to cut.
                if error.errno not in (errno.ENOENT, errno.ENOTCONN, errno.EINVAL):
                    raise
            else:
                destroyed += 1
    return destroyed


def _found(cgroups: Sequence[int]) -> Iterator[tuple[int, int, list[bytes]]]:
    """(family, protocol, what `_dump` finds) of the sockets of `cgroups`."""
    with _diag() as diag:
        for first in range(0, len(cgroups), MOST_CGROUPS):
            some = cgroups[first : first + MOST_CGROUPS]
            for family in FAMILIES:
                for protocol in PROTOCOLS:
                    # Without the protocol in this kernel there are no such sockets.
                    with contextlib.suppress(FileNotFoundError):
                        yield family, protocol, _dump(diag, family, protocol, some)


def sockets(*cgroups: int) -> list[OpenSocket]:
    """Every TCP and UDP socket made in the cgroups with these ids.

    The cgroups must exist: the kernel resolves the ids. OSError: EPERM without CAP_NET_ADMIN.
    """
    return [
        _socket(family, protocol, message)
        for family, protocol, messages in _found(cgroups)
        for message in messages
    ]


def destroy(found: Sequence[OpenSocket]) -> int:
    """Destroy these sockets; how many were still there.

    OSError: EPERM without CAP_NET_ADMIN, EOPNOTSUPP where the kernel was built without
    CONFIG_INET_DIAG_DESTROY.
    """
    kinds: dict[tuple[int, int], list[bytes]] = {}
    for each in found:
        kinds.setdefault((each.family, each.protocol), []).append(each.identity)
    with _diag() as diag:
        return sum(_destroy_all(diag, *kind, identities) for kind, identities in kinds.items())


def destroy_sockets(*cgroups: int) -> int:
    """Destroy every TCP and UDP socket made in the cgroups with these ids; how many there were.

    They should be frozen, or new sockets may come while the old ones go. OSError as the two above.
    """
    with _diag() as diag:
        return sum(
            _destroy_all(diag, family, protocol, [each[MESSAGE_ID_OFFSET:] for each in messages])
            for family, protocol, messages in _found(cgroups)
        )


def _destroy_all(diag: socket.socket, family: int, protocol: int, identities: list[bytes]) -> int:
    return sum(
        _destroy(diag, family, protocol, identities[batch : batch + BATCH])
        for batch in range(0, len(identities), BATCH)
    )


def _diag() -> socket.socket:
    diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    diag.bind((0, 0))
    return diag


def can_destroy() -> bool:
    """Whether this kernel destroys sockets on request (CONFIG_INET_DIAG_DESTROY)."""
    with _diag() as diag:
        asked = REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, ALL_STATES)
        # No socket has port 0 on both sides, so there is nothing to find.
        diag.send(request(SOCK_DESTROY, NLM_F_ACK, asked + bytes(SOCKET_ID_SIZE)))
        for each in messages(diag.recv(RECEIVE_SIZE)):
            if each.kind == NLMSG_ERROR:
                return error_of(each.body) == errno.ENOENT
    return False

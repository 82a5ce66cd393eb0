# SPDX-License-Identifier: Apache-2.0
"""Packets that rules of nftables tell of (`log group`), read from the kernel.

Sources: uapi/linux/netfilter/nfnetlink_log.h, nft(8).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass

from monitor.kernel.netlink import (
    NLM_F_ACK,
    NLMSG_ERROR,
    attribute,
    attributes,
    error_of,
    messages,
    request,
)
from monitor.kernel.nfmonitor import SO_RCVBUFFORCE
from monitor.kernel.nfnetlink import GENERIC, NETLINK_NETFILTER, RECEIVE_SIZE, name_of

NFNL_SUBSYS_ULOG = 4
NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG = 0, 1
NFULA_PACKET_HDR, NFULA_PAYLOAD, NFULA_PREFIX = 1, 9, 10
NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_QTHRESH = 1, 2, 5
NFULNL_CFG_CMD_BIND = 1
NFULNL_COPY_PACKET = 2
NF_INET_LOCAL_IN = 1  # uapi/linux/netfilter.h
ROOM = 1 << 20


@dataclass(frozen=True, slots=True)
class Told:
    """A packet, from its IP header on, and what the rule calls it. `came`: it wanted in."""

    prefix: str
    came: bool
    packet: bytes


class PacketLog:
    """Listens to one group in the network namespace this is made in; never blocks.

    OSError (EBUSY): somebody else does. `lost`: how often there was more than could be kept.
    """

    def __init__(self, group: int, snap: int) -> None:
        self.lost = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            self._configure(group, NFULA_CFG_CMD, bytes((NFULNL_CFG_CMD_BIND,)))
            mode = struct.pack("!IBB", snap, NFULNL_COPY_PACKET, 0)
            self._configure(group, NFULA_CFG_MODE, mode)
            # Else the kernel gathers packets for a second.
            self._configure(group, NFULA_CFG_QTHRESH, struct.pack("!I", 1))
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[Told]:
        """The packets that were told of since the last call, some of them."""
        try:
            data = self._socket.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return []
        except OSError:
            self.lost += 1
            return []
        found = []
        for each in messages(data):
            if each.kind != NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET:
                continue
            parts = attributes(each.body[GENERIC.size :])
            header = parts.get(NFULA_PACKET_HDR, b"\0\0\0")
            found.append(
                Told(
                    prefix=name_of(parts.get(NFULA_PREFIX, b"")),
                    came=header[2] == NF_INET_LOCAL_IN,
                    packet=parts.get(NFULA_PAYLOAD, b""),
                )
            )
        return found

    def _configure(self, group: int, kind: int, value: bytes) -> None:
        body = GENERIC.pack(socket.AF_UNSPEC, 0, group) + attribute(kind, value)
        number = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG
        self._socket.send(request(number, NLM_F_ACK, body))
        answer = next(messages(self._socket.recv(RECEIVE_SIZE)))
        error = error_of(answer.body)
        if answer.kind == NLMSG_ERROR and error:
            raise OSError(error, f"packets cannot be told of: {os.strerror(error)}")

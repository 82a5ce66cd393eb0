# SPDX-License-Identifier: Apache-2.0
"""Hears of changes to nf_tables, and says who made them.

Sources: uapi/linux/netfilter/nfnetlink.h, uapi/linux/netfilter/nf_tables.h, netlink(7).
"""

from __future__ import annotations

import contextlib
import socket

from monitor.kernel.netlink import attributes, messages
from monitor.kernel.nfnetlink import (
    GENERIC,
    NETLINK_NETFILTER,
    NFNL_SUBSYS_NFTABLES,
    NFPROTO_INET,
    RECEIVE_SIZE,
    SOL_NETLINK,
    TABLE,
    name_of,
)

NFNLGRP_NFTABLES = 7
NETLINK_ADD_MEMBERSHIP = 1  # uapi/linux/netlink.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
ROOM = 8 << 20
# enum nf_tables_msg_types: the end of a transaction, about no table.
NFT_MSG_NEWGEN = 15


class Monitor:
    """A netlink socket in the network namespace it was made in; never blocks."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._socket.setblocking(False)
        self._socket.bind((0, 0))
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)

    def close(self) -> None:
        self._socket.close()

    def changed(self, table: str) -> set[int]:
        """The netlink ports of those who changed `table` (family inet) since the last call.

        OSError (ENOBUFS): there was more than could be kept, and nobody knows who.
        """
        found: set[int] = set()
        while True:
            try:
                data = self._socket.recv(RECEIVE_SIZE)
            except BlockingIOError:
                return found
            for each in messages(data):
                if each.kind >> 8 != NFNL_SUBSYS_NFTABLES or each.kind & 0xFF == NFT_MSG_NEWGEN:
                    continue
                if each.port in found or each.body[:1] != bytes([NFPROTO_INET]):
                    continue
                if name_of(attributes(each.body[GENERIC.size :]).get(TABLE, b"")) == table:
                    found.add(each.port)

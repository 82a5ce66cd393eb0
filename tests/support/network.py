# SPDX-License-Identifier: Apache-2.0
"""Two networks joined by a cable: one for sessions, and a peer that sees what arrives."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.probes import CLONE_NEWNET, libc

HERE4, HERE6 = "10.9.0.1", "fd09::1"
# The peer's own addresses: one that the tests' rules allow, and one that none does.
ALLOWED4, ALLOWED6 = "10.9.0.2", "fd09::2"
DENIED4, DENIED6 = "10.9.0.3", "fd09::3"
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD  # uapi/linux/if_ether.h
ICMPV6 = 58
REPORTS = "ff02::16"  # of multicast groups, the kernel's own
NEIGHBOURS = range(133, 138)  # types of ICMPv6 that find neighbours


@dataclass(frozen=True)
class Frame:
    """An IP packet that arrived: where it was sent to, and all its bytes."""

    source: str
    destination: str
    packet: bytes


def _unshare() -> None:
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")


def _enter(namespace: int) -> None:
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


class Network:
    """A context: within it, this thread and its children are in the sessions' network."""

    def __enter__(self) -> Network:
        self._before = os.open("/proc/self/ns/net", os.O_RDONLY)
        _unshare()
        self._peer = os.open("/proc/self/ns/net", os.O_RDONLY)
        _unshare()
        self._here = os.open("/proc/self/ns/net", os.O_RDONLY)
        ip("link set lo up")
        peer = f"/proc/{os.getpid()}/fd/{self._peer}"
        ip(f"link add out0 type veth peer name in0 netns {peer}")
        for address in (f"{HERE4}/24", f"{HERE6}/64 nodad"):
            ip(f"addr add {address} dev out0")
        ip("link set out0 up")
        with self.peer():
            ip("link set lo up")
            for address in (ALLOWED4, DENIED4):
                ip(f"addr add {address}/24 dev in0")
            for address in (ALLOWED6, DENIED6):
                ip(f"addr add {address}/64 dev in0 nodad")
            ip("link set in0 up")
            self._tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self._tap.bind(("in0", 0))
        return self

    def __exit__(self, *_error: object) -> None:
        self._tap.close()
        _enter(self._before)
        for namespace in (self._before, self._here, self._peer):
            os.close(namespace)

    @contextmanager
    def peer(self) -> Iterator[None]:
        """For the length of it, this thread is at the peer; sockets made in it stay there."""
        _enter(self._peer)
        try:
            yield
        finally:
            _enter(self._here)

    def server(self, address: str, port: int, kind: int = socket.SOCK_STREAM, protocol: int = 0,
               *, here: bool = False) -> socket.socket:  # fmt: skip
        """A socket bound at the peer, or `here` outside of all sessions; a stream listens."""
        if here:
            return _server(address, port, kind, protocol)
        with self.peer():
            return _server(address, port, kind, protocol)

    def arrived(self, seconds: float = 0.15) -> list[Frame]:
        """The IP packets that came to the peer since the last call, those for finding it aside."""
        frames: list[Frame] = []
        deadline = time.monotonic() + seconds
        while select.select([self._tap], [], [], max(deadline - time.monotonic(), 0))[0]:
            data, sender = self._tap.recvfrom(1 << 16)
            if sender[2] == socket.PACKET_OUTGOING:
                continue
            frame = _frame(sender[1], data[14:])
            if frame:
                frames.append(frame)
        return frames


def _server(address: str, port: int, kind: int, protocol: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.settimeout(2)
    if kind == socket.SOCK_STREAM:
        made.listen(64)
    return made


def _frame(kind: int, packet: bytes) -> Frame | None:
    if kind == ETH_P_IP:
        source, destination = struct.unpack_from("4s4s", packet, 12)
        names = [socket.inet_ntop(socket.AF_INET, each) for each in (source, destination)]
        return Frame(names[0], names[1], packet)
    if kind == ETH_P_IPV6:
        if packet[6] == ICMPV6 and packet[40] in NEIGHBOURS:
            return None
        source, destination = struct.unpack_from("16s16s", packet, 8)
        names = [socket.inet_ntop(socket.AF_INET6, each) for each in (source, destination)]
        if names[1] == REPORTS:
            return None
        return Frame(names[0], names[1], packet)
    return None

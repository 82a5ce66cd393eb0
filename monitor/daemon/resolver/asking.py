# SPDX-License-Identifier: Apache-2.0
"""Asking upstream: over UDP from a port of its own for each question, over TCP where it must be.

An answer counts when it comes from the server that was asked, to the port that asked, with the
number, the name in the very letters (each upper or lower case by chance) and the type that were
asked. Anything else is waited past, up to a number that says somebody is guessing.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from monitor.daemon.resolver.upstreams import Upstream
from monitor.resolver import answers
from monitor.resolver.answers import Answer, Asked, Lifetimes, Unusable
from monitor.resolver.wire import write_query

_EDNS_ROOM = 1232  # what no network fragments (DNS flag day 2020)
_LARGEST = 65535
MOST_FOREIGN = 32  # messages that are no answer, before TCP is used
LONGEST_FOLLOWING = 8  # questions more for a chain of aliases that the server left open


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for one server's answer, and for all of them together. `rounds` over all servers."""

    one: float = 1.5
    all: float = 4.5
    rounds: int = 2


class Asker:
    """Asks `upstreams`, in order, until one of them answers."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        lifetimes: Lifetimes | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.upstreams = tuple(upstreams)
        self.lifetimes = lifetimes or Lifetimes()
        self.patience = patience or Patience()
        self.foreign = 0  # messages that answered nothing that was asked
        self._random = random.SystemRandom()
        self._own_letters: set[Upstream] = set()  # as the question's letters were not kept

    async def ask(self, labels: tuple[bytes, ...], kind: int) -> Answer | None:
        """What upstream says, chains of aliases followed to their end; None: nothing usable."""
        try:
            async with asyncio.timeout(self.patience.all):
                return await self._whole(labels, kind)
        except TimeoutError:
            return None

    async def _whole(self, labels: tuple[bytes, ...], kind: int) -> Answer | None:
        answer = await self._of_any(labels, kind)
        for _more in range(LONGEST_FOLLOWING):
            if answer is None or answer.follow is None:
                return answer
            rest = await self._of_any(answer.follow, kind)
            if rest is None:
                return None
            answer = answers.continued(answer, rest)
        return answer if answer is not None and answer.follow is None else None

    async def _of_any(self, labels: tuple[bytes, ...], kind: int) -> Answer | None:
        for _round in range(self.patience.rounds):
            for upstream in self.upstreams:
                found = await self._of_one(upstream, labels, kind)
                if isinstance(found, Answer):
                    return found
        return None

    async def _of_one(
        self, upstream: Upstream, labels: tuple[bytes, ...], kind: int
    ) -> Answer | Unusable:
        try:
            async with asyncio.timeout(self.patience.one):
                return await self._patiently(upstream, labels, kind)
        except (OSError, EOFError, TimeoutError):
            return Unusable.FAILED

    async def _patiently(
        self, upstream: Upstream, labels: tuple[bytes, ...], kind: int
    ) -> Answer | Unusable:
        room: int | None = _EDNS_ROOM
        exact = upstream not in self._own_letters
        found = await self._over_udp(upstream, self._asked(labels, kind), room, exact)
        if found is Unusable.PLAIN:
            room = None
            found = await self._over_udp(upstream, self._asked(labels, kind), room, exact)
        if found not in {Unusable.TRUNCATED, Unusable.CASE, Unusable.FOREIGN}:
            return found
        # A server that writes names in letters of its own and has no TCP is believed without.
        letters = found is Unusable.CASE
        if letters:
            self._own_letters.add(upstream)
        asked = Asked(secrets.randbits(16), labels, kind)
        answer = await _over_tcp(upstream, asked, room, self.lifetimes)
        if letters:
            self._own_letters.discard(upstream)
        return answer

    def _asked(self, labels: tuple[bytes, ...], kind: int) -> Asked:
        return Asked(secrets.randbits(16), tuple(map(self._mixed_case, labels)), kind)

    def _mixed_case(self, label: bytes) -> bytes:
        """Each letter in upper or lower case by chance: what somebody off the path cannot know."""
        bits = self._random.getrandbits(len(label))
        return bytes(
            byte ^ 0x20 if 0x61 <= byte <= 0x7A and bits >> at & 1 else byte
            for at, byte in enumerate(label)
        )

    async def _over_udp(
        self, upstream: Upstream, asked: Asked, room: int | None, exact: bool
    ) -> Answer | Unusable:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in upstream.address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect(upstream.target)  # only what this server sends is received
            sock.send(write_query(asked.identity, asked.labels, asked.kind, room))
            for _other in range(MOST_FOREIGN):
                data = await loop.sock_recv(sock, _LARGEST)
                found = answers.read(data, asked, self.lifetimes, exact)
                if found is not Unusable.FOREIGN:
                    return found
                self.foreign += 1
        return Unusable.FOREIGN


async def _over_tcp(
    upstream: Upstream, asked: Asked, room: int | None, lifetimes: Lifetimes
) -> Answer | Unusable:
    reader, writer = await asyncio.open_connection(*upstream.target)
    try:
        query = write_query(asked.identity, asked.labels, asked.kind, room)
        writer.write(len(query).to_bytes(2, "big") + query)
        await writer.drain()
        size = int.from_bytes(await reader.readexactly(2), "big")
        return answers.read(await reader.readexactly(size), asked, lifetimes, exact=False)
    finally:
        writer.close()

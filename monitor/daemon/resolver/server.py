# SPDX-License-Identifier: Apache-2.0
"""Serving questions on sockets that are there already: datagrams, and connections.

What a session can hold of it is bounded, so that one session cannot take it from the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from monitor.daemon.resolver.resolver import Hooks, Peer, Resolver
from monitor.resolver.limits import Repeats

_LARGEST = 65535
_AT_ONCE = 64  # datagrams read before others have their turn
MOST_WORKING = 4096  # datagrams that are worked on; more are dropped, and asked again
MOST_CONNECTIONS = 32  # of one session
IDLE_SECONDS = 10.0


class Server:
    """Reads questions from `sockets` and sends what `resolver` replies."""

    def __init__(self, resolver: Resolver, hooks: Hooks, sockets: Iterable[socket.socket]) -> None:
        self._resolver = resolver
        self._hooks = hooks
        self._sockets = tuple(sockets)
        self._servers: list[asyncio.Server] = []
        self._working: set[asyncio.Task[None]] = set()
        self._connections: Counter[str] = Counter()
        self._faults = Repeats()
        self.dropped = 0  # datagrams and connections that were too many

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            sock.setblocking(False)
            if sock.type == socket.SOCK_DGRAM:
                loop.add_reader(sock, self._drain, sock)
            else:
                self._servers.append(await asyncio.start_server(self._serve, sock=sock))

    async def stop(self) -> None:
        """Serve nothing any more. What waits in the sockets stays for who holds them as well."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            if sock.type == socket.SOCK_DGRAM:
                loop.remove_reader(sock)
        for server in self._servers:
            server.close()
        working = tuple(self._working)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    def _drain(self, sock: socket.socket) -> None:
        for _datagram in range(_AT_ONCE):
            try:
                data, address = sock.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error of an earlier reply
            peer = Peer(socket.IPPROTO_UDP, address[0], address[1])
            self._work(self._datagram, sock, data, address, peer)

    def _work(self, serve: Callable[..., Awaitable[None]], *arguments: object) -> None:
        if len(self._working) >= MOST_WORKING:
            self.dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._guarded(serve(*arguments)))
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _datagram(
        self, sock: socket.socket, data: bytes, address: Sequence[object], peer: Peer
    ) -> None:
        reply = await self._resolver.answer(data, peer, datagram=True)
        if reply is not None:
            with contextlib.suppress(OSError):  # whoever asked is gone, or its buffer is full
                sock.sendto(reply, tuple(address))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("peername")
        peer = Peer(socket.IPPROTO_TCP, address[0], address[1]) if address else None
        session = self._hooks.who(peer) if peer is not None else None
        task = asyncio.current_task()
        if task is not None:
            self._working.add(task)
        try:
            if peer is not None and session is not None:
                await self._guarded(self._connection(reader, writer, peer, session))
        finally:
            if task is not None:
                self._working.discard(task)
            writer.close()

    async def _connection(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: Peer,
        session: str,
    ) -> None:
        if self._connections[session] >= MOST_CONNECTIONS:
            self.dropped += 1
            return
        self._connections[session] += 1
        try:
            while True:
                async with asyncio.timeout(IDLE_SECONDS):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    data = await reader.readexactly(size)
                reply = await self._resolver.answer(data, peer, datagram=False)
                if reply is None:
                    return
                writer.write(len(reply).to_bytes(2, "big") + reply)
                async with asyncio.timeout(IDLE_SECONDS):
                    await writer.drain()
        except (OSError, EOFError, TimeoutError):
            return
        finally:
            self._connections[session] -= 1
            if not self._connections[session]:
                del self._connections[session]

    async def _guarded(self, work: Awaitable[None]) -> None:
        """One question that cannot be served ends no service, and many do not fill the journal."""
        try:
            await work
        except Exception as error:
            times = self._faults.times(type(error), time.monotonic())
            if times:
                said = traceback.format_exc()
                print(f"resolver: {times} times: {said}", file=sys.stderr, flush=True)

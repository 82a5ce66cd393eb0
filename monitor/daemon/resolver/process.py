# SPDX-License-Identifier: Apache-2.0
"""The resolver as a process of its own, so that nothing else of the daemon delays an answer.

Started with its sockets, the kernel's map of flows and a channel to the daemon, as descriptors.
It ends with the channel. Killed, it leaves questions waiting in the sockets, which the daemon
keeps, for the next one; nothing that was not allowed before becomes so.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from monitor.daemon.resolver import channel
from monitor.daemon.resolver.asking import Asker
from monitor.daemon.resolver.flows import Flows
from monitor.daemon.resolver.resolver import Peer, Resolution, Resolver, Settings
from monitor.daemon.resolver.server import Server
from monitor.daemon.resolver.upstreams import parse_upstream, read_resolv_conf
from monitor.kernel.libc import LIBC, dies_with_parent
from monitor.resolver.decision import Admission
from monitor.resolver.wire import NXDOMAIN, REFUSED

UNLISTED = {"nxdomain": NXDOMAIN, "refused": REFUSED}
ALLOW_SECONDS = 3.0  # for the daemon's word that the addresses are allowed
RESOLV_CONF_SECONDS = 2.0
_MOST_UNSENT = 20_000  # records that wait while the daemon does not read; more are counted
_PR_SET_NO_NEW_PRIVS = 38


class Daemon:
    """The daemon at the other end of the channel: what the resolver knows of its surroundings."""

    def __init__(self, sock: socket.socket, flows: Flows) -> None:
        self._sock = sock
        self._flows = flows
        self._sessions: dict[int, str] = {}  # by cgroup
        self._cgroups: dict[str, int] = {}
        self._answers: dict[int, asyncio.Future[str | None]] = {}
        self._number = 0
        self._unsent: deque[bytes] = deque()
        self._lost = 0
        self.told = asyncio.Event()  # of every session there is
        self.ended = asyncio.Event()

    # -- what the resolver asks for ----------------------------------------------------------------

    def who(self, peer: Peer) -> str | None:
        cgroup = self._flows.cgroup(peer)
        return None if cgroup is None else self._sessions.get(cgroup)

    async def allow(self, session: str, admissions: Sequence[Admission]) -> None:
        self._number += 1
        number = self._number
        answer = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            message = channel.allow_message(number, session, admissions)
            self._send(channel.encode(message), first=True)
            async with asyncio.timeout(ALLOW_SECONDS):
                error = await answer
        finally:
            del self._answers[number]
        if error is not None:
            raise OSError(error)

    def record(self, resolution: Resolution) -> None:
        if len(self._unsent) >= _MOST_UNSENT:
            self._lost += 1
            return
        self._send(channel.encode(channel.record_message(resolution, self._lost)))
        self._lost = 0

    def _send(self, data: bytes, first: bool = False) -> None:
        """Send; where the daemon does not read, keep it, `first` before what waits already."""
        waiting = bool(self._unsent)
        if first:
            self._unsent.appendleft(data)
        else:
            self._unsent.append(data)
        if not waiting and not self._flush():
            asyncio.get_running_loop().add_writer(self._sock, self._flushed)

    def _flush(self) -> bool:
        """True when nothing waits any more."""
        try:
            while self._unsent:
                self._sock.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            return False
        except OSError:
            self._unsent.clear()
            self.ended.set()
        return True

    def _flushed(self) -> None:
        if self._flush():
            asyncio.get_running_loop().remove_writer(self._sock)

    # -- what the daemon says ----------------------------------------------------------------------

    def listen(self, resolver: Resolver) -> None:
        """Take what the daemon says from now on."""
        channel.prepare(self._sock)
        self._sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self._sock, self._read, resolver)

    def _read(self, resolver: Resolver) -> None:
        while True:
            try:
                data = self._sock.recv(channel.LARGEST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                asyncio.get_running_loop().remove_reader(self._sock)
                self.ended.set()
                return
            try:
                self._obey(channel.decode(data), resolver)
            except (ValueError, TypeError, KeyError) as error:
                # Half of what the daemon meant may be in force: the next process is told it all.
                print(f"resolver: cannot obey {data[:200]!a}: {error!r}", file=sys.stderr)
                asyncio.get_running_loop().remove_reader(self._sock)
                self.ended.set()
                return

    def _obey(self, message: dict[str, Any], resolver: Resolver) -> None:
        does: dict[str, Callable[[dict[str, Any], Resolver], None]] = {
            "session": self._session,
            "end": self._end,
            "answer": self._answer,
            "start": self._start,
        }
        does[message["do"]](message, resolver)

    def _session(self, message: dict[str, Any], resolver: Resolver) -> None:
        session, cgroup = message["session"], int(message["cgroup"])
        links = [[channel.rule_from_json(rule) for rule in rules] for rules in message["links"]]
        resolver.govern(session, links)
        self._sessions.pop(self._cgroups.get(session, 0), None)
        self._sessions[cgroup] = session
        self._cgroups[session] = cgroup

    def _end(self, message: dict[str, Any], resolver: Resolver) -> None:
        resolver.release(message["session"])
        self._sessions.pop(self._cgroups.pop(message["session"], 0), None)

    def _start(self, _message: dict[str, Any], _resolver: Resolver) -> None:
        self.told.set()

    def _answer(self, message: dict[str, Any], _resolver: Resolver) -> None:
        answer = self._answers.get(message["number"])
        if answer is not None and not answer.done():
            answer.set_result(message["error"])


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ri-resolver", description=__doc__)
    parser.add_argument("--control", type=int, required=True, metavar="FD")
    parser.add_argument("--flows", type=int, required=True, metavar="FD")
    parser.add_argument("--listen", type=int, nargs="+", required=True, metavar="FD")
    parser.add_argument("--upstream", nargs="*", default=[], metavar="ADDRESS[:PORT]")
    parser.add_argument("--unlisted", choices=UNLISTED, default="nxdomain")
    parser.add_argument("--own", nargs="*", type=ip_network, default=[], metavar="NETWORK")
    parser.add_argument("--user", type=_user, metavar="UID:GID")
    parser.add_argument("--resolv-conf", type=Path, default=Path("/etc/resolv.conf"))
    return parser.parse_args(arguments)


def _user(text: str) -> tuple[int, int]:
    uid, _colon, gid = text.partition(":")
    return int(uid), int(gid)


def _become(user: tuple[int, int]) -> None:
    """Give up what reading strangers' bytes does not need. The descriptors stay."""
    uid, gid = user
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


async def _follow(path: Path, asker: Asker, resolver: Resolver, upstreams: bool) -> None:
    """Take over what resolv.conf says whenever it changes; its servers only where none are set."""
    seen: object = ()
    while True:
        try:
            status = path.stat()
            now: object = (status.st_mtime_ns, status.st_ino, status.st_size)
        except OSError:
            now = None
        if now != seen:
            seen = now
            found = read_resolv_conf(path)
            resolver.settings = replace(resolver.settings, search=found.search)
            if upstreams:
                asker.upstreams = found.upstreams
        await asyncio.sleep(RESOLV_CONF_SECONDS)


async def _serve(options: argparse.Namespace) -> None:
    flows = Flows(options.flows)
    flows.cgroup(Peer(socket.IPPROTO_UDP, "127.0.0.1", 1))  # raises where the kernel will not say
    daemon = Daemon(socket.socket(fileno=options.control), flows)
    asker = Asker([parse_upstream(text) for text in options.upstream])
    settings = Settings(UNLISTED[options.unlisted], own=tuple(options.own))
    resolver = Resolver(daemon, asker, settings)
    server = Server(resolver, daemon, [socket.socket(fileno=fd) for fd in options.listen])
    following = asyncio.create_task(
        _follow(options.resolv_conf, asker, resolver, not options.upstream)
    )
    await asyncio.sleep(0)  # read once before the first question
    daemon.listen(resolver)
    serving = asyncio.create_task(_from_then_on(daemon, server))
    ended = asyncio.create_task(daemon.ended.wait())
    await asyncio.wait((ended, following), return_when=asyncio.FIRST_COMPLETED)
    serving.cancel()
    await server.stop()
    if following.done():
        following.result()  # it never ends but by a fault


async def _from_then_on(daemon: Daemon, server: Server) -> None:
    """Questions wait until every session is known, or they would be answered by nobody's rules."""
    await daemon.told.wait()
    await server.start()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    parent = os.getppid()
    try:
        if options.user is not None:
            _become(options.user)
        # After that: another user's process has none. With the parent it would serve nobody.
        dies_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            return 1
        asyncio.run(_serve(options))
    except (OSError, ValueError) as error:
        print(f"resolver: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

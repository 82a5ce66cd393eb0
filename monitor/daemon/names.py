# SPDX-License-Identifier: Apache-2.0
"""The worker's side of the resolver: starts it, tells it of sessions, allows what it finds out.

What a name comes to stands in the kernel before the answer is sent (`addresses`). The sockets that
questions arrive at are the keeper's as well: none is lost with the resolver or with the worker.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.daemon.addresses import Addresses
from monitor.daemon.packets.facts import Element
from monitor.daemon.probes.naming import Naming
from monitor.daemon.probes.tables import narrowing
from monitor.daemon.resolutions import Resolutions
from monitor.daemon.resolver import channel
from monitor.daemon.resolver.listening import listen
from monitor.kernel import sockdiag
from monitor.kernel.routes import own_networks
from monitor.policy.action import IPAddress
from monitor.policy.packets import Interval
from monitor.policy.plan import Plan, Policy
from monitor.resolver.addresses import Network
from monitor.resolver.hosts import parse_hosts
from monitor.resolver.ports import TCP, UDP
from monitor.session.registry import UnknownSession
from monitor.session.session import Session

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

# Under which the keeper has its sockets: datagrams and connections of each family.
SOCKETS = ("resolver.udp4", "resolver.tcp4", "resolver.udp6", "resolver.tcp6")
LOOPBACK4, LOOPBACK6 = "127.0.0.1", "::1"
HOSTS = Path("/etc/hosts")
HOSTS_SECONDS = 600.0  # then all of it is admitted again, long before it is over
OWN_SECONDS = 30.0
LOOK_SECONDS = 1.0  # how often one session's sockets are looked at, at most
AHEAD_SECONDS = 10.0  # how long before its end an address that is in use is renewed
STORE_SECONDS = 0.005
# One that dies at once again is started after a pause.
HEALTHY_SECONDS, LONGEST_PAUSE = 2.0, 2.0
NOBODY = "65534:65534"  # it reads strangers' bytes, and needs no rights


class Names:
    """One resolver, started again when it dies, and what all sessions may reach by name."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.problem = ""  # why no name can be looked up on this host
        self.started = 0  # how many resolvers there were
        self.resolutions = Resolutions(context)
        self._naming = Naming(context.config.instance)
        self._sessions: dict[str, Addresses] = {}
        self._by_cgroup: dict[int, Addresses] = {}
        self._sockets: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._since, self._pause = 0.0, 0.0
        self._stopping = False
        self._storing = False
        self._own: tuple[Network, ...] = ()
        self._hosts: dict[str, tuple[IPAddress, ...]] = {}
        self._hosts_read: tuple[int, int] = (0, 0)
        self._hosts_due, self._own_due = 0.0, 0.0
        self._tasks: set[asyncio.Future[None]] = set()

    # -- its life ------------------------------------------------------------------------------

    def adopt(self, kept: dict[str, int]) -> None:
        """Take over sockets and rows of a worker before, and start a resolver."""
        self._naming.open()
        self._look_around()
        live = [each for each in self.context.registry.live() if by_name(self._plan(each))]
        self._naming.remove_leftovers({session.cgroup_id for session in live})
        for session in live:
            self._introduce(session).restore()
        try:
            self._listen(kept)
        except OSError as error:
            self.problem = f"nothing can listen for questions on loopback: {error}"
            print(f"ri-monitord: names are not looked up: {error}", file=sys.stderr)
            return
        self.start()

    def _listen(self, kept: dict[str, int]) -> None:
        found = {name: kept.pop(name) for name in SOCKETS if name in kept}
        for names, address in ((SOCKETS[:2], LOOPBACK4), (SOCKETS[2:], LOOPBACK6)):
            if all(name in found for name in names):
                continue
            try:
                made = listen(address)
            except OSError:
                if address == LOOPBACK4:
                    raise
                continue  # a host without IPv6
            for name, sock in zip(names, made, strict=True):
                found[name] = sock.detach()
                self.context.kept.store(name, found[name])
        self._sockets = [found[name] for name in SOCKETS if name in found]
        port4, port6 = (_port(found[name]) if name in found else 0 for name in SOCKETS[::2])
        self._naming.listens(port4, port6)
        self.context.packets.resolver = tuple(
            Interval(address, address, protocol, port, port)
            for address, port in (
                (ip_address(LOOPBACK4), port4),
                (ip_address(LOOPBACK6), port6),
            )
            if port
            for protocol in (TCP, UDP)
        )

    def start(self) -> None:
        """Start a resolver and tell it of every session; questions wait until then."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.prepare(ours)
        config = self.context.config.resolver
        flows = self._naming.flows.fd
        command = [
            *(sys.executable, "-P", "-m", "monitor.daemon.resolver.process"),
            *("--control", str(theirs.fileno()), "--flows", str(flows)),
            *("--unlisted", config.unlisted, "--user", NOBODY),
            *("--listen", *map(str, self._sockets)),
            *("--own", *map(str, self._own)),
            *("--upstream", *config.upstream),
        ]
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno(), flows, *self._sockets],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self.started += 1
        self._since = time.monotonic()
        ours.setblocking(False)
        self._channel = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._readable)
        for addresses in self._sessions.values():
            self._tell_of(addresses)
        self._tell({"do": "start"})

    def stop(self) -> None:
        """The worker ends."""
        self._stopping = True
        self._close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.resolutions.store()

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    @property
    def count(self) -> int:
        """How many addresses are allowed by name now."""
        return self._naming.count()

    def _close(self) -> None:
        if self._channel is not None:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _gone(self) -> None:
        """It has died: questions wait in the sockets for the next, and rows stay."""
        self._close()
        if self._stopping:
            return
        if self._process is not None:
            self._process.kill()
            status = self._process.wait()
            print(f"ri-monitord: the resolver ended ({status}), starting it again", file=sys.stderr)
        if time.monotonic() - self._since > HEALTHY_SECONDS:
            self._pause = 0.0
        asyncio.get_running_loop().call_later(self._pause, self._again)
        self._pause = min(LONGEST_PAUSE, self._pause * 2 or 0.1)

    def _again(self) -> None:
        if not self._stopping:
            self.start()

    def _tell(self, message: dict[str, Any]) -> None:
        """Send it something; one that cannot take it is started anew, and told everything."""
        if self._channel is None:
            return
        try:
            self._channel.send(channel.encode(message))
        except OSError:
            self._gone()

    # -- sessions ------------------------------------------------------------------------------

    def begin(self, session: Session) -> None:
        """A session starts: its row is in force, and nothing of it runs yet."""
        if not by_name(self._plan(session)):
            return
        addresses = self._introduce(session)
        self._tell_of(addresses)
        self._admit_hosts(addresses)

    def changing(self, session: Session) -> None:
        """A session is about to go on under the plan that the registry has of it now."""
        known = self._sessions.get(session.id)
        if known is None and not by_name(self._plan(session)):
            return
        addresses = self._introduce(session)
        self._allowed(addresses, addresses.judge_again(self._own))
        self._tell_of(addresses)
        self._admit_hosts(addresses)

    def _introduce(self, session: Session) -> Addresses:
        addresses = self._sessions.get(session.id)
        if addresses is None:
            addresses = Addresses(session.id, session.cgroup_id, self._naming)
            self._sessions[session.id] = addresses
            self._by_cgroup[session.cgroup_id] = addresses
        addresses.govern(self._plan(session))
        return addresses

    def ended(self, identity: str) -> None:
        """The session is over, and its row is gone."""
        addresses = self._sessions.pop(identity, None)
        if addresses is None:
            return
        self._by_cgroup.pop(addresses.cgroup, None)
        self._naming.remove(addresses.cgroup)
        self._tell({"do": "end", "session": identity})

    def told(self, identity: str) -> None:
        """All of its questions are to be in the log: it ends."""
        self.resolutions.store(identity)

    def labelled(self, session: Session) -> None:
        """It has a label more, or less: what labels leave of the network leaves no name."""
        addresses = self._sessions.get(session.id)
        if addresses is not None:
            self._tell_of(addresses)
            self._spawn(self._cut(addresses))

    def _narrowed(self, addresses: Addresses) -> list[Policy]:
        """What its labels leave of the network, each that it has and that narrows it."""
        try:
            whole = self.context.registry.whole(self.context.registry.get(addresses.session))
        except UnknownSession:
            return []
        found = narrowing(whole.plan.policies, whole.labels)
        earned = self.context.tables.earned(found)
        return [policy for number, policy in found.items() if number in earned]

    def _plan(self, session: Session) -> Plan:
        return self.context.registry.whole(session).plan

    def _tell_of(self, addresses: Addresses) -> None:
        links: Sequence[Any] = addresses.links()
        if self._narrowed(addresses) and not addresses.observed:
            links = [*links, ()]
        self._tell(channel.session_message(addresses.session, addresses.cgroup, links))

    def elements(self, identity: str) -> list[Element]:
        """All that packets of a session are to be let pass for by name."""
        addresses = self._sessions.get(identity)
        return [] if addresses is None else addresses.elements()

    def name(self, cgroup: int, address: str) -> str:
        """What a session was told an address for; "": for nothing."""
        known = self._by_cgroup.get(cgroup)
        return "" if known is None else known.name(ip_address(address))

    # -- what it says --------------------------------------------------------------------------

    def _readable(self) -> None:
        while self._channel is not None:
            try:
                data = self._channel.recv(channel.LARGEST)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._gone()
                return
            try:
                self._take(channel.decode(data))
            except (ValueError, TypeError, LookupError, AttributeError) as error:
                print(f"ri-monitord: the resolver said {data[:200]!a}: {error!r}", file=sys.stderr)
                self._gone()
                return

    def _take(self, message: dict[str, Any]) -> None:
        addresses = self._sessions.get(message["session"] or "")
        if message["say"] == "allow":
            self._allow(message, addresses)
        else:
            self.resolutions.take(message, addresses)
            self._store_soon()

    def _allow(self, message: dict[str, Any], addresses: Addresses | None) -> None:
        if addresses is None:
            self._answer(message["number"], "the session is over")
            return
        try:
            elements = addresses.admit(channel.admissions(message), self._own)
        except (OSError, ValueError) as error:
            print(f"ri-monitord: session {addresses.session}: {error}", file=sys.stderr)
            self._answer(message["number"], str(error))
            return
        if not elements or self.context.packets.problem:
            self._answer(message["number"], None)
            return
        self._spawn(self._let_packets(addresses, elements, message["number"]))

    def _answer(self, number: int, error: str | None) -> None:
        self._tell({"do": "answer", "number": number, "error": error})

    async def _let_packets(
        self, addresses: Addresses, elements: Sequence[Element], number: int
    ) -> None:
        """The floor beneath knows of it before the answer is sent as well."""
        error: str | None = None
        try:
            await self.context.packets.allow(addresses.session, elements)
        except (OSError, ValueError, UnknownSession) as problem:
            error = f"packets to it cannot be let pass: {problem}"
            print(f"ri-monitord: session {addresses.session}: {error}", file=sys.stderr)
        self._answer(number, error)

    def _allowed(self, addresses: Addresses, elements: Sequence[Element]) -> None:
        """Nobody waits for these."""
        if elements and not self.context.packets.problem:
            self._spawn(self._let_packets(addresses, elements, -1))

    def _store_soon(self) -> None:
        if not self._storing:
            self._storing = True
            asyncio.get_running_loop().call_later(STORE_SECONDS, self._store)

    def _store(self) -> None:
        self._storing = False
        self.resolutions.store()

    # -- time ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Take away what is over, and see what the host itself knows of names."""
        self.resolutions.tick()
        if self._look_around():
            for addresses in self._sessions.values():
                self._admit_hosts(addresses)
        at = time.monotonic()
        for addresses in self._sessions.values():
            if at - addresses.looked > LOOK_SECONDS and addresses.ending(AHEAD_SECONDS):
                addresses.looked = at
                self._spawn(self._look(addresses))

    def _look_around(self) -> bool:
        """Read the host's own names and networks; whether its names are to be admitted anew."""
        at = time.monotonic()
        if at >= self._own_due:
            self._own_due = at + OWN_SECONDS
            self._own = (*map(ip_network, self.context.config.resolver.own), *own_networks())
        try:
            status = HOSTS.stat()
            now = status.st_mtime_ns, status.st_ino
        except OSError:
            now = (0, 0)
        if now == self._hosts_read and at < self._hosts_due:
            return False
        self._hosts_read, self._hosts_due = now, at + HOSTS_SECONDS
        try:
            self._hosts = parse_hosts(HOSTS.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            self._hosts = {}
        return True

    def _admit_hosts(self, addresses: Addresses) -> None:
        try:
            self._allowed(addresses, addresses.admit_hosts(self._hosts))
        except (OSError, ValueError) as error:
            print(f"ri-monitord: session {addresses.session}: {HOSTS}: {error}", file=sys.stderr)

    async def _look(self, addresses: Addresses) -> None:
        try:
            found = await asyncio.to_thread(sockdiag.sockets, addresses.cgroup)
        except OSError as error:
            print(f"ri-monitord: session {addresses.session}: {error}", file=sys.stderr)
            return
        if self._sessions.get(addresses.session) is addresses:
            self._allowed(addresses, addresses.expire(found, AHEAD_SECONDS))

    async def cut(self, session: Session) -> int:
        """Destroy what a change of plan or a label took away; how many sockets. OSError."""
        addresses = self._sessions.get(session.id)
        return 0 if addresses is None else await self._cut_once(addresses)

    async def _cut(self, addresses: Addresses) -> None:
        try:
            await self._cut_once(addresses)
        except OSError as error:
            print(f"ri-monitord: cannot cut session {addresses.session}: {error}", file=sys.stderr)

    async def _cut_once(self, addresses: Addresses) -> int:
        narrowed = self._narrowed(addresses)

        def destroy() -> int:
            found = sockdiag.sockets(addresses.cgroup)
            return sockdiag.destroy([each for each in found if addresses.lost(each, narrowed)])

        return await asyncio.to_thread(destroy)

    def _spawn(self, action: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def by_name(plan: Plan) -> bool:
    """Whether what a session under the plan asks name servers goes to the resolver."""
    return any(policy.names for policy in plan.policies)


def _port(fd: int) -> int:
    sock = socket.socket(fileno=os.dup(fd))
    try:
        return int(sock.getsockname()[1])
    finally:
        sock.close()

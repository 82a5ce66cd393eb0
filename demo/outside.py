# SPDX-License-Identifier: Apache-2.0
"""The world outside the session, which records what gets out: a host, a container engine, a peer.

Nothing here listens on an address that anyone else could reach: the host is a network namespace
of its own, joined to this one by a veth pair that goes away with it.
"""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import IPRoute, NetNS
from pyroute2.netlink.exceptions import NetlinkError

from demo.account import Account
from demo.failure import DemoError
from demo.scene import Network, Scene

_LINK = "ri-demo0"
_LINK_OUTSIDE = "ri-demo1"
_IFA_F_NODAD = 2  # uapi/linux/if_addr.h: usable at once


class Arrivals:
    """What came out, by channel: tcp4, tcp6, udp4, udp6, inbound, docker. Safe between threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._texts: list[tuple[str, str]] = []

    def add(self, channel: str, text: str) -> None:
        with self._changed:
            self._texts.append((channel, text))
            self._changed.notify_all()

    def has(self, channel: str, text: str, patience: float = 0.0) -> bool:
        """Whether `text` arrived on `channel`; waits for it up to `patience` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: any(name == channel and text in got for name, got in self._texts), patience
            )


def _join(pid: int, network: Network) -> None:
    """A veth pair from here into the network namespace of process `pid`."""
    with IPRoute() as here, NetNS(f"/proc/{pid}/ns/net") as inside:
        peer = {"ifname": _LINK_OUTSIDE, "net_ns_fd": f"/proc/{pid}/ns/net"}
        here.link("add", ifname=_LINK, kind="veth", peer=peer)
        for side, link, ipv4, ipv6 in (
            (here, _LINK, network.host_ipv4, network.host_ipv6),
            (inside, _LINK_OUTSIDE, network.outside_ipv4, network.outside_ipv6),
        ):
            (index,) = side.link_lookup(ifname=link)
            side.addr("add", index=index, address=ipv4, prefixlen=network.prefix_ipv4)
            side.addr(
                "add", index=index, address=ipv6, prefixlen=network.prefix_ipv6, flags=_IFA_F_NODAD
            )
            side.link("set", index=index, state="up")


def _part() -> None:
    """Take the pair away, if it is there."""
    with IPRoute() as here:
        for index in here.link_lookup(ifname=_LINK):
            here.link("del", index=index)


@contextmanager
def host(network: Network, arrivals: Arrivals) -> Iterator[None]:
    """The host outside the profile, recording into `arrivals` for as long as the context lasts."""
    recorder = Path(__file__).parent / "recorder.py"
    arguments = [str(network.port), network.host_ipv4, str(network.listen_port)]
    process = subprocess.Popen(
        ["unshare", "--net", "--", "/usr/bin/python3", "-I", str(recorder), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise DemoError("the recording host did not start: unshare --net failed")
        try:
            _join(process.pid, network)
        except NetlinkError as error:
            raise DemoError(f"cannot join the recording host to this one: {error}") from error
        threading.Thread(
            target=_read_arrivals, args=(process.stdout, arrivals), daemon=True
        ).start()
        yield
    finally:
        process.kill()
        process.wait()
        _part()


def _read_arrivals(lines: Iterator[str], arrivals: Arrivals) -> None:
    for line in lines:
        arrival = json.loads(line)
        arrivals.add(arrival["channel"], arrival["text"])


@contextmanager
def container_engine(scene: Scene, arrivals: Arrivals) -> Iterator[None]:
    """A stand-in for Docker's socket: records each request, and answers with a secret."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            arrivals.add("docker", self.rfile.readline().decode("utf-8", "replace"))
            self.wfile.write(f"HTTP/1.0 200 OK\r\n\r\n{scene.secrets.docker}\n".encode())

    path = scene.docker_socket
    path.parent.mkdir(mode=0o755, exist_ok=True)
    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        path.chmod(0o666)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            path.unlink(missing_ok=True)


@contextmanager
def neighbour(account: Account, secret: str) -> Iterator[None]:
    """Another process of the same user, with a secret in its environment."""
    process = account.start(
        ["sleep", "3600"], extra={"NEIGHBOUR_TOKEN": secret}, output=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def free_docker_socket() -> Path:
    """Docker's own path where no engine runs here; else one of the demo's beside it."""
    usual = Path("/run/docker.sock")
    return usual if not os.path.lexists(usual) else Path("/run/ri-demo-engine/docker.sock")

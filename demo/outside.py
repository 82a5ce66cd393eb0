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

from demo.account import Account
from demo.failure import DemoError
from demo.scene import Network, Scene

_LINK = "ri-demo0"
_LINK_OUTSIDE = "ri-demo1"


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


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"{' '.join(argv)}: {done.stderr.strip()}")


def _join(pid: int, network: Network) -> None:
    """A veth pair from here into the network namespace of process `pid`."""
    inside = ("nsenter", "--target", str(pid), "--net", "ip")
    _run(
        "ip", "link", "add", _LINK, "type", "veth", "peer", "name", _LINK_OUTSIDE, "netns", str(pid)
    )
    for command, link, ipv4, ipv6 in (
        (("ip",), _LINK, network.host_ipv4, network.host_ipv6),
        (inside, _LINK_OUTSIDE, network.outside_ipv4, network.outside_ipv6),
    ):
        _run(*command, "address", "add", f"{ipv4}/{network.prefix_ipv4}", "dev", link)
        _run(*command, "address", "add", f"{ipv6}/{network.prefix_ipv6}", "dev", link, "nodad")
        _run(*command, "link", "set", link, "up")


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
        _join(process.pid, network)
        threading.Thread(
            target=_read_arrivals, args=(process.stdout, arrivals), daemon=True
        ).start()
        yield
    finally:
        process.kill()
        process.wait()
        subprocess.run(["ip", "link", "delete", _LINK], capture_output=True, check=False)


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

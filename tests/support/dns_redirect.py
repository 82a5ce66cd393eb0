# SPDX-License-Identifier: Apache-2.0
"""The redirection of questions without a daemon: programs on a cgroup, a resolver in a thread."""

from __future__ import annotations

import asyncio
import importlib
import os
import secrets
import struct
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monitor.daemon.probes import loader
from monitor.daemon.probes.headers import write_stubs
from monitor.daemon.resolver.asking import Asker
from monitor.daemon.resolver.flows import Flows
from monitor.daemon.resolver.listening import listen
from monitor.daemon.resolver.resolver import Peer, Resolution, Resolver, Settings
from monitor.daemon.resolver.server import Server
from monitor.daemon.resolver.upstreams import Upstream
from monitor.kernel import bpf
from monitor.kernel.cgroup import Cgroup, unified_mount
from monitor.resolver.decision import Admission
from monitor.resolver.names import parse

# enum bpf_prog_type, enum bpf_attach_type
CGROUP_SKB, SOCK_ADDR = 8, 18
PROGRAMS = {
    "ri_alone_connect4": (SOCK_ADDR, 10),
    "ri_alone_connect6": (SOCK_ADDR, 11),
    "ri_alone_sendmsg4": (SOCK_ADDR, 14),
    "ri_alone_sendmsg6": (SOCK_ADDR, 15),
    "ri_recvmsg4": (SOCK_ADDR, 19),
    "ri_recvmsg6": (SOCK_ADDR, 20),
    "ri_getpeername4": (SOCK_ADDR, 29),
    "ri_getpeername6": (SOCK_ADDR, 30),
    "ri_alone_egress": (CGROUP_SKB, 1),
}


class Redirect:
    """A cgroup whose questions go to the resolver; cgroups under it are the sessions."""

    def __init__(self) -> None:
        self.root = Cgroup(unified_mount() / f"rit{secrets.token_hex(4)}")
        self.root.path.mkdir()
        self._module = _compile()
        target = os.open(self.root.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._links = [
                bpf.create_link(self._load(name, kind, at), target, at, name)
                for name, (kind, at) in PROGRAMS.items()
            ]
        finally:
            os.close(target)
        self.flows = Flows(self._module["flows"].map_fd)

    def _load(self, name: str, kind: int, attach_type: int) -> int:
        return int(self._module.load_func(name, kind, attach_type=attach_type).fd)

    def to(self, port4: int, port6: int) -> None:
        """Where the resolver listens; 0, 0: nothing is redirected."""
        value = struct.pack(">HH", port4, port6)
        ports = bpf.Map(self._module["resolver"].map_fd, 4, 4, "resolver")
        ports.update(bytes(4), value)

    def session(self) -> Cgroup:
        made = Cgroup(self.root.path / f"s{secrets.token_hex(3)}")
        made.path.mkdir()
        return made

    def clean(self) -> None:
        for link in self._links:
            os.close(link)
        (self.root.path / "cgroup.kill").write_text("1")
        end = time.monotonic() + 10
        while "populated 1" in (self.root.path / "cgroup.events").read_text():
            assert time.monotonic() < end
            time.sleep(0.01)
        for folder in [path for path in self.root.path.iterdir() if path.is_dir()]:
            folder.rmdir()
        self.root.path.rmdir()
        self._module.cleanup()


def _compile() -> Any:
    text = "#define RI_NAMES_ALONE\n" + (loader.PROBES / "names.bpf.c").read_text()
    bcc = importlib.import_module("bcc")
    with tempfile.TemporaryDirectory() as stubs:
        write_stubs(Path(stubs))
        os.environ["BCC_KERNEL_SOURCE"] = stubs
        try:
            return bcc.BPF(text=text, cflags=["-Wno-everything"])
        finally:
            del os.environ["BCC_KERNEL_SOURCE"]


class Running:
    """A resolver that listens on loopback, in a thread; it is its own surroundings."""

    def __init__(
        self, redirect: Redirect, upstreams: Sequence[Upstream], settings: Settings | None = None
    ) -> None:
        self._redirect = redirect
        self._cgroups: dict[int, str] = {}
        self.allowed: list[tuple[str, Admission]] = []
        self.recorded: list[Resolution] = []
        self.resolver = Resolver(self, Asker(upstreams), settings)
        self._sockets = [*listen("127.0.0.1"), *listen("::1")]
        self.port4 = self._sockets[0].getsockname()[1]
        self.port6 = self._sockets[2].getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._server = Server(self.resolver, self, self._sockets)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(5)
        redirect.to(self.port4, self.port6)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def who(self, peer: Peer) -> str | None:
        cgroup = self._redirect.flows.cgroup(peer)
        return None if cgroup is None else self._cgroups.get(cgroup)

    async def allow(self, session: str, admissions: Sequence[Admission]) -> None:
        self.allowed += ((session, each) for each in admissions)

    def record(self, resolution: Resolution) -> None:
        self.recorded.append(resolution)

    def govern(self, cgroup: Cgroup, session: str, *rules: str) -> None:
        self._cgroups[cgroup.id] = session
        links = [[parse(rule) for rule in rules]]
        self._loop.call_soon_threadsafe(self.resolver.govern, session, links)

    def close(self) -> None:
        self._redirect.to(0, 0)
        asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        for sock in self._sockets:
            sock.close()

# SPDX-License-Identifier: Apache-2.0
"""A session's opens without a daemon: a cgroup, a gate's loop in a thread, and a real watcher."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monitor.daemon.gate.channel import Channel
from monitor.daemon.gate.desk import Desk
from monitor.daemon.gate.loop import Loop
from monitor.daemon.gate.opens import Opens, OpensFacts
from monitor.daemon.view import viewing
from monitor.daemon.view.request import WatchRequest
from monitor.kernel import fanotify
from monitor.kernel.cgroup import unified_mount
from monitor.policy.opens import OpenKind, OpenRule
from monitor.policy.plan import MaskKind
from monitor.wire.opens import OpensMemory


class Scene:
    """One session `s`, whose worker is the test: `messages` has what the gate says to it."""

    def __init__(self, folder: Path, rules: Sequence[OpenRule]) -> None:
        self.folder = folder
        self.rules = tuple(rules)
        self.cgroup = unified_mount() / f"rit{secrets.token_hex(4)}"
        self.cgroup.mkdir()
        self.group = fanotify.permission_group()
        self.names = fanotify.name_group()
        self.memory = os.memfd_create("opens")
        OpensMemory(self.memory).prepare()
        self.watcher, self._watched = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.earned: list[tuple[float, int]] = []
        self.gates: list[InThread] = []
        self.stale: list[int] = []

    def facts(self) -> OpensFacts:
        return OpensFacts("s", f"/{self.cgroup.name}", self.rules)

    def start_gate(self) -> InThread:
        made = InThread(self)
        self.gates.append(made)
        return made

    def watch(self, masks: Sequence[tuple[str, MaskKind]] = ()) -> viewing.Watched:
        request = WatchRequest(
            rules=(((str(self.folder), True),),),
            masks=tuple(masks),
            opens=tuple((rule.pattern, rule.kind is OpenKind.DENY) for rule in self.rules),
            masking=False,
            mask_limit=100,
        )
        namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
        try:
            return asyncio.run(
                viewing.watch(
                    namespace,
                    request,
                    self._watched.fileno(),
                    self.group,
                    self.names,
                    self.memory,
                )
            )
        finally:
            os.close(namespace)
            self._watched.close()

    def inside(self, command: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        """Start a command in the session's cgroup."""
        procs = str(self.cgroup / "cgroup.procs")
        script = f'echo 0 > {procs} && exec "$@"'
        return subprocess.Popen(
            ["/bin/sh", "-c", script, "sh", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        process = self.inside(command)
        output, errors = process.communicate(timeout=30)
        return process.returncode, output + errors

    def close(self) -> None:
        (self.cgroup / "cgroup.kill").write_text("1")
        self.watcher.close()
        viewing.finish()
        for gate in self.gates:
            gate.stop()
        for fd in (self.group, self.names, self.memory):
            os.close(fd)
        deadline = time.monotonic() + 10
        while "populated 1" in (self.cgroup / "cgroup.events").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.cgroup.rmdir()


class InThread:
    """A gate's loop for one scene, in a thread of the test."""

    def __init__(self, scene: Scene) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel = Channel(mine, lambda _blocked: None)
        self.desk = Desk(Channel(its, lambda _blocked: None))
        self.loop = Loop()
        self.asks: list[dict[str, Any]] = []
        self.said: list[dict[str, Any]] = []
        self._scene = scene
        self._wake, self._woken = socket.socketpair()
        self._todo: list[Any] = []
        group, memory = os.dup(scene.group), os.dup(scene.memory)
        for fd in scene.stale:
            os.close(fd)
        scene.stale.clear()
        # As the gate's process has them from the worker.
        facts = OpensFacts.from_json(json.loads(json.dumps(scene.facts().to_json())))
        self.opens = Opens(facts, group, memory, self.desk, self._earn)
        self.opens.resume()
        self.loop.add(self.opens)
        self.loop.add(self)
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def _earn(self, label: int) -> None:
        self._scene.earned.append((time.monotonic(), label))

    # A source of the loop: what the test wants done in its thread.
    def fileno(self) -> int:
        return self._woken.fileno()

    def ready(self) -> None:
        self._woken.recv(64)
        while self._todo:
            self._todo.pop(0)()

    def do(self, action: Any) -> None:
        self._todo.append(action)
        self._wake.send(b".")

    def heard(self) -> list[dict[str, Any]]:
        """All that the gate has said so far."""
        while (message := self.channel.receive()) is not None:
            self.said.append(message[0])
        return self.said

    def waits_for_ask(self, count: int = 1, seconds: float = 5) -> list[dict[str, Any]]:
        deadline = time.monotonic() + seconds
        while True:
            asks = [each for each in self.heard() if each["say"] == "ask"]
            if len(asks) >= count:
                return asks
            assert time.monotonic() < deadline, f"{len(asks)} asks: {self.said}"
            time.sleep(0.005)

    def answer(self, ask: dict[str, Any], allow: bool) -> None:
        message = {
            "do": "answer",
            "number": ask["number"],
            "index": ask["index"],
            "allow": allow,
            "reason": "the test",
        }
        self.do(lambda: self.desk.take_answer(message))

    def stop(self) -> None:
        """As a gate that is told to stop; what waits is refused."""
        self.do(lambda: self.loop.remove(self.opens))
        self.do(self.opens.close)
        self.do(self.loop.stop)
        self._end()

    def _end(self) -> None:
        self._thread.join(5)
        self.heard()
        for each in (self.channel, self.desk.channel, self._wake, self._woken):
            each.close()

    def die(self) -> None:
        """As one that is killed: nothing is answered, its descriptors are gone."""
        opens = self.opens
        self.do(lambda: self.loop.remove(opens))
        self.do(self.loop.stop)
        self._end()
        for waiting in opens._waiting.values():  # noqa: SLF001 - what no program does to itself
            # The next one is in this process as well: until then nothing else gets its number.
            self._scene.stale.append(waiting.opened.fd)
            os.close(waiting.opened.pidfd)
        opens._poll.close()  # noqa: SLF001
        self._scene.gates.remove(self)

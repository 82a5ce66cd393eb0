# SPDX-License-Identifier: Apache-2.0
"""The worker: sessions, records, API. The keeper starts it, and starts the next when it dies.

`python -P -m monitor.daemon.worker CONFIG_JSON`. Exit status: 0 it was told to stop; 1 this host
lacks what is needed, or a file cannot be used (standard error says which); 3 the keeper is gone.

Told to stop, it ends every session first: with the daemon goes the keeper and with that their
lifelines, so nobody would watch over them, and what they did would stay unrecorded. Killed, it
leaves them running and confined; the next worker finds them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sqlite3
import sys
import time
import traceback
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from monitor import __version__
from monitor.daemon import adoption, facts
from monitor.daemon.config import Config
from monitor.daemon.context import Context
from monitor.daemon.kept import API_LISTENER, LAUNCH_LISTENER, Kept
from monitor.daemon.probes import pins
from monitor.daemon.probes.tables import KernelTables
from monitor.kernel import features, libc
from monitor.policy.action import Verb
from monitor.session.registry import Registry
from monitor.session.session import Session

if TYPE_CHECKING:  # imported when all is open, because each takes its time
    from monitor.daemon.api.log import Log
    from monitor.daemon.api.server import Api
    from monitor.daemon.probes.ring import RingReader

REGISTRY = "state.db"
AUDIT = "audit.db"
# How exact a gap in the log is dated, and how late after its expiry a session is ended.
TICK_SECONDS = 0.25
# The keeper kills after five.
STOP_SECONDS = 4.0
KEEPER_GONE = 3


class CannotStart(Exception):
    """What the daemon needs is not there; one line for each thing, with what to do about it."""


class Worker:
    """One worker, from opening everything to the end."""

    def __init__(self, config: Config, kept: Kept) -> None:
        self.config = config
        self.kept = kept
        self._stop = asyncio.Event()
        self._said = ""
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Open everything that lies on disk and in the kernel. CannotStart."""
        from monitor.audit.store import Store, StoreError
        from monitor.daemon.asks.asks import Asks
        from monitor.daemon.budgets import Budgets
        from monitor.daemon.gates import Gates
        from monitor.daemon.labels import Labels
        from monitor.daemon.names import Names
        from monitor.daemon.packet_floor import PacketFloor
        from monitor.daemon.recording import Recording
        from monitor.daemon.sessions import Sessions

        config = self.config
        try:
            found = features.probe(pins.unix_hooks(config.instance))
        except FileNotFoundError as error:
            raise CannotStart(error.strerror) from error
        lacking = features.problems(found)
        if lacking:
            raise CannotStart("\n".join(lacking))
        tables = KernelTables(config.instance)
        try:
            tables.open()
            registry = Registry(config.state / REGISTRY)
            store = Store(config.state / AUDIT)
        except sqlite3.Error as error:
            raise CannotStart(f"cannot use {config.state / REGISTRY}: {error}") from error
        except (OSError, StoreError) as error:
            raise CannotStart(str(error)) from error
        host = facts.host_features(found)
        self.context = Context(config, found, host, self.kept, tables, registry)
        self.context.sessions = Sessions(self.context)
        self.context.recording = Recording(self.context, store)
        self.context.labels = Labels(self.context)
        self.context.budgets = Budgets(self.context)
        self.context.gates = Gates(self.context)
        self.context.names = Names(self.context)
        self.context.packets = PacketFloor(self.context)
        try:
            self.context.asks = Asks(self.context)
        except sqlite3.Error as error:
            raise CannotStart(f"cannot use {config.state / REGISTRY}: {error}") from error

    async def run(self, kept: dict[str, int]) -> int:
        """Adopt, serve, and at the end stop; the exit status. `kept` is what the keeper holds."""
        from monitor.daemon.api.log import Log
        from monitor.daemon.api.server import Api
        from monitor.daemon.launch.listener import Launching

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_reader(self.kept.fileno(), self._keeper_gone)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the keeper tells
        packets = asyncio.create_task(self.context.packets.start())
        before = self.context.recording.store.last()
        self._record_start()
        listeners = {
            name: socket.socket(fileno=kept.pop(name)) for name in (API_LISTENER, LAUNCH_LISTENER)
        }
        adopted = adoption.adopt(self.context, kept)
        self.context.opens.adopt(kept)
        self.context.labels.adopt()
        self.context.gates.adopt(kept)
        self.context.gates.start()
        self.context.names.adopt(kept)
        self._spawn(self.context.sessions.revocation.resume())
        self._spawn(self.context.sessions.reload.resume())
        launcher = Launching(self.context)
        await packets
        await self.context.packets.adopt()
        for session, why in adopted.ending:
            self.context.sessions.end_soon(session, why)
        for session, lifeline in adopted.running:
            self.context.sessions.notices.attach(session.id, lifeline)
            self._spawn(launcher.adopt(session, lifeline))
        log = Log(self.config.state / AUDIT)
        api = Api(self.context, log)
        await api.serve(listeners[API_LISTENER])
        self._spawn(launcher.serve(listeners[LAUNCH_LISTENER]))
        self._tick()
        self.kept.ready()
        self._spawn(self._read())
        self._spawn(self._ticking())
        self._spawn(self._clear(log, [session for session, _lifeline in adopted.running], before))
        await self._stop.wait()
        await self._end(api, log)
        return 0

    async def _read(self) -> None:
        reader = await asyncio.to_thread(_reader, self.config.instance)
        reader.open()
        await self.context.recording.run(reader)

    def _record_start(self) -> None:
        recording = self.context.recording
        # Absent: the last worker was told to stop, and nothing ran since.
        with contextlib.suppress(FileNotFoundError):
            since = self.config.alive.stat().st_mtime
            gap = {"from": since, "to": time.time()}
            reason = "no daemon was reading in between: the kernel enforced, and kept what it could"
            recording.daemon_record(None, Verb.DAEMON_GAP, "daemon", gap, reason=reason)
        details = {"pid": os.getpid(), "kernel": facts.host_facts().kernel}
        recording.daemon_record(None, Verb.DAEMON_START, __version__, details, pid=os.getpid())

    async def _clear(self, log: Log, adopted: list[Session], last: int) -> None:
        """What can wait until all is served: leftovers, figures, imports for the first session.

        `last` is the last record of the worker before.
        """
        from monitor.audit.store import StoreError

        try:
            await self._clear_leftovers(log, adopted, last)
        except (OSError, sqlite3.Error, StoreError) as error:
            print(f"ri-monitord: leftovers stay for now: {error}", file=sys.stderr)
        await self.context.packets.verify()
        await asyncio.to_thread(_warm_up)
        # What is loaded stays: the collector need not look through it again and again.
        gc.collect()
        gc.freeze()
        libc.give_memory_back()
        admission = self.context.sessions.admission
        admission.reload()
        if admission.problem:
            print(f"ri-monitord: {admission.problem}", file=sys.stderr)

    async def _clear_leftovers(self, log: Log, adopted: list[Session], last: int) -> None:
        adoption.remove_rows(self.context)
        for cgroup in adoption.strangers(self.context):
            await adoption.remove_cgroup(cgroup)
        self.context.registry.prune()
        self.context.asks.docket.prune()
        for session in adopted:
            counts = await log.counts(session.id, last)
            if self.context.registry.by_cgroup(session.cgroup_id) is not None:
                self.context.recording.count_on(session, counts)

    async def _ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._tick()

    def _tick(self) -> None:
        context = self.context
        try:
            self.config.alive.touch(mode=0o600)
        except OSError as error:
            self._say(f"cannot touch {self.config.alive}: {error}")
        context.sessions.holds.expire()
        context.sessions.conditions.tick()
        context.sessions.reload.tick()
        context.packets.tick()
        context.asks.tick()
        context.names.tick()
        context.registry.save()
        problem = context.recording.problem or context.registry.problem
        self._say(
            f"{len(context.registry.live())} sessions"
            + (f"; the audit log or state cannot be written: {problem}" if problem else "")
        )

    def _say(self, text: str) -> None:
        """Tell the service manager, where it is news."""
        if text != self._said:
            self._said = text
            with contextlib.suppress(OSError):
                self.kept.status(text)

    def _keeper_gone(self) -> None:
        """Another daemon may start at once, so this one must not go on writing."""
        print("ri-monitord: the keeper is gone", file=sys.stderr)
        self.context.recording.flush()
        os._exit(KEEPER_GONE)

    async def _end(self, api: Api, log: Log) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.context.sessions.stop(), STOP_SECONDS)
        if not self.context.registry.live():
            self.config.alive.unlink(missing_ok=True)
        self.context.asks.tick()
        self.context.gates.stop()
        self.context.names.stop()
        await self.context.packets.stop()
        await api.close()
        self.context.asks.close()
        log.close()
        for task in self._tasks:
            task.remove_done_callback(self._done)
            task.cancel()
        self.context.recording.drain()
        self.context.recording.flush()
        self.context.recording.store.close()
        self.context.registry.close()

    def _spawn(self, action: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(action)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        """A part that fails takes the worker with it: the next one starts from what is certain."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            traceback.print_exception(error)
            os._exit(1)


def _reader(instance: str) -> RingReader:
    from monitor.daemon.probes.ring import RingReader

    return RingReader(instance)


def _warm_up() -> None:
    """Import what the first session needs: pydantic and YAML cost 150 ms."""
    import monitor.policy.compile
    import monitor.profile.catalog
    import monitor.profile.load  # noqa: F401


def _import() -> None:
    """Import what is needed to be ready; at a cold start while the loader works."""
    import monitor.audit.store
    import monitor.daemon.api.server
    import monitor.daemon.asks.asks
    import monitor.daemon.launch.listener
    import monitor.daemon.recording
    import monitor.daemon.sessions  # noqa: F401


async def _main(config: Config, kept: Kept) -> int:
    _import()
    # Answered when the probes are in place.
    found = kept.fetch()
    if API_LISTENER not in found:
        raise CannotStart("the keeper is gone")
    worker = Worker(config, kept)
    worker.open()
    return await worker.run(found)


def main() -> int:
    config = Config.from_json(sys.argv[1])
    os.umask(0o077)
    libc.share_one_arena()
    try:
        return asyncio.run(_main(config, Kept.from_environment()))
    except CannotStart as error:
        for line in str(error).splitlines():
            print(f"ri-monitord: {line}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

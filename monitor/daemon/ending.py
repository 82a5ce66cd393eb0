# SPDX-License-Identifier: Apache-2.0
"""The end of a session: deny, freeze, cut, kill, and only then take its rules away.

Rules that went first would let out the bytes that its sockets still hold. Every step is timed,
because how fast authority ends is part of what is promised.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from monitor.daemon.probes.tables import KernelTables
from monitor.kernel import sockdiag
from monitor.kernel.cgroup import Cgroup
from monitor.session.session import Session
from monitor.wire.layout import SessionFlag

FREEZE_SECONDS = 2.0
EMPTY_SECONDS = 10.0
POLL_SECONDS = 0.001


class EndingFailed(Exception):
    """A session could not be taken down; it stays denied everything, and frozen where possible."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of what was done to a session, and how long it took."""

    name: str
    milliseconds: float


class Steps:
    """Runs and times steps one after another."""

    def __init__(self) -> None:
        self.done: list[Step] = []

    async def run(self, name: str, action: Callable[[], Awaitable[object]]) -> None:
        began = time.perf_counter()
        await action()
        self.done.append(Step(name, round((time.perf_counter() - began) * 1000, 3)))


async def freeze(session: Session, steps: Steps) -> None:
    """Stop every process of the session; OSError where its cgroup is gone."""
    cgroup = Cgroup(Path(session.cgroup))

    async def act() -> None:
        cgroup.freeze()
        await _wait(cgroup.frozen, True, FREEZE_SECONDS)

    await steps.run("freeze", act)


async def thaw(session: Session, steps: Steps) -> None:
    cgroup = Cgroup(Path(session.cgroup))

    async def act() -> None:
        cgroup.thaw()
        await _wait(cgroup.frozen, False, FREEZE_SECONDS)

    await steps.run("thaw", act)


def refuse(session: Session, tables: KernelTables) -> None:
    """Turn the session's row to deny-all; without a row it is refused everything anyway."""
    tables.add_flags(session.cgroup_id, SessionFlag.REVOKED)


async def deny_all(session: Session, tables: KernelTables, steps: Steps) -> None:
    """Refuse every network action of the session from now on."""

    async def act() -> None:
        refuse(session, tables)

    await steps.run("deny", act)


async def cut(session: Session, steps: Steps) -> None:
    """Destroy the session's open sockets; in a thread, because the kernel takes its time."""
    await steps.run("cut", lambda: asyncio.to_thread(sockdiag.destroy_sockets, session.cgroup_id))


async def end(
    session: Session,
    tables: KernelTables,
    settle: Callable[[], Awaitable[object]],
    steps: Steps,
    let_packets_go: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Take the session down; `settle` is called when its last process is gone, rules in place.

    `let_packets_go` takes its packet rules away.

    Can be repeated: steps whose object is gone are passed over. EndingFailed where processes
    cannot be killed (a hung disk): its rules then stay.
    """
    cgroup = Cgroup(Path(session.cgroup))

    async def kill() -> None:
        cgroup.kill()
        if not await _wait(cgroup.populated, False, EMPTY_SECONDS):
            raise EndingFailed(f"session {session.id}: processes {cgroup.processes()} do not die")

    async def remove_rules() -> None:
        tables.remove(session.cgroup_id)

    async def remove_cgroup() -> None:
        await _remove(cgroup)

    await deny_all(session, tables, steps)
    if cgroup.path.exists():
        await freeze(session, steps)
        await cut(session, steps)
        await steps.run("kill", kill)
        # Sockets that a peer opened towards the session while it died.
        await cut(session, steps)
    await steps.run("records", settle)
    await steps.run("rules", remove_rules)
    if let_packets_go is not None:
        await steps.run("packets", let_packets_go)
    if cgroup.path.exists():
        await steps.run("cgroup", remove_cgroup)


async def _remove(cgroup: Cgroup) -> None:
    """rmdir answers EBUSY for a moment after the last process is gone."""
    deadline = time.monotonic() + FREEZE_SECONDS
    while True:
        try:
            cgroup.remove()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            await asyncio.sleep(POLL_SECONDS)
        else:
            return


async def _wait(probe: Callable[[], bool], wanted: bool, seconds: float) -> bool:
    """Poll until `probe` is `wanted`; False past `seconds`."""
    deadline = time.monotonic() + seconds
    while probe() is not wanted:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True

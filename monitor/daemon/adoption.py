# SPDX-License-Identifier: Apache-2.0
"""After a restart: find the running sessions again, and clear away what belongs to none.

The kernel enforced all the while. What is certain goes on as it was; a session of which anything
is in doubt (its cgroup, its launch, its lifeline) is ended.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from monitor.daemon import arming
from monitor.daemon.context import Context
from monitor.daemon.creation import install, row_facts
from monitor.daemon.ending import EMPTY_SECONDS
from monitor.daemon.kept import LIFELINE
from monitor.daemon.probes.tables import narrowing
from monitor.kernel import sockdiag
from monitor.kernel.cgroup import Cgroup, instance_root
from monitor.session.session import Denial, Hold, Session, State
from monitor.wire.layout import SessionFlag
from monitor.wire.rows import SessionRow


@dataclass(frozen=True, slots=True)
class Adopted:
    """`running` go on with their lifelines; `ending` are to be ended, each for a reason."""

    running: tuple[tuple[Session, socket.socket], ...]
    ending: tuple[tuple[Session, str], ...]


def adopt(context: Context, kept: dict[str, int]) -> Adopted:
    """Judge every live session of the registry; `kept` is what the keeper held.

    Lifelines that no session needs are closed here and with the keeper.
    """
    running: list[tuple[Session, socket.socket]] = []
    ending: list[tuple[Session, str]] = []
    orders = context.registry.revocations().values()
    revoking = {session for order in orders for session in order.sessions}
    # Frozen for a moment while its plan was changed.
    revoking |= {change.session for change in context.registry.changes()}
    live = {session.id for session in context.registry.live()}
    for session in context.registry.live():
        doubt = _doubt(session, LIFELINE + session.id in kept)
        if session.parent is not None and session.parent not in live:
            doubt = "the session that it ran in is gone"
        if doubt:
            ending.append((session, doubt))
            continue
        try:
            _put_in_force(context, session, revoking=session.id in revoking)
            arming.arm(context, session)
        except OSError as error:
            ending.append((session, f"its rules cannot be put in place again: {error}"))
            continue
        lifeline = socket.socket(fileno=kept.pop(LIFELINE + session.id))
        running.append((context.registry.get(session.id), lifeline))
    for name, fd in kept.items():
        if name.startswith(LIFELINE):
            os.close(fd)
            context.kept.drop(name)
    return Adopted(tuple(running), tuple(ending))


def _doubt(session: Session, lifeline: bool) -> str:
    """Why this session cannot go on; "" where it can."""
    if session.state is State.ENDING:
        return session.why
    if session.state is State.LAUNCHING:
        return "the daemon was restarted during its launch"
    try:
        if Cgroup(Path(session.cgroup)).id != session.cgroup_id:
            return "its cgroup was replaced"
    except OSError:
        return "its cgroup is gone"
    return "" if lifeline else "its launcher is gone"


def _put_in_force(context: Context, session: Session, *, revoking: bool) -> None:
    """Bring kernel and registry to agree; where they do not, the stricter one holds.

    `revoking`: whether its revocation was begun, and goes on next.
    """
    row = context.tables.session(session.cgroup_id)
    if row is not None and SessionFlag.REVOKED in row.flags and session.denied is None:
        # What revoked or ended it could not be written.
        why = "found denied everything after a restart"
        session = context.registry.deny(session.id, Denial.REVOKED, why)
    # Rows of policies are written before the row of the session: with it, all are there.
    whole = context.registry.whole(session)
    labels = tuple(narrowing(whole.plan.policies, whole.labels))
    expires, flags = row_facts(context, session)
    if row == SessionRow(expires, flags, whole.policies, labels):
        pairs = list(zip(whole.policies, whole.plan.policies, strict=True))
        context.tables.know(pairs, whole.labels)
    else:
        install(context, session)
    cgroup = Cgroup(Path(session.cgroup))
    if session.state is State.FROZEN:
        cgroup.freeze()
    elif cgroup.freezing() and not revoking:
        context.registry.move(
            session.id, State.FROZEN, hold=Hold.PERSON, why="found frozen after a restart"
        )


def remove_rows(context: Context) -> int:
    """Delete the kernel's rows that no live session has; how many."""
    live = context.registry.live()
    return context.tables.remove_leftovers(
        {session.cgroup_id for session in live},
        {label for session in live for label in session.labels},
    )


def strangers(context: Context) -> list[Cgroup]:
    """Cgroups under the instance that no live session has."""
    live = {session.cgroup for session in context.registry.live()}
    homes = [instance_root(context.config.instance), *map(Path, sorted(live))]
    return [
        each
        for home in homes
        if home.is_dir()
        for each in Cgroup(home).others()
        if str(each.path) not in live
    ]


async def remove_cgroup(cgroup: Cgroup) -> None:
    """Kill what a lost session left; the kernel refuses it everything, since it has no row."""

    def remove() -> None:
        cgroup.freeze()
        inside = _tree(cgroup)
        sockdiag.destroy_sockets(*(each.id for each in inside))
        cgroup.kill()
        cgroup.wait("populated", False, EMPTY_SECONDS)
        for each in reversed(inside):
            each.remove()

    try:
        await asyncio.to_thread(remove)
    except OSError as error:
        print(f"ri-monitord: cannot remove {cgroup.path}: {error}", file=sys.stderr)


def _tree(cgroup: Cgroup) -> list[Cgroup]:
    """A session's cgroup and those of all sessions in it, each before those that are in it."""
    return [cgroup, *(each for other in cgroup.others() for each in _tree(other))]

# SPDX-License-Identifier: Apache-2.0
"""Takes a running session over to another plan, in an order in which nothing is ever wider.

The new plan is written down first, with the old one beside it until all is done: a worker that dies
on the way leaves either, and the next one finishes. The rows of the new policies are written, then
the session's own in one update, with those of the sessions inside, and the gate is told; then its
view is narrowed, what was open by the old plan alone is cut, and the old policies' rows go.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from monitor.daemon import creation, cutting, ending
from monitor.daemon.cutting import Rules
from monitor.daemon.ending import Steps
from monitor.kernel.cgroup import Cgroup
from monitor.policy.plan import Plan, Policy
from monitor.policy.switch import InForce
from monitor.session.registry import Change, UnknownSession
from monitor.session.session import Session, State

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context


# How long a view may take to be narrowed.
FILES_SECONDS = 10.0


class Gone(Exception):
    """The session ended meanwhile."""


class NotSwitched(Exception):
    """The session stays under its old plan; the message says why, in one line."""


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The kernel's ids of a plan's policies, and of all their labels in their order."""

    policies: tuple[int, ...]
    labels: tuple[int, ...]


class Switching:
    """Of the sessions of one worker."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def earned(self, session: Session) -> dict[str, frozenset[str]]:
        """The labels that a session has, by the profile that they are of."""
        counting = self.context.tables.earned(session.labels)
        found: dict[str, set[str]] = {}
        numbers = iter(session.labels)
        for policy in session.plan.policies:
            for label, number in zip(policy.labels, numbers, strict=False):
                if number in counting:
                    found.setdefault(policy.profile, set()).add(label.name)
        return {name: frozenset(labels) for name, labels in found.items()}

    async def files(self, session: Session) -> None:
        """Have its view narrowed and its files watched by its plan; one that cannot be ends."""
        try:
            async with asyncio.timeout(FILES_SECONDS):
                await self.context.opens.change(session)
        except (OSError, TimeoutError) as error:
            why = str(error) or f"not done within {FILES_SECONDS:g} s"
            if session.id in {each.id for each in self.context.registry.live()}:
                print(f"ri-monitord: session {session.id}: its files: {why}", file=sys.stderr)
                self.context.sessions.end_soon(session, f"its files cannot be watched: {why}")

    async def switch(
        self, session: Session, goes_to: InForce, digest: str
    ) -> tuple[Session, list[Change]]:
        """The session under its new plan, and what was begun, of those inside too.

        Gone; NotSwitched: nothing has changed but its view.
        """
        registry, tables = self.context.registry, self.context.tables
        try:
            now = registry.get(session.id)
        except UnknownSession as error:
            raise Gone from error
        if now.state is State.ENDING:
            raise Gone
        if now.plan != session.plan:
            raise NotSwitched("it changed meanwhile")
        try:
            numbers = self._numbers(now, goes_to.plan)
        except sqlite3.Error as error:
            raise NotSwitched(f"the state cannot be written: {error}") from error
        changed = _expiring(
            replace(
                now,
                plan=goes_to.plan,
                digest=digest,
                policies=numbers.policies,
                labels=numbers.labels,
            )
        )
        inside = [self._inside(each, now, changed) for each in registry.beneath(now.id)]
        everyone = [changed, *inside]
        before = {each.id: registry.whole(registry.get(each.id)).plan for each in everyone}
        old = [registry.get(each.id) for each in everyone]
        try:
            begun = registry.switch(everyone, before)
        except sqlite3.Error as error:
            raise NotSwitched(f"the state cannot be written: {error}") from error
        try:
            async with self._still(now, changed):
                self._put(now, [each.id for each in everyone])
                self.context.opens.tell(changed)
                for each in everyone:
                    with contextlib.suppress(UnknownSession):
                        self.context.gates.changed(registry.get(each.id))
                # Until then the gate may earn labels by their old ids.
                await self.context.gates.caught_up()
                with contextlib.suppress(UnknownSession):
                    self._carry_labels(now, registry.get(now.id))
                with contextlib.suppress(UnknownSession):
                    await self.context.packets.changed(registry.get(now.id))
        except (OSError, ValueError) as error:
            self._back(old, begun)
            raise NotSwitched(f"its rules cannot be put in place: {error}") from error
        tables.release(now.policies)
        return changed, begun

    def let_run(self, session: Session) -> None:
        """Thaw a session that was stopped in the middle of its change."""
        if session.state is State.RUNNING:
            with contextlib.suppress(OSError):
                Cgroup(Path(session.cgroup)).thaw()

    def relimit(self, session: Session) -> list[str]:
        """Bring the limits of its cgroup up to date; what cannot be."""
        limits, parent = session.plan.limits, session.parent
        above = self.context.registry.get(parent) if parent else None
        processes = creation.processes(self.context, session.plan, above)
        try:
            Cgroup(Path(session.cgroup)).relimit(processes, limits.memory)
        except OSError as error:
            return [f"limits: {error.strerror or error}"]
        return []

    async def cut(self, session: Session, before: Plan, passes: Sequence[float]) -> int:
        """Destroy what was open by the plan before alone. OSError."""
        whole = self.context.registry.whole(session)
        names = frozenset(itertools.chain.from_iterable(self.earned(whole).values()))
        old, new = Rules(before, names), Rules(whole.plan, names)
        by_name = await self.context.names.cut(session)
        return by_name + await cutting.cut(session.cgroup_id, old, new, passes)

    # ------------------------------------------------------------------------------------------

    def _numbers(self, session: Session, plan: Plan) -> _Numbers:
        """Ids for the policies of `plan`: those of the session where a policy stays as it is."""
        known: dict[Policy, tuple[int, tuple[int, ...]]] = {}
        labels = iter(session.labels)
        for number, policy in zip(session.policies, session.plan.policies, strict=True):
            known[policy] = number, tuple(itertools.islice(labels, len(policy.labels)))
        wanted = [1 + len(each.labels) for each in plan.policies if each not in known]
        fresh = iter(self.context.registry.next_policy_ids(sum(wanted)) if wanted else ())
        policies: list[int] = []
        all_labels: list[int] = []
        for policy in plan.policies:
            if policy in known:
                number, own = known[policy]
            else:
                number = next(fresh)
                own = tuple(itertools.islice(fresh, len(policy.labels)))
            policies.append(number)
            all_labels += own
        return _Numbers(tuple(policies), tuple(all_labels))

    def _inside(self, each: Session, old: Session, new: Session) -> Session:
        """A session inside, whose links above are other ones now."""
        outer, start = len(old.above), len(old.above) + len(old.policies)
        labels = len(old.above_labels)
        behind = labels + len(old.labels)
        ends = [moment for moment in (each.expires_boottime, new.expires_boottime) if moment]
        return replace(
            each,
            above=each.above[:outer] + new.policies + each.above[start:],
            above_labels=each.above_labels[:labels] + new.labels + each.above_labels[behind:],
            expires_boottime=min(ends, default=0),
            expires=min(
                (moment for moment in (each.expires, new.expires) if moment is not None),
                default=None,
            ),
        )

    def _put(self, old: Session, everyone: Sequence[str]) -> None:
        """New rows, what was earned and used, and then the row of each. OSError, ValueError.

        As they are by now: one that is denied or ending stays so.
        """
        tables, registry = self.context.tables, self.context.registry
        live = [each for each in registry.live() if each.id in everyone]
        live = [each for each in live if each.state is not State.ENDING]
        if not live or live[0].id != old.id:
            return
        changed = live[0]
        whole = registry.whole(changed)
        added = tables.prepare(
            list(zip(whole.policies, whole.plan.policies, strict=True)), whole.labels
        )
        try:
            self._carry(old, changed)
            for each in live:
                self.context.names.changing(each)
                creation.install(self.context, each)
        except (OSError, ValueError):
            tables.release(added)
            raise

    def _carry(self, old: Session, new: Session) -> None:
        """Labels stay earned and budgets used under the new policies' ids."""
        tables = self.context.tables
        self._carry_labels(old, new)
        ids = {
            policy.profile: number
            for policy, number in zip(old.plan.policies, old.policies, strict=True)
        }
        for policy, number in zip(new.plan.policies, new.policies, strict=True):
            before = ids.get(policy.profile)
            if before is not None and before != number:
                tables.carry(before, number)

    def _carry_labels(self, old: Session, new: Session) -> None:
        counting = self.context.tables.earned(old.labels)
        had = {key for key, number in _labels(old) if number in counting}
        for key, number in _labels(new):
            if key in had:
                self.context.tables.earn(number)

    def _back(self, old: Sequence[Session], begun: Sequence[Change]) -> None:
        """Undo what was written down; the old rows are all still there."""
        registry = self.context.registry
        try:
            registry.switch(old, {})
            for each in old:
                self.context.names.changing(each)
                creation.install(self.context, each)
            for change in begun:
                registry.end_change(change)
        except (OSError, ValueError, sqlite3.Error) as error:
            # The next worker puts in force what is written down.
            print(f"ri-monitord: session {old[0].id}: {error}", file=sys.stderr)

    @contextlib.asynccontextmanager
    async def _still(self, old: Session, new: Session) -> AsyncIterator[None]:
        """Stop the session while labels and counts are carried over, or one could be missed."""
        counted = any(policy.labels or policy.budgets.egress for policy in old.plan.policies)
        if old.policies == new.policies or not counted or old.state is State.FROZEN:
            yield
            return
        try:
            await ending.freeze(old, Steps())
            yield
        finally:
            with contextlib.suppress(OSError, UnknownSession):
                if self.context.registry.get(old.id).state is State.RUNNING:
                    await ending.thaw(old, Steps())


def _labels(session: Session) -> list[tuple[tuple[str, str], int]]:
    """A session's own labels, by profile and name, with the kernel's ids."""
    names = [
        (policy.profile, label.name) for policy in session.plan.policies for label in policy.labels
    ]
    return list(zip(names, session.labels, strict=True))


def _expiring(session: Session) -> Session:
    """The session with a `ttl` that is shorter now counted from its start."""
    ttl = session.plan.limits.ttl
    if ttl is None:
        return session
    left = session.created + ttl - time.time()
    ends = max(1, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(left * 1e9))
    if session.until_boottime and session.until_boottime > ends:
        session = replace(session, until=session.created + ttl, until_boottime=ends)
    if session.expires_boottime and session.expires_boottime <= ends:
        return session
    return replace(session, expires=session.created + ttl, expires_boottime=ends)


def _processes(session: Session) -> list[int]:
    try:
        return Cgroup(Path(session.cgroup)).processes()
    except OSError:
        return []

# SPDX-License-Identifier: Apache-2.0
"""Taking authority back from many sessions at once: deny, freeze, cut, then kill or let run.

Each step is done for the whole set before the next begins: first every row in the kernel's tables
(microseconds each), then all cgroups are told to freeze and waited for together, then their sockets
go in one pass of sock_diag. What was ordered is in the database before anything is done, so that
the next worker carries out what this one could not.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.daemon.ending import FREEZE_SECONDS, EndingFailed, refuse
from monitor.daemon.notices import Notices
from monitor.kernel import sockdiag
from monitor.kernel.cgroup import Cgroup
from monitor.policy.action import Verb, Verdict
from monitor.session.order import Order, Then
from monitor.session.registry import UnknownSession
from monitor.session.session import Denial, Hold, Session, State

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

POLL_SECONDS = 0.0005
SECONDS_TO_MILLISECONDS = 1000


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: how long it took, and when it was done, counted from the order's receipt."""

    name: str
    milliseconds: float
    since: float


@dataclass(slots=True)
class Revoked:
    """What was done. `times`: by session and step, milliseconds since the order's receipt."""

    sessions: tuple[Session, ...] = ()
    stages: list[Stage] = field(default_factory=list)
    times: dict[str, dict[str, float]] = field(default_factory=dict)
    sockets: int = 0
    problems: list[str] = field(default_factory=list)


class Revocation:
    """Carries out orders; `end` is how a session is ended."""

    def __init__(
        self,
        context: Context,
        end: Callable[[Session, str], Awaitable[object]],
        notices: Notices,
    ) -> None:
        self.context = context
        self._end = end
        self._notices = notices

    async def carry_out(self, order: Order, received: float) -> Revoked:
        """Do what `order` says; `received` is the moment that everything is counted from.

        Sessions that end already are left to that; those inside of what is taken back go with it.
        """
        registry = self.context.registry
        inside = {each.id for named in order.sessions for each in registry.beneath(named)}
        meant = {*order.sessions, *inside}
        live = [each for each in registry.live() if each.id in meant]
        order = replace(order, sessions=tuple(each.id for each in live))
        becoming = [_become(each, order) for each in live if each.state is not State.ENDING]
        number = registry.begin_revocation(order, becoming)
        return await self._go_on(order, becoming, number, received)

    async def resume(self) -> None:
        """Finish what an earlier worker began; cut again what lives on denied."""
        registry = self.context.registry
        for number, order in registry.revocations().items():
            live = [each for each in registry.live() if each.id in order.sessions]
            await self._go_on(order, live, number, time.perf_counter(), resumed=True)
        denied = [
            each.cgroup_id for each in registry.live() if each.denied or each.hold is Hold.EXPIRY
        ]
        if denied:
            await self._cut(denied, Revoked())

    async def _go_on(
        self,
        order: Order,
        sessions: Sequence[Session],
        number: int,
        received: float,
        *,
        resumed: bool = False,
    ) -> Revoked:
        done = Revoked(tuple(sessions))
        clock = _Clock(received, done)
        try:
            await self._take_back(order, sessions, clock, resumed=resumed)
        finally:
            # Whatever failed: what is to end does.
            ends = [
                asyncio.ensure_future(self._end(each, each.why))
                for each in sessions
                if each.state is State.ENDING
            ]
        if order.then is Then.DENY:
            for session in sessions:
                self._let_run(session, order, done)
            clock.finished("thaw")
        await self._ended(ends, done)
        if order.then is Then.KILL:
            clock.finished("kill")
        self.context.registry.end_revocation(number)
        return done

    async def _take_back(
        self, order: Order, sessions: Sequence[Session], clock: _Clock, *, resumed: bool
    ) -> None:
        """Deny, freeze, cut, and record it."""
        done = clock.done
        for session in sessions:
            self._refuse(session, done)
            clock.passed(session, "deny")
        clock.finished("deny")
        # From here on they are stopping; what else is to be written is written meanwhile.
        frozen = self._freeze(sessions, done)
        for identity in order.grants:
            self.context.registry.ledger.revoke(identity, order.why)
        await self._wait(frozen, clock)
        clock.finished("freeze")
        done.sockets = await self._cut([each.cgroup_id for each in sessions], done)
        for session in sessions:
            clock.passed(session, "cut")
        clock.finished("cut")
        self._record(order, done, resumed=resumed)
        for problem in done.problems:
            print(f"ri-monitord: {problem}", file=sys.stderr)

    # -- the steps -----------------------------------------------------------------------------

    def _refuse(self, session: Session, done: Revoked) -> None:
        try:
            refuse(session, self.context.tables)
        except OSError as error:
            done.problems.append(f"session {session.id} cannot be denied everything: {error}")

    def _freeze(self, sessions: Sequence[Session], done: Revoked) -> dict[str, Cgroup]:
        """Tell all to freeze; those to wait for."""
        told: dict[str, Cgroup] = {}
        for session in sessions:
            cgroup = Cgroup(Path(session.cgroup))
            try:
                cgroup.freeze()
            except FileNotFoundError:
                continue  # nothing runs there any more
            except OSError as error:
                done.problems.append(f"session {session.id} cannot be frozen: {error}")
                continue
            told[session.id] = cgroup
        return told

    async def _wait(self, waiting: dict[str, Cgroup], clock: _Clock) -> None:
        deadline = time.monotonic() + FREEZE_SECONDS
        by_id = {session.id: session for session in clock.done.sessions}
        while waiting:
            for identity, cgroup in tuple(waiting.items()):
                if _stopped(cgroup):
                    clock.passed(by_id[identity], "freeze")
                    del waiting[identity]
            if not waiting or time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
        for identity in waiting:
            clock.done.problems.append(
                f"session {identity} did not freeze within {FREEZE_SECONDS:g} s"
            )

    async def _cut(self, cgroups: Sequence[int], done: Revoked) -> int:
        """Destroy the sockets; in a thread, because the kernel takes its time."""
        try:
            return await asyncio.to_thread(sockdiag.destroy_sockets, *cgroups)
        except OSError as error:
            done.problems.append(f"open connections cannot be cut, and carry nothing: {error}")
            return 0

    def _let_run(self, session: Session, order: Order, done: Revoked) -> None:
        """Thaw a session that nobody else holds."""
        try:
            if self.context.registry.get(session.id).state is not State.RUNNING:
                return
            Cgroup(Path(session.cgroup)).thaw()
        except UnknownSession:
            return
        except OSError as error:
            done.problems.append(f"session {session.id} cannot be thawed: {error}")
        self._notices.revoked(session.id, order.reason)

    async def _ended(self, ends: Sequence[asyncio.Future[object]], done: Revoked) -> None:
        for outcome in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(outcome, EndingFailed | OSError):
                # It stays denied everything, and is tried again.
                done.problems.append(str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome

    def _record(self, order: Order, done: Revoked, *, resumed: bool) -> None:
        from monitor.daemon.recording import daemon_draft

        details: dict[str, Any] = {"by": order.by, "why": order.why}
        if resumed:
            details["resumed"] = True
        drafts = [
            daemon_draft(
                None,
                Verb.GRANT_REVOKE,
                identity,
                details,
                verdict=Verdict.KILL,
                reason=order.why,
            )
            for identity in order.grants
        ]
        drafts += [
            daemon_draft(
                session,
                Verb.SESSION_STATE,
                "revoked",
                details
                | {
                    "then": "kill" if session.state is State.ENDING else order.then.value,
                    "since_receipt": done.times[session.id],
                },
                verdict=Verdict.KILL,
                reason=order.why,
            )
            for session in done.sessions
        ]
        self.context.recording.record(drafts)


class _Clock:
    """Milliseconds since an order's receipt, of steps and of sessions in them."""

    def __init__(self, received: float, done: Revoked) -> None:
        self.done = done
        self._received = received
        self._last = received

    def passed(self, session: Session, step: str) -> None:
        times = self.done.times.setdefault(session.id, {})
        times[step] = _milliseconds(time.perf_counter() - self._received)

    def finished(self, name: str) -> None:
        now = time.perf_counter()
        taken, since = now - self._last, now - self._received
        self.done.stages.append(Stage(name, _milliseconds(taken), _milliseconds(since)))
        self._last = now


def _become(session: Session, order: Order) -> Session:
    """What `order` makes of a session; one whose command has not started has nothing to lose."""
    if order.then is Then.KILL or session.state is State.LAUNCHING:
        return session.to(State.ENDING, why=order.reason)
    return replace(session, denied=Denial.REVOKED, why=order.reason)


def _stopped(cgroup: Cgroup) -> bool:
    try:
        return cgroup.frozen()
    except OSError:
        return True  # it is gone


def _milliseconds(seconds: float) -> float:
    return round(seconds * SECONDS_TO_MILLISECONDS, 3)

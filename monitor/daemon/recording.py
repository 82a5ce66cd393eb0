# SPDX-License-Identifier: Apache-2.0
"""Records: from the rings, and of the daemon's own, to the audit store.

A timer drains the rings; nothing here ever makes an agent wait. Where the store cannot be written,
drafts wait in memory, and the state is loud: /v1/status, the doctor, the metrics and standard error
say so, and sessions whose profile requires records are frozen until they are written.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monitor.audit.compose import Composer
from monitor.audit.record import Draft
from monitor.audit.store import Store, StoreError
from monitor.daemon import paths
from monitor.daemon.context import Context
from monitor.daemon.hellos import Hellos
from monitor.policy.action import Mechanism, Verb, Verdict
from monitor.session.session import Session
from monitor.wire.events import HelloEvent, LabelEvent

if TYPE_CHECKING:  # numpy comes with the reader: 80 ms that a restart is ready without
    from monitor.daemon.probes.ring import RingReader
    from monitor.wire.events import AnyEvent

DRAIN_SECONDS = 0.005
# Nobody runs: there is nothing to read but what the last ones left.
IDLE_SECONDS = 0.1
# Small records taken at a time, so that the API is answered in between.
DRAIN_RECORDS = 2048
# Drafts in one transaction, and drafts that wait for a disk: some 20 MiB.
BATCH = 2048
MAX_WAITING = 20_000
RETRY_SECONDS = 1.0
SETTLE_SECONDS = 2.0


class Recording:
    """Drains, composes, appends. One for each worker."""

    def __init__(self, context: Context, store: Store) -> None:
        self.context = context
        self.store = store
        # None until `run`: what comes waits in the rings.
        self.reader: RingReader | None = None
        self.problem = ""  # why the store cannot be written; "" while it can
        self.failing_since = 0.0
        self.faults = 0  # events that could not be composed
        self.lost_of_ended = 0
        self.totals: Counter[tuple[str, str]] = Counter()  # (verb, verdict) -> records
        self._composer = Composer(self._judged, _without_links, _program, self._name)
        self._waiting: list[Draft] = []
        self._hellos = Hellos()
        self._not_kept = 0
        self._retry_at = 0.0
        self._counts: dict[str, Counter[str]] = {}
        self._appended = asyncio.Event()
        self._awake = asyncio.Event()
        self._reads = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the timer -----------------------------------------------------------------------------

    async def run(self, reader: RingReader) -> None:
        """Read until cancelled."""
        self.reader = reader
        self._reads.set()
        while True:
            try:
                self.drain()
                self.flush()
            except Exception:  # the loop's edge: one bad record must not end all recording
                self.faults += 1
                traceback.print_exc()
            if reader.pending:
                await asyncio.sleep(0)
            elif self.context.registry.live():
                await asyncio.sleep(DRAIN_SECONDS)
            else:
                self._awake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._awake.wait(), IDLE_SECONDS)

    def wake(self) -> None:
        """A session comes: read at the full pace from now on."""
        self._awake.set()

    def drain(self) -> None:
        """Take what the rings hold, up to a limit, and compose it."""
        if self.reader is not None:
            self._compose(self.reader.drain(DRAIN_RECORDS))

    async def settle(self, session: Session) -> int:
        """Read all that a dead session left; the number of its lost records.

        Its rows must still be in place: the kernel counts the losses there.
        """
        await self._reads.wait()
        reader = self.reader
        assert reader is not None
        mark = reader.mark()
        deadline = time.monotonic() + SETTLE_SECONDS
        self.drain()
        while not reader.reached(mark) and time.monotonic() < deadline:
            await asyncio.sleep(0)
            self.drain()
        self._compose(reader.sweep(session.cgroup_id))
        lost = self.context.tables.lost(session.cgroup_id)
        if lost:
            self.lost_of_ended += lost
            details = {"lost": lost}
            reason = f"{lost} records were dropped under load"
            self.daemon_record(session, Verb.SESSION_LOST, str(lost), details, reason=reason)
        return lost

    # -- what is recorded ----------------------------------------------------------------------

    def daemon_record(
        self,
        session: Session | None,
        verb: Verb,
        object_: str,
        details: dict[str, Any],
        *,
        verdict: Verdict = Verdict.ALLOW,
        reason: str = "",
        pid: int = 0,
    ) -> None:
        """A record of the daemon's own, behind what the rings hold of earlier times.

        On return it is written, unless `problem` says that it waits.
        """
        draft = daemon_draft(
            session, verb, object_, details, verdict=verdict, reason=reason, pid=pid
        )
        self.record([draft])

    def record(self, drafts: list[Draft]) -> None:
        """Several records of the daemon's own at once."""
        self.drain()
        self._queue(drafts)
        self.flush()

    def _compose(self, events: Sequence[AnyEvent]) -> None:
        compose = self._composer.compose
        drafts: list[Draft] = []
        labels: list[LabelEvent] = []
        spent: list[Draft] = []
        for event in events:
            try:
                draft = compose(event)
            except Exception:  # as above: the event is counted as lost
                self.faults += 1
                self._lose(event.cgroup, event.count)
                if self.faults == 1:
                    traceback.print_exc()
                continue
            if draft is not None:
                drafts.append(draft)
                if isinstance(event, LabelEvent):
                    labels.append(event)
                elif isinstance(event, HelloEvent):
                    self._hellos.refused(event)
                if draft.verdict is Verdict.DENY:
                    if draft.mechanism is Mechanism.BUDGET:
                        spent.append(draft)
                    self.context.sessions.notices.denied(
                        draft.session, draft.verb, draft.object, draft.reason
                    )
        self._queue(drafts)
        # What follows may make records of its own, which come behind.
        for event in labels:
            self.context.labels.earned_by(event)
        for draft in spent:
            self.context.budgets.over(draft)

    def _queue(self, drafts: list[Draft]) -> None:
        if self.problem:
            room = max(0, MAX_WAITING - len(self._waiting))
            for draft in drafts[room:]:
                self._not_kept += draft.count
                session = self._session(draft.session)
                self._lose(session.cgroup_id if session else 0, draft.count)
            drafts = drafts[:room]
        self._waiting += drafts
        # The hot path: plain strings as keys, folded into the figures afterwards.
        tally: dict[tuple[str, str, str], int] = {}
        for draft in drafts:
            key = (draft.session, draft.verb._value_, draft.verdict._value_)
            tally[key] = tally.get(key, 0) + draft.count
        for (identity, verb, verdict), count in tally.items():
            self.totals[verb, verdict] += count
            if identity:
                self._counts.setdefault(identity, Counter())[verdict] += count

    def _judged(self, cgroup: int) -> Session | None:
        """The session of a cgroup with all that the kernel judges it by."""
        session = self.context.registry.by_cgroup(cgroup)
        return None if session is None else self.context.registry.whole(session)

    def _name(self, cgroup: int, address: str) -> str:
        return self.context.names.name(cgroup, address)

    def _session(self, identity: str) -> Session | None:
        try:
            return self.context.registry.get(identity)
        except LookupError:
            return None

    def _lose(self, cgroup: int, count: int) -> None:
        known = self.context.registry.by_cgroup(cgroup) is not None
        self.context.tables.add_lost(cgroup if known else 0, count)

    # -- the store -----------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what waits; while the store fails, try once a second."""
        if not self._waiting or (self.problem and time.monotonic() < self._retry_at):
            return
        while self._waiting:
            batch = self._waiting[:BATCH]
            try:
                self._append(batch)
            except StoreError as error:
                self._failed(str(error))
                return
            del self._waiting[: len(batch)]
            appended, self._appended = self._appended, asyncio.Event()
            appended.set()
        if self.problem:
            self._recovered()

    def _append(self, batch: list[Draft]) -> None:
        try:
            self.store.append(batch)
        except (TypeError, ValueError):
            if len(batch) == 1:  # this one can never be written
                self.faults += 1
                traceback.print_exc()
                return
            for draft in batch:
                self._append([draft])

    def _failed(self, problem: str) -> None:
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if not self.problem:
            self.failing_since = time.time()
            print(f"ri-monitord: the audit log cannot be written: {problem}", file=sys.stderr)
            self._later(self.context.sessions.holds.hold_for_audit())
        self.problem = problem

    def _recovered(self) -> None:
        details = {"from": self.failing_since, "to": time.time(), "lost": self._not_kept}
        self.problem, self._not_kept = "", 0
        print("ri-monitord: the audit log is written again", file=sys.stderr)
        reason = "the audit log could not be written in between"
        self.daemon_record(None, Verb.DAEMON_GAP, "audit log", details, reason=reason)
        self._later(self.context.sessions.holds.release_from_audit())

    def _later(self, action: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(action)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def appended(self) -> None:
        """Returns when further records have been written."""
        await self._appended.wait()

    # -- figures -------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Drafts that wait to be written."""
        return len(self._waiting)

    @property
    def undecoded(self) -> int:
        """Records that could not be decoded or composed."""
        return self.faults + (self.reader.errors if self.reader else 0)

    @property
    def lost(self) -> int:
        """Records lost since this worker started, of running sessions since they did."""
        tables = self.context.tables
        live = sum(tables.lost(session.cgroup_id) for session in self.context.registry.live())
        return live + self.lost_of_ended + tables.lost(0)

    def counts(self, session: Session) -> dict[str, int]:
        """Actions of a live session by verdict."""
        return dict(self._counts.get(session.id, {}))

    def count_on(self, session: Session, counts: Mapping[str, int]) -> None:
        """Add what an earlier worker recorded of a session."""
        self._counts.setdefault(session.id, Counter()).update(counts)

    def forget(self, session: Session) -> None:
        """The session has ended; its figures are in its last record."""
        self._counts.pop(session.id, None)


def daemon_draft(
    session: Session | None,
    verb: Verb,
    object_: str,
    details: dict[str, Any],
    *,
    verdict: Verdict = Verdict.ALLOW,
    reason: str = "",
    pid: int = 0,
) -> Draft:
    """A record of the daemon's own, as of now."""
    return Draft(
        time=time.time(),
        session=session.id if session else "",
        agent=session.agent if session else "",
        chain=session.chain.names() if session else (),
        pid=pid,
        exe="",
        verb=verb,
        object=object_,
        verdict=verdict,
        reason=reason,
        rule="",
        mechanism=Mechanism.DAEMON,
        count=1,
        details=details,
    )


def _without_links(path: str) -> str:
    """A path that a program claimed, as the rules would name it."""
    return paths.resolve(path) if path.startswith("/") else path


def _program(pid: int) -> str:
    """What a process runs that started before this worker; "" where it is gone."""
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return ""

# SPDX-License-Identifier: Apache-2.0
"""The registry: every session by id and by cgroup, in memory and in SQLite.

What is in the database is what a restarted worker knows, so each change is committed before it is
acted upon; on a full disk it is kept in memory and committed later, because sessions must be frozen
and ended there too. WAL with synchronous=NORMAL: a crash of the worker loses nothing; a crash of
the host may lose the last changes, and all sessions with them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from monitor.identity import chain as chains
from monitor.policy import plan_json
from monitor.policy.plan import Plan
from monitor.session.ledger import Ledger
from monitor.session.order import Order
from monitor.session.session import Denial, Hold, Session, State
from monitor.session.signals import Standing

KEEP_ENDED = 1000
SHORTEST_REFERENCE = 4

SCHEMA = """
CREATE TABLE IF NOT EXISTS plans (digest TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    plan TEXT NOT NULL REFERENCES plans (digest),
    state TEXT NOT NULL,
    hold TEXT,
    pid INTEGER,
    ended REAL,
    why TEXT NOT NULL,
    denied TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sessions_by_state ON sessions (state);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS revocations (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS changes (
    id INTEGER PRIMARY KEY, session TEXT NOT NULL, plan TEXT NOT NULL
);
"""
# Of these, a change of plan or a lease writes some anew; the others have columns of their own.
FIXED = [
    "agent",
    "user",
    "uid",
    "gid",
    "profile",
    "digest",
    "purpose",
    "workspace",
    "created",
    "expires",
    "expires_boottime",
    "cgroup",
    "cgroup_id",
    "policies",
    "launcher",
    "launcher_start",
    "labels",
    "above",
    "above_labels",
    "parent",
    "depth",
    "source",
    "lease",
    "until",
    "until_boottime",
]
# Of these, numbers of the kernel's; a body of an earlier version lacks some.
NUMBERS = ("policies", "labels", "above", "above_labels")


# The changing columns in the order of `_changing`.
UPDATE = (
    "UPDATE sessions SET state = ?, hold = ?, pid = ?, ended = ?, why = ?, denied = ? WHERE id = ?"
)


@dataclass(frozen=True, slots=True)
class Change:
    """One session that went over to another plan, from `before`; what that let be open is cut."""

    number: int
    session: str
    before: Plan


class UnknownSession(LookupError):
    """No session, or more than one, answers to the reference."""


class Registry:
    """All sessions. Not for use from more than one thread."""

    def __init__(self, path: Path) -> None:
        """Open or make the database at `path`; sqlite3.Error where it cannot be used."""
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + SCHEMA)
        _upgrade(self._database)
        self.ledger = Ledger(path)
        self.signals = Standing(path)
        self.problem = ""  # why changes wait to be committed
        self._unsaved: dict[str, Session] = {}
        self._live: dict[str, Session] = {}
        self._by_cgroup: dict[int, Session] = {}
        self._whole: dict[str, Session] = {}
        for session in self._load("state <> ?", State.ENDED.value):
            self._remember(session)

    def close(self) -> None:
        self._database.close()
        self.ledger.close()
        self.signals.close()

    def next_policy_ids(self, count: int) -> tuple[int, ...]:
        """Policy ids that no other session of this instance has had."""
        row = self._database.execute(
            "INSERT INTO counters VALUES ('policy', ?) ON CONFLICT (name)"
            " DO UPDATE SET value = value + excluded.value RETURNING value",
            (count,),
        ).fetchone()
        last = int(row[0])
        return tuple(range(last - count + 1, last + 1))

    def add(self, session: Session) -> None:
        with self._database:
            self._database.execute("BEGIN")
            digest = self._write_plan(session.plan)
            self._database.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (session.id, _body(session), digest, *_changing(session)),
            )
        self._remember(session)

    def update(self, session: Session) -> Session:
        """Take over the changing fields of `session`, all but FIXED; commit them."""
        self._change(session)
        self.save()
        return session

    def _change(self, session: Session) -> None:
        if session.live:
            self._remember(session)
        else:
            self._live.pop(session.id, None)
            self._by_cgroup.pop(session.cgroup_id, None)
        self._unsaved[session.id] = session

    def save(self) -> None:
        """Commit what could not be committed before; `problem` says why it still cannot."""
        self.ledger.save()
        self.signals.save()
        try:
            for session in tuple(self._unsaved.values()):
                self._database.execute(UPDATE, (*_changing(session), session.id))
                del self._unsaved[session.id]
        except sqlite3.Error as error:
            self.problem = str(error)
        else:
            self.problem = self.ledger.problem or self.signals.problem

    def move(
        self, identity: str, state: State, *, hold: Hold | None = None, why: str = ""
    ) -> Session:
        """Take a live session to `state`; IllegalTransition where it cannot go there."""
        return self.update(self.get(identity).to(state, hold=hold, why=why))

    def hold(self, identity: str, hold: Hold, why: str) -> Session:
        """Have a frozen session held by another."""
        return self.update(replace(self.get(identity), hold=hold, why=why))

    def deny(self, identity: str, denied: Denial, why: str) -> Session:
        """Have a live session refused everything on the network for good."""
        return self.update(replace(self.get(identity), denied=denied, why=why))

    def begin_revocation(self, order: Order, changed: Iterable[Session]) -> int:
        """Keep an order until it is carried out, and take over what it makes of sessions, at once.

        The number that `end_revocation` wants; 0: the database cannot be written, and only what
        becomes of the sessions is committed later.
        """
        for session in changed:
            self._change(session)
        try:
            with self._database as database:
                database.execute("BEGIN IMMEDIATE")
                database.executemany(
                    UPDATE, [(*_changing(each), each.id) for each in self._unsaved.values()]
                )
                number = database.execute(
                    "INSERT INTO revocations (body) VALUES (?)", (order.to_json(),)
                ).lastrowid
        except sqlite3.Error as error:
            self.problem = str(error)
            return 0
        self._unsaved.clear()
        return number or 0

    def end_revocation(self, number: int) -> None:
        # One that stays is carried out again by the next worker, which changes nothing.
        with contextlib.suppress(sqlite3.Error):
            self._database.execute("DELETE FROM revocations WHERE id = ?", (number,))

    def revocations(self) -> dict[int, Order]:
        """Orders that were begun and not carried out, by number."""
        rows = self._database.execute("SELECT id, body FROM revocations ORDER BY id")
        return {number: Order.from_json(body) for number, body in rows}

    # -- another plan --------------------------------------------------------------------------

    def switch(self, sessions: Sequence[Session], before: Mapping[str, Plan]) -> list[Change]:
        """Take over everything of `sessions`, their plans too, all or none; they are committed.

        `before`: the whole plans that they go over from, each kept until its `end_change`.
        sqlite3.Error: nothing has changed.
        """
        begun = []
        with self._database as database:
            database.execute("BEGIN IMMEDIATE")
            for session in sessions:
                self._write_body(session)
            for identity, plan in before.items():
                number = database.execute(
                    "INSERT INTO changes (session, plan) VALUES (?, ?)",
                    (identity, plan_json.to_json(plan)),
                ).lastrowid
                begun.append(Change(number or 0, identity, plan))
        for session in sessions:
            self._remember(session)
        return begun

    def changes(self) -> list[Change]:
        """Changes of plan that were begun and not ended, oldest first."""
        rows = self._database.execute("SELECT id, session, plan FROM changes ORDER BY id")
        return [
            Change(number, identity, plan_json.from_json(plan)) for number, identity, plan in rows
        ]

    def end_change(self, change: Change) -> None:
        # One that stays is carried out again by the next worker, which changes nothing.
        with contextlib.suppress(sqlite3.Error):
            self._database.execute("DELETE FROM changes WHERE id = ?", (change.number,))

    def extend(self, session: Session) -> Session:
        """Take over another expiry; where it cannot be written, the next worker knows the old."""
        self._remember(session)
        with contextlib.suppress(sqlite3.Error), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._write_body(session)
        return session

    def _write_body(self, session: Session) -> None:
        digest = self._write_plan(session.plan)
        self._database.execute(
            "UPDATE sessions SET body = ?, plan = ? WHERE id = ?",
            (_body(session), digest, session.id),
        )

    def _write_plan(self, plan: Plan) -> str:
        text = plan_json.to_json(plan)
        digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        self._database.execute("INSERT OR IGNORE INTO plans VALUES (?, ?)", (digest, text))
        return digest

    def started(self, identity: str, pid: int) -> Session:
        """CMD runs, as process `pid`."""
        return self.update(replace(self.get(identity).to(State.RUNNING), pid=pid))

    def get(self, identity: str) -> Session:
        """A live session by its whole id; UnknownSession where there is none."""
        try:
            return self._live[identity]
        except KeyError:
            raise UnknownSession(f"no live session {identity}") from None

    def by_cgroup(self, cgroup_id: int) -> Session | None:
        return self._by_cgroup.get(cgroup_id)

    # -- sessions in sessions ------------------------------------------------------------------

    def above(self, session: Session) -> tuple[Session, ...]:
        """The sessions that this one runs in, outermost first."""
        found: list[Session] = []
        while session.parent is not None:
            session = self._any(session.parent)
            found.insert(0, session)
        return tuple(found)

    def beneath(self, identity: str) -> tuple[Session, ...]:
        """The live sessions that run in this one, each before those that run in it."""
        found: list[Session] = []
        above = {identity}
        while above:
            next_ones = [each for each in self._live.values() if each.parent in above]
            found += next_ones
            above = {each.id for each in next_ones}
        return tuple(found)

    def whole(self, session: Session) -> Session:
        """This session as the kernel judges it: the links of those above it before its own."""
        if session.parent is None:
            return session
        known = self._whole.get(session.id)
        if known is not None:
            return known
        try:
            known = session.whole(self.whole(self._any(session.parent)).plan)
        except UnknownSession:
            return session  # of one that ended long ago: the one above is not kept any more
        if session.live:
            self._whole[session.id] = known
        return known

    def _any(self, identity: str) -> Session:
        """A session by its whole id, ended or not."""
        live = self._live.get(identity)
        if live is not None:
            return live
        for session in self._load("id = ?", identity):
            return session
        raise UnknownSession(f"no session {identity}")

    # ------------------------------------------------------------------------------------------

    def live(self) -> tuple[Session, ...]:
        """Sessions that have not ended, oldest first."""
        return tuple(self._live.values())

    def ended(self, reference: str = "") -> tuple[Session, ...]:
        """Sessions that have, as far as they are kept, oldest first; those `reference` may mean."""
        return tuple(self._load("state = ? AND instr(id, ?)", State.ENDED.value, reference))

    def ids_of(self, uid: int) -> frozenset[str]:
        """Ids of all sessions, ended ones too, on behalf of the principal with this user id."""
        rows = self._database.execute(
            "SELECT id FROM sessions WHERE json_extract(body, '$.chain.principal.uid') = ?", (uid,)
        )
        return frozenset(row[0] for row in rows)

    def find(self, reference: str, candidates: Iterable[Session]) -> Session:
        """The one of `candidates` whose id starts or ends with `reference`."""
        found = [
            each
            for each in candidates
            if each.id == reference
            or len(reference) >= SHORTEST_REFERENCE
            and (each.id.startswith(reference) or each.id.endswith(reference))
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownSession(
                f"{len(found)} sessions answer to {reference}: give more of the id"
            )
        raise UnknownSession(f"no session {reference}")

    def prune(self) -> None:
        """Forget the oldest ended sessions, and the plans that nobody has any more."""
        self._database.execute(
            "DELETE FROM sessions WHERE state = ? AND id NOT IN"
            " (SELECT id FROM sessions WHERE state = ? ORDER BY id DESC LIMIT ?)",
            (State.ENDED.value, State.ENDED.value, KEEP_ENDED),
        )
        self._database.execute("DELETE FROM plans WHERE digest NOT IN (SELECT plan FROM sessions)")
        self._database.execute(
            "DELETE FROM changes WHERE session NOT IN (SELECT id FROM sessions WHERE state <> ?)",
            (State.ENDED.value,),
        )
        self.signals.prune(self._live)
        self.ledger.prune(row[0] for row in self._database.execute("SELECT id FROM sessions"))

    def _remember(self, session: Session) -> None:
        self._whole.clear()
        self._live[session.id] = session
        self._by_cgroup[session.cgroup_id] = session

    def _load(self, condition: str, *values: str) -> list[Session]:
        query = (
            "SELECT sessions.id, sessions.body, plans.body,"  # noqa: S608
            " state, hold, pid, ended, why, denied"
            " FROM sessions JOIN plans ON plans.digest = sessions.plan"
            f" WHERE {condition} ORDER BY sessions.id"  # `condition` is ours
        )
        # Sessions of one profile mostly share their plan, which is the expensive part.
        plans = lru_cache(None)(plan_json.from_json)
        return [_session(row, plans) for row in self._database.execute(query, values)]


def _upgrade(database: sqlite3.Connection) -> None:
    """Give a database that an earlier version made the columns that it lacks."""
    columns = {row[1] for row in database.execute("PRAGMA table_info(sessions)")}
    if "denied" not in columns:
        database.execute("ALTER TABLE sessions ADD COLUMN denied TEXT")


def _body(session: Session) -> str:
    body = {name: getattr(session, name) for name in FIXED}
    body["chain"] = chains.to_json(session.chain)
    return json.dumps(body)


def _changing(
    session: Session,
) -> tuple[str, str | None, int | None, float | None, str, str | None]:
    hold = session.hold.value if session.hold else None
    denied = session.denied.value if session.denied else None
    return session.state.value, hold, session.pid, session.ended, session.why, denied


def _session(row: tuple[Any, ...], plans: Callable[[str], Plan]) -> Session:
    identity, body, plan, state, hold, pid, ended, why, denied = row
    fixed = json.loads(body)
    fixed["chain"] = chains.from_json(fixed["chain"])
    fixed |= {name: tuple(fixed.get(name, ())) for name in NUMBERS}
    return Session(
        id=identity,
        plan=plans(plan),
        state=State(state),
        hold=Hold(hold) if hold else None,
        pid=pid,
        ended=ended,
        why=why,
        denied=Denial(denied) if denied else None,
        **fixed,
    )

# SPDX-License-Identifier: Apache-2.0
"""The log: an SQLite database that only grows, each record chained to the one before.

One writer, any number of readers beside it (WAL). With synchronous=NORMAL a crash of the daemon
loses nothing; a crash of the host may lose the end of what was appended in the last second.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from monitor.audit import canonical, head, schema
from monitor.audit.head import Head, HeadError
from monitor.audit.reader import Reader, closing_on_error
from monitor.audit.record import Draft, Record
from monitor.audit.schema import StoreError

__all__ = ["Reader", "Store", "StoreError"]

HEAD_SECONDS = 1.0
# Sessions whose number is kept in memory.
_ACTORS_KNOWN = 4096

# id, time, actor, verb, verdict, body, hash
Row = tuple[int, float, int, str, str, str, bytes]


class Store(Reader):
    """The log's one writer. Not for more than one thread.

    `head_problem` says why the head file cannot be written at the moment ("": it can): what is
    appended is safe, but cutting it off would not be noticed.
    """

    def __init__(self, path: Path) -> None:
        """Open the log, or make it. StoreError: it is damaged, cut off, or of another version."""
        self.path = path
        self.head_problem = ""
        self._head_path = head.beside(path)
        self._actors: dict[tuple[str, str], int] = {}
        self._head_due = 0.0
        try:
            self._database = sqlite3.connect(_made(path), isolation_level=None)
            with closing_on_error(self._database):
                schema.set_up(self._database, path)
                self._last = schema.last(self._database)
                self._written = self._known_head()
                self._keep_head()
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"cannot open the audit log {path}: {error}") from error

    @staticmethod
    def reader(path: Path) -> Reader:
        return Reader(path)

    def _known_head(self) -> Head:
        """What the head file says. StoreError where the log has lost what it knows of."""
        advice = "move both files away to start a new log, and keep them as evidence"
        try:
            known = head.read(self._head_path)
        except HeadError as error:
            raise StoreError(f"{error}: {advice}") from error
        if known is None:
            if self._last.id:
                raise StoreError(f"{self._head_path} is missing beside {self.path}: {advice}")
            head.write(self._head_path, Head())
            return Head()
        if known.id and _hash_of(self._database, known.id) != known.hash:
            raise StoreError(
                f"the audit log {self.path} ends at record {self._last.id} and does not hold"
                f" record {known.id} that {self._head_path} names: {advice}"
            )
        return known

    def append(self, drafts: Sequence[Draft]) -> list[Record]:
        """Store all drafts, in one transaction, and return them as records.

        StoreError: it cannot be written (no room, read-only, input or output fails). Then nothing
        of `drafts` is in the log, and the caller may try again with the same ones.
        """
        if not drafts:
            return []
        last, digest = self._last.id, self._last.hash
        records = []
        rows = []
        strangers: dict[tuple[str, str], int] = {}
        for number, draft in enumerate(drafts, last + 1):
            body = canonical.encode(number, draft)
            digest = canonical.link(digest, body)
            actor = self._actor(draft.session, draft.agent, strangers)
            rows.append(
                (
                    number,
                    draft.time,
                    actor,
                    draft.verb._value_,
                    draft.verdict._value_,
                    body,
                    digest,
                )  # fmt: skip
            )
            records.append(
                Record(
                    draft.time,
                    draft.session,
                    draft.agent,
                    draft.chain,
                    draft.pid,
                    draft.exe,
                    draft.verb,
                    draft.object,
                    draft.verdict,
                    draft.reason,
                    draft.rule,
                    draft.mechanism,
                    draft.count,
                    draft.details,
                    number,
                    digest.hex(),
                )  # fmt: skip
            )
        self._write(rows, strangers, Head(rows[-1][0], digest))
        if time.monotonic() >= self._head_due:
            self._keep_head()
        return records

    def _actor(self, session: str, agent: str, strangers: dict[tuple[str, str], int]) -> int:
        """The number of (session, agent); a new one is put into `strangers`."""
        key = (session, agent)
        number = self._actors.get(key) or strangers.get(key)
        if number is None:
            row = self._database.execute(
                "SELECT id FROM actors WHERE session = ? AND agent = ?", key
            ).fetchone()
            if row is not None:
                number = self._actors[key] = row[0]
            else:
                if not strangers:
                    self._next_actor = _highest(self._database, "actors") + 1
                number = strangers[key] = self._next_actor
                self._next_actor += 1
        return number

    def _write(self, rows: list[Row], strangers: dict[tuple[str, str], int], newest: Head) -> None:
        database = self._database
        actors = [(number, *key) for key, number in strangers.items()]
        try:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("INSERT INTO actors VALUES (?, ?, ?)", actors)
            database.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            database.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):
                if database.in_transaction:
                    database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"cannot write the audit log {self.path}: {error}") from error
            raise
        self._last = newest
        if len(self._actors) > _ACTORS_KNOWN:
            self._actors.clear()
        self._actors |= strangers

    def _keep_head(self) -> None:
        """Bring the head file up to date, after what it covers is on the disk."""
        self._head_due = time.monotonic() + HEAD_SECONDS
        if self._written == self._last:
            return
        try:
            _sync(Path(f"{self.path}-wal"))
            head.write(self._head_path, self._last)
        except OSError as error:
            self.head_problem = f"cannot write {self._head_path}: {error.strerror}"
        else:
            self._written = self._last
            self.head_problem = ""

    def close(self) -> None:
        """Write the head and close; nothing is lost without, but verify then knows less."""
        self._keep_head()
        super().close()


def _made(path: Path) -> Path:
    """Make the file when absent, for its owner only; SQLite gives those beside it the same mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return path


def _hash_of(database: sqlite3.Connection, number: int) -> bytes | None:
    row = database.execute("SELECT hash FROM records WHERE id = ?", (number,)).fetchone()
    return None if row is None else bytes(row[0])


def _highest(database: sqlite3.Connection, table: str) -> int:
    row = database.execute(f"SELECT max(id) FROM {table}").fetchone()  # noqa: S608 - ours
    return row[0] or 0


def _sync(path: Path) -> None:
    """Wait until the file is on the disk. Not for the database: closing it drops its locks."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # all of it is in the database, and was synced there
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)

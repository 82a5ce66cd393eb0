# SPDX-License-Identifier: Apache-2.0
"""Signals that stand: what was last said of each subject, kept until something better is.

In memory and in SQLite. On a full disk a signal counts from memory, and is written later.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from monitor.session.session import Session
from monitor.session.signal import Kind, Signal

SCHEMA = """
CREATE TABLE IF NOT EXISTS signals (
    subject TEXT, kind TEXT, body TEXT, PRIMARY KEY (subject, kind)
) WITHOUT ROWID;
"""
SESSION = "session:"

Key = tuple[str, Kind]


class Standing:
    """Not for use from more than one thread."""

    def __init__(self, path: Path) -> None:
        """Open or make the table in the database at `path`; sqlite3.Error."""
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + SCHEMA)
        self.problem = ""
        self._unsaved: set[Key] = set()
        self._standing: dict[Key, Signal] = {}
        for subject, kind, body in self._database.execute("SELECT * FROM signals"):
            self._standing[subject, Kind(kind)] = Signal.from_json(body)

    def close(self) -> None:
        self._database.close()

    def all(self) -> tuple[Signal, ...]:
        return tuple(self._standing.values())

    def put(self, signal: Signal) -> None:
        """Let `signal` stand in place of what was said before."""
        self._standing[signal.subject, signal.kind] = signal
        self._save({(signal.subject, signal.kind)})

    def drop(self, subject: str, kind: Kind) -> None:
        if self._standing.pop((subject, kind), None) is not None:
            self._save({(subject, kind)})

    def of(self, session: Session) -> list[Signal]:
        """Those about the session, whoever of its chain they name."""
        if not self._standing:
            return []
        return [each for each in self._standing.values() if concerns(each.subject, session)]

    def prune(self, live: Iterable[str]) -> None:
        """Forget what was said of sessions that have ended."""
        kept = {SESSION + identity for identity in live}
        for subject, kind in tuple(self._standing):
            if subject.startswith(SESSION) and subject not in kept:
                self.drop(subject, kind)

    def save(self) -> None:
        """Write what could not be written before."""
        if self._unsaved:
            self._save(set())

    def _save(self, keys: set[Key]) -> None:
        self._unsaved |= keys
        try:
            for subject, kind in tuple(self._unsaved):
                signal = self._standing.get((subject, kind))
                if signal is None:
                    self._database.execute(
                        "DELETE FROM signals WHERE subject = ? AND kind = ?", (subject, kind.value)
                    )
                else:
                    self._database.execute(
                        "INSERT OR REPLACE INTO signals VALUES (?, ?, ?)",
                        (subject, kind.value, signal.to_json()),
                    )
                self._unsaved.discard((subject, kind))
        except sqlite3.Error as error:
            self.problem = str(error)
        else:
            self.problem = ""


def concerns(subject: str, session: Session) -> bool:
    """Whether a subject names the session, or anybody in whose name it runs."""
    kind, _, name = subject.partition(":")
    match kind:
        case "session":
            return session.id == name
        case "agent":
            agents = session.chain.names()[1:]
            return any(each.partition("/agent/")[2] == name for each in agents)
        case _:
            return subject in session.chain.names()

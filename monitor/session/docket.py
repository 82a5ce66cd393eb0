# SPDX-License-Identifier: Apache-2.0
"""The docket: which asks wait, how others were answered, and which answers still hold.

It stands in the registry's database, by a connection of its own. What is used of an answer is
committed before the action goes on, so that a daemon that is killed gives nothing twice. Where the
disk is full an answer holds in memory only: the next worker knows less, and asks again.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monitor.session.asks import Answer, Ask, How, Wanted

# Of asks that are over, so many are kept to say what became of them.
KEEP_ANSWERED = 10_000
PRUNE_EVERY = 1_000
SHORTEST_REFERENCE = 4

SCHEMA = """
CREATE TABLE IF NOT EXISTS asks (
    id TEXT PRIMARY KEY,
    wanted TEXT NOT NULL,
    raised REAL NOT NULL,
    since INTEGER NOT NULL,
    deadline INTEGER NOT NULL,
    token TEXT NOT NULL,
    answered REAL,
    answer TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS asks_by_answer ON asks (answered);
CREATE TABLE IF NOT EXISTS standing (
    place TEXT PRIMARY KEY,
    allow INTEGER NOT NULL,
    by TEXT NOT NULL,
    why TEXT NOT NULL,
    ask TEXT NOT NULL,
    uses INTEGER,
    expires INTEGER NOT NULL
) WITHOUT ROWID;
"""

# Session, link, verb and key, as `Wanted.place`.
Place = tuple[str, int, str, str]


@dataclass(frozen=True, slots=True)
class Standing:
    """An answer that holds for more than one action.

    `uses` are left; None: any number. `expires` is CLOCK_BOOTTIME nanoseconds; 0: with the session.
    """

    place: Place
    allow: bool
    by: str
    why: str
    ask: str
    uses: int | None
    expires: int


@dataclass(frozen=True, slots=True)
class Closed:
    """An ask that is over, when (Unix seconds), and how it was answered."""

    ask: Ask
    answered: float
    answer: Answer


class Docket:
    """Asks and standing answers of this host. Not for use from more than one thread."""

    def __init__(self, path: Path) -> None:
        """Open the registry's database at `path`; sqlite3.Error where it cannot be used."""
        self.problem = ""  # why the last change could not be written
        self._settled = 0
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;" + SCHEMA)

    def close(self) -> None:
        self._database.close()

    # -- asks ----------------------------------------------------------------------------------

    def add(self, ask: Ask) -> bool:
        """Keep an ask that waits; False: it is known in memory only."""
        row = (ask.id, ask.wanted.to_json(), ask.raised, ask.since, ask.deadline, ask.token)
        return self._write(
            [("INSERT INTO asks VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)", [row])],
        )

    def settle(
        self, answers: Iterable[tuple[str, Answer]], standing: Standing | None = None
    ) -> bool:
        """Close asks with their answers and have one of them hold on, or nothing of it.

        False: it could not be written.
        """
        now = time.time()
        rows = [(now, _answer_text(answer), identity) for identity, answer in answers]
        changes: list[tuple[str, list[tuple[Any, ...]]]] = [
            ("UPDATE asks SET answered = ?, answer = ? WHERE id = ?", rows)
        ]
        if standing is not None:
            row = (
                _place_text(standing.place),
                int(standing.allow),
                *map(_text, (standing.by, standing.why, standing.ask)),
                standing.uses,
                standing.expires,
            )
            changes.append(("INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?, ?, ?, ?)", [row]))
        written = self._write(changes)
        self._settled += len(rows)
        if self._settled > PRUNE_EVERY:
            self.prune()
        return written

    def waiting(self) -> list[Ask]:
        """Asks that are not over, oldest first; nobody waits for them yet."""
        rows = self._database.execute(f"{_ASK} WHERE answered IS NULL ORDER BY since, id")
        return [_ask(row) for row in rows]

    def closed(self, reference: str) -> list[Closed]:
        """Asks that are over and whose id begins with `reference`, as far as they are kept."""
        if len(reference) < SHORTEST_REFERENCE:
            return []
        rows = self._database.execute(
            f"{_ASK} WHERE answered IS NOT NULL AND substr(id, 1, ?) = ? LIMIT 100",
            (len(reference), _text(reference)),
        )
        return [
            Closed(_ask(row), row[6], Answer(**_answer_data(json.loads(row[7])))) for row in rows
        ]

    # -- answers that hold on ------------------------------------------------------------------

    def standing(self) -> list[Standing]:
        rows = self._database.execute(
            "SELECT place, allow, by, why, ask, uses, expires FROM standing"
        )
        return [
            Standing(_place(place), bool(allow), by, why, ask, uses, expires)
            for place, allow, by, why, ask, uses, expires in rows
        ]

    def use(self, standing: Standing) -> bool:
        """Write down that `standing` has been used once more; False: it was not, and must not be.

        `standing` is what is left afterwards: with no uses, it is forgotten.
        """
        place = _place_text(standing.place)
        if standing.uses == 0:
            return self._write([("DELETE FROM standing WHERE place = ?", [(place,)])])
        row = (standing.uses, place)
        return self._write([("UPDATE standing SET uses = ? WHERE place = ?", [row])])

    def lift(self, places: Iterable[Place]) -> bool:
        """Forget answers that hold no more."""
        rows = [(_place_text(place),) for place in places]
        return self._write([("DELETE FROM standing WHERE place = ?", rows)])

    def prune(self) -> None:
        """Forget the oldest asks that are over."""
        self._settled = 0
        self._write(
            [
                (
                    "DELETE FROM asks WHERE answered <= (SELECT answered FROM asks"
                    " WHERE answered IS NOT NULL ORDER BY answered DESC LIMIT 1 OFFSET ?)",
                    [(KEEP_ANSWERED,)],
                )
            ]
        )

    def _write(self, changes: Iterable[tuple[str, list[tuple[Any, ...]]]]) -> bool:
        try:
            with self._database as database:
                database.execute("BEGIN IMMEDIATE")
                for statement, rows in changes:
                    database.executemany(statement, rows)
        except sqlite3.Error as error:
            self.problem = str(error)
            return False
        self.problem = ""
        return True


_ASK = "SELECT id, wanted, raised, since, deadline, token, answered, answer FROM asks"


def _ask(row: tuple[Any, ...]) -> Ask:
    identity, wanted, raised, since, deadline, token = row[:6]
    return Ask(identity, Wanted.from_json(wanted), raised, since, deadline, token, count=0)


def _answer_text(answer: Answer) -> str:
    return json.dumps(asdict(answer) | {"how": answer.how.value})


def _answer_data(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"how": How(data["how"])}


def _place_text(place: Place) -> str:
    """In ASCII: a key holds whatever bytes the agent put into a name, which SQLite would refuse."""
    return json.dumps(place)


def _place(text: str) -> Place:
    session, link, verb, key = json.loads(text)
    return session, link, verb, key


def _text(text: str) -> str:
    """What SQLite takes: a lone surrogate is no text."""
    return text.encode("utf-8", "backslashreplace").decode()

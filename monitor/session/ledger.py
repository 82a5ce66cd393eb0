# SPDX-License-Identifier: Apache-2.0
"""The ledger of grants: how often each was used, which were taken back, what runs under them.

It stands in the registry's database, by a connection of its own that waits for the disk at each
change: what was used or taken back must be so after the host lost its power too.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

# After its expiry a grant is refused for that; its uses are kept this much longer, for clocks that
# are set back.
KEEP_SECONDS = 30 * 86400

SCHEMA = """
CREATE TABLE IF NOT EXISTS grant_uses (
    revocation_id TEXT PRIMARY KEY,
    used INTEGER NOT NULL,
    expires REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grants_revoked (
    revocation_id TEXT PRIMARY KEY,
    time REAL NOT NULL,
    why TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grant_sessions (
    revocation_id TEXT NOT NULL,
    session TEXT NOT NULL,
    place INTEGER NOT NULL,
    PRIMARY KEY (revocation_id, session)
) WITHOUT ROWID;
"""


class Spent(Exception):
    """A block has been used as often as it says; `used` times, by its revocation id."""

    def __init__(self, revocation_id: str, used: int) -> None:
        super().__init__(revocation_id)
        self.revocation_id = revocation_id
        self.used = used


class Ledger:
    """What this host remembers of grants. Not for use from more than one thread."""

    def __init__(self, path: Path) -> None:
        """Open the registry's database at `path`; sqlite3.Error where it cannot be used."""
        self.problem = ""  # why revocations wait to be written
        self._waiting: dict[str, str] = {}
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;" + SCHEMA)

    def close(self) -> None:
        self._database.close()

    def use(
        self,
        session: str,
        revocation_ids: Iterable[str],
        uses: Iterable[tuple[str, int]],
        expires: float,
    ) -> None:
        """Count a session on every block that says how often it may be used, or on none.

        `revocation_ids` are those of all blocks, `uses` those that say how often. Spent.
        """
        with self._database as database:
            # Immediate: nobody else counts in between.
            database.execute("BEGIN IMMEDIATE")
            for identity, most in uses:
                row = database.execute(
                    "INSERT INTO grant_uses VALUES (?, 1, ?) ON CONFLICT (revocation_id)"
                    " DO UPDATE SET used = used + 1 RETURNING used",
                    (identity, expires),
                ).fetchone()
                if row[0] > most:
                    raise Spent(identity, most)
            database.executemany(
                "INSERT INTO grant_sessions VALUES (?, ?, ?)",
                [(identity, session, place) for place, identity in enumerate(revocation_ids)],
            )

    def used(self, revocation_id: str) -> int:
        row = self._database.execute(
            "SELECT used FROM grant_uses WHERE revocation_id = ?", (revocation_id,)
        ).fetchone()
        return 0 if row is None else int(row[0])

    def revoke(self, revocation_id: str, why: str) -> None:
        """Take back what has this block, at once; where the disk is full it is written later."""
        self._waiting[revocation_id] = why
        self.save()

    def save(self) -> None:
        """Write the revocations that could not be written; `problem` says why they still cannot."""
        try:
            for identity, why in tuple(self._waiting.items()):
                self._database.execute(
                    "INSERT OR IGNORE INTO grants_revoked VALUES (?, ?, ?)",
                    (identity, time.time(), why),
                )
                del self._waiting[identity]
        except sqlite3.Error as error:
            self.problem = str(error)
        else:
            self.problem = ""

    def revoked(self, revocation_id: str) -> bool:
        return revocation_id in self._waiting or bool(
            self._database.execute(
                "SELECT count(*) FROM grants_revoked WHERE revocation_id = ?", (revocation_id,)
            ).fetchone()[0]
        )

    def sessions(self, revocation_id: str) -> frozenset[str]:
        """Ids of the sessions that were started under a grant with this block."""
        rows = self._database.execute(
            "SELECT session FROM grant_sessions WHERE revocation_id = ?", (revocation_id,)
        )
        return frozenset(row[0] for row in rows)

    def blocks(self, session: str) -> list[str]:
        """Revocation ids of the grant that a session was started under; empty: it had none."""
        rows = self._database.execute(
            "SELECT revocation_id FROM grant_sessions WHERE session = ? ORDER BY place", (session,)
        )
        return [row[0] for row in rows]

    def blocks_of(self, sessions: Iterable[str]) -> dict[str, list[str]]:
        """`blocks` of those sessions that were started under a grant, in one go."""
        found: dict[str, list[str]] = {}
        rows = self._database.execute(
            "SELECT session, revocation_id FROM grant_sessions"
            " WHERE session IN (SELECT value FROM json_each(?)) ORDER BY session, place",
            (json.dumps(list(sessions)),),
        )
        for session, identity in rows:
            found.setdefault(session, []).append(identity)
        return found

    def prune(self, kept: Iterable[str]) -> None:
        """Forget what can matter no more; `kept` are the sessions that are still known."""
        with self._database as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute(
                "DELETE FROM grant_uses WHERE expires < ?", (time.time() - KEEP_SECONDS,)
            )
            known = frozenset(kept)
            rows = database.execute("SELECT DISTINCT session FROM grant_sessions").fetchall()
            database.executemany(
                "DELETE FROM grant_sessions WHERE session = ?",
                [row for row in rows if row[0] not in known],
            )

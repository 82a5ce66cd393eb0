# SPDX-License-Identifier: Apache-2.0
"""The log's tables, and what tells a database that is a log of this version."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from monitor.audit.head import Head
from monitor.audit.query import COMMON_VERB

APPLICATION = 0x52494C47  # "RILG"
FORMAT = 1
# Pages of the WAL before it is copied into the database: 16 MiB, so that a burst is written once.
_CHECKPOINT_PAGES = 4096


# The columns beside body and hash are for finding records; `verify` compares them with the body.
_SCHEMA = f"""
CREATE TABLE actors (
    id INTEGER PRIMARY KEY,
    session TEXT NOT NULL,
    agent TEXT NOT NULL,
    UNIQUE (session, agent)
) STRICT;
CREATE TABLE records (
    id INTEGER PRIMARY KEY,
    time REAL NOT NULL,
    actor INTEGER NOT NULL REFERENCES actors (id),
    verb TEXT NOT NULL,
    verdict TEXT NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX records_by_actor ON records (actor);
CREATE INDEX records_by_time ON records (time);
CREATE INDEX records_by_verb ON records (verb) WHERE verb <> '{COMMON_VERB.value}';
CREATE INDEX records_by_verdict ON records (verdict) WHERE verdict <> 'allow';
"""
_GUARDS = "".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_{action.lower()} BEFORE {action} ON {table}"
    " BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;"
    for table in ("records", "actors")
    for action in ("UPDATE", "DELETE")
)


class StoreError(Exception):
    """The log cannot be opened, read or written; the message says which file and why."""


def set_up(database: sqlite3.Connection, path: Path) -> None:
    for setting in (
        "journal_mode = WAL",
        "synchronous = NORMAL",
        f"wal_autocheckpoint = {_CHECKPOINT_PAGES}",
    ):
        database.execute(f"PRAGMA {setting}")
    if database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
        database.executescript(
            f"BEGIN; {_SCHEMA} PRAGMA application_id = {APPLICATION};"
            f" PRAGMA user_version = {FORMAT}; COMMIT"
        )
    check_format(database, path)
    database.executescript(_GUARDS)


def check_format(database: sqlite3.Connection, path: Path) -> None:
    """StoreError where the database is not an audit log, or one of another version."""
    application = database.execute("PRAGMA application_id").fetchone()[0]
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION:
        raise StoreError(f"{path} is a database, but no audit log")
    if version != FORMAT:
        raise StoreError(
            f"the audit log {path} has format {version}, and this version reads {FORMAT}:"
            " move it away to start a new one"
        )


def last(database: sqlite3.Connection) -> Head:
    row = database.execute("SELECT id, hash FROM records ORDER BY id DESC LIMIT 1").fetchone()
    return Head() if row is None else Head(*row)

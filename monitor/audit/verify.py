# SPDX-License-Identifier: Apache-2.0
"""Whether the log is what was written: every record, their order, and its end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.audit import canonical, head
from monitor.audit.head import Head, HeadError

# Rows read at a time: between two reads the writer may give room in its WAL back.
_CHUNK = 10_000


@dataclass(frozen=True, slots=True)
class Verification:
    """`records` passed. Where not `ok`, `problem` is one line, and `record_id` where it is."""

    ok: bool
    records: int
    problem: str = ""
    record_id: int | None = None


class _Tampered(Exception):
    def __init__(self, number: int | None, problem: str) -> None:
        super().__init__(problem)
        self.number = number


def check(database: sqlite3.Connection, path: Path) -> Verification:
    """Read the whole log in `database`, whose file is `path`; what it holds now is checked."""
    passed = 0
    try:
        # Before the records: so it is behind them, or something is wrong.
        known = head.read(head.beside(path))
        digest = canonical.START
        for row in _rows(database):
            digest = _check_record(row, passed + 1, digest)
            _check_known(passed + 1, digest, known)
            passed += 1
        _check_end(passed, known, head.beside(path))
    except _Tampered as error:
        return Verification(False, passed, str(error), error.number)
    except (HeadError, OSError) as error:
        return Verification(False, passed, f"the head file cannot be read: {error}")
    except sqlite3.Error as error:
        problem = f"the database cannot be read behind record {passed}: {error}"
        return Verification(False, passed, problem, passed + 1)
    return Verification(True, passed)


def _rows(database: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    statement = (
        "SELECT records.id, records.time, session, agent, verb, verdict, body, hash"
        " FROM records LEFT JOIN actors ON actors.id = records.actor"
        " WHERE records.id > ? ORDER BY records.id LIMIT ?"
    )
    position = -(1 << 63)
    while rows := database.execute(statement, (position, _CHUNK)).fetchall():
        yield from rows
        position = rows[-1][0]


def _check_record(row: tuple[Any, ...], expected: int, previous: bytes) -> bytes:
    """The record's hash, where row and record are number `expected` and behind `previous`."""
    number, time, session, agent, verb, verdict, body, digest = row
    if number > expected:
        raise _Tampered(expected, f"record {expected} is missing")
    if number < expected:
        raise _Tampered(number, f"record {number} was put in: ids count from 1")
    try:
        linked = canonical.link(previous, body)
        record = canonical.decode(body, digest)
    except (canonical.BodyError, UnicodeEncodeError) as error:
        raise _Tampered(number, f"record {number} was changed: {error}") from error
    if linked != digest or record.id != number:
        raise _Tampered(number, f"record {number} was changed, or is not in its place")
    said = record.time, record.session, record.agent, record.verb.value, record.verdict.value
    if said != (time, session, agent, verb, verdict):
        raise _Tampered(number, f"record {number} is filed under what it does not say")
    return linked


def _check_known(number: int, digest: bytes, known: Head | None) -> None:
    if known is not None and number == known.id and digest != known.hash:
        raise _Tampered(number, f"record {number} is not the one that the head file names")


def _check_end(passed: int, known: Head | None, path: Path) -> None:
    if known is None:
        if passed:
            raise _Tampered(None, f"{path} is missing: a cut-off end would not be noticed")
    elif passed < known.id:
        many = known.id - passed
        raise _Tampered(passed + 1, f"the last {many} records are missing: the log was cut off")

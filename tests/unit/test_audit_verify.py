# SPDX-License-Identifier: Apache-2.0
"""Tampering by hand: the triggers dropped, the database changed with SQL, the log verified."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.audit import canonical, head
from monitor.audit.head import Head
from monitor.audit.store import Store
from monitor.audit.verify import Verification
from monitor.policy.action import Verdict
from tests.support.audit import draft

COUNT = 12


def fill(path: Path) -> None:
    log = Store(path)
    for number in range(COUNT):
        verdict = Verdict.DENY if number % 3 == 0 else Verdict.ALLOW
        session = f"session-{number % 2}"
        log.append(
            [draft(time=1.5 * number, object=f"/{number}", verdict=verdict, session=session)]
        )
    log.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "audit.db"
    fill(path)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return copied(original, tmp_path)


def copied(original: Path, folder: Path) -> Path:
    for file in original.parent.iterdir():
        shutil.copy(file, folder)
    return folder / original.name


@contextmanager
def forced(path: Path) -> Iterator[sqlite3.Connection]:
    """The database without its triggers."""
    with closing(sqlite3.connect(path)) as database:
        names = database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        assert names
        for (name,) in names:
            database.execute(f"DROP TRIGGER {name}")
        yield database
        database.commit()


def verified(path: Path) -> Verification:
    reader = Store.reader(path)
    try:
        return reader.verify()
    finally:
        reader.close()


def test_an_untouched_log_is_fine(path: Path) -> None:
    assert verified(path) == Verification(True, COUNT)
    with forced(path):
        pass
    assert verified(path) == Verification(True, COUNT)


def test_an_empty_log_is_fine(tmp_path: Path) -> None:
    Store(tmp_path / "audit.db").close()
    assert verified(tmp_path / "audit.db") == Verification(True, 0)


SWAP = """
UPDATE records SET id = 1000 WHERE id = 4;
UPDATE records SET id = 4 WHERE id = 5;
UPDATE records SET id = 5 WHERE id = 1000;
"""
SWAP_BODIES = """
CREATE TEMP TABLE pair AS SELECT id, body FROM records WHERE id IN (4, 5);
UPDATE records SET body = (SELECT body FROM pair WHERE pair.id = 9 - records.id) WHERE id IN (4, 5);
"""


@pytest.mark.parametrize(
    ("statements", "record", "problem"),
    [
        ("UPDATE records SET body = replace(body, '/3', '/4') WHERE id = 4", 4, "changed"),
        ("UPDATE records SET body = replace(body, 'deny', 'allow') WHERE id = 4", 4, "changed"),
        ("UPDATE records SET body = '[]' WHERE id = 4", 4, "changed"),
        ("UPDATE records SET body = 'é' WHERE id = 4", 4, "changed"),
        ("UPDATE records SET hash = zeroblob(32) WHERE id = 4", 4, "changed"),
        ("UPDATE records SET hash = x'00' WHERE id = 4", 4, "changed"),
        ("UPDATE records SET verdict = 'allow' WHERE id = 4", 4, "filed under"),
        ("UPDATE records SET verb = 'proc.exec' WHERE id = 4", 4, "filed under"),
        ("UPDATE records SET time = 0.5 WHERE id = 4", 4, "filed under"),
        ("UPDATE records SET actor = 1 WHERE id = 4", 4, "filed under"),
        ("UPDATE records SET actor = 99 WHERE id = 4", 4, "filed under"),
        ("UPDATE actors SET session = 'another' WHERE id = 1", 1, "filed under"),
        ("DELETE FROM actors WHERE id = 1", 1, "filed under"),
        ("DELETE FROM records WHERE id = 1", 1, "record 1 is missing"),
        ("DELETE FROM records WHERE id = 4", 4, "record 4 is missing"),
        ("DELETE FROM records WHERE id IN (4, 5, 6)", 4, "record 4 is missing"),
        (SWAP, 4, "changed, or is not in its place"),
        (SWAP_BODIES, 4, "changed, or is not in its place"),
        (f"DELETE FROM records WHERE id = {COUNT}", COUNT, "the last 1 records are missing"),
        ("DELETE FROM records WHERE id > 4", 5, "the last 8 records are missing"),
        ("DELETE FROM records", 1, "the last 12 records are missing"),
        (
            "INSERT INTO records SELECT 0, time, actor, verb, verdict, body, hash FROM records"
            " WHERE id = 4", 0, "put in",
        ),
        (
            "INSERT INTO records SELECT -5, time, actor, verb, verdict, body, hash FROM records"
            " WHERE id = 4", -5, "put in",
        ),
        (
            "INSERT INTO records SELECT 13, time, actor, verb, verdict, body, hash FROM records"
            " WHERE id = 4", 13, "changed, or is not in its place",
        ),
        (
            "UPDATE records SET id = id + 1000 WHERE id > 4;"
            "UPDATE records SET id = id - 999 WHERE id > 1000;"
            "INSERT INTO records SELECT 5, time, actor, verb, verdict, body, hash FROM records"
            " WHERE id = 4", 5, "changed, or is not in its place",
        ),
        ("DROP TABLE actors", 1, "cannot be read"),
    ],
)  # fmt: skip
def test_tampering_is_found(path: Path, statements: str, record: int, problem: str) -> None:
    with forced(path) as database:
        database.executescript(statements)
    found = verified(path)
    assert not found.ok
    assert problem in found.problem
    assert found.record_id == record
    assert "\n" not in found.problem


def test_a_chain_forged_anew_is_not_the_one_of_the_head(path: Path) -> None:
    with forced(path) as database:
        rows = database.execute("SELECT id, body FROM records ORDER BY id").fetchall()
        digest = canonical.START
        for number, body in rows:
            forged = body.replace('"/3"', '"/harmless"')
            digest = canonical.link(digest, forged)
            database.execute(
                "UPDATE records SET body = ?, hash = ? WHERE id = ?", (forged, digest, number)
            )
    found = verified(path)
    assert (found.ok, found.record_id) == (False, COUNT)
    assert "not the one that the head file names" in found.problem


def test_a_head_may_be_behind_but_not_ahead(path: Path) -> None:
    place = head.beside(path)
    reader = Store.reader(path)
    fifth = reader.get(5)
    reader.close()
    assert fifth is not None
    head.write(place, Head(5, bytes.fromhex(fifth.hash)))
    assert verified(path) == Verification(True, COUNT)
    head.write(place, Head(4, bytes.fromhex(fifth.hash)))
    assert verified(path).record_id == 4
    head.write(place, Head(COUNT + 1, bytes(32)))
    assert verified(path).problem == "the last 1 records are missing: the log was cut off"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda place: place.unlink(), "is missing"),
        (lambda place: place.write_text("{}"), "holds no head"),
        (lambda place: place.write_bytes(b"\xff"), "holds no head"),
        (lambda place: (place.unlink(), place.mkdir()), "cannot be read"),
    ],
    ids=["gone", "empty", "bytes", "folder"],
)  # fmt: skip
def test_a_head_that_is_not_there_or_is_none(path: Path, damage: object, problem: str) -> None:
    damage(head.beside(path))  # type: ignore[operator]
    found = verified(path)
    assert not found.ok
    assert problem in found.problem


def test_bytes_changed_on_the_disk_are_found(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.find(b"deny")
    assert place > 0
    while place >= 0:
        data[place : place + 4] = b"allw"
        place = data.find(b"deny", place)
    path.write_bytes(data)
    assert not verified(path).ok


CHANGES = st.tuples(
    st.sampled_from(["time", "actor", "verb", "verdict", "body", "hash", "id"]),
    st.integers(1, COUNT),
    st.integers(0, 10**6),
)


@settings(max_examples=60, deadline=None)
@given(CHANGES)
def test_no_change_of_one_place_passes(original: Path, change: tuple[str, int, int]) -> None:
    column, number, salt = change
    with tempfile.TemporaryDirectory() as folder:
        path = copied(original, Path(folder))
        with forced(path) as database:
            (old,) = database.execute(
                f"SELECT {column} FROM records WHERE id = ?", (number,)
            ).fetchone()
            database.execute(
                f"UPDATE OR REPLACE records SET {column} = ? WHERE id = ?",
                (altered(old, salt), number),
            )
        assert not verified(path).ok


def altered(old: object, salt: int) -> object:
    """Another value of the same type."""
    match old:
        case int():
            return old + 1 + salt % 20
        case float():
            return old + 0.25 + salt % 7
        case str():
            place = salt % len(old)
            return old[:place] + chr((ord(old[place]) - 32 + 1) % 95 + 32) + old[place + 1 :]
        case bytes():
            place = salt % len(old)
            return old[:place] + bytes([old[place] ^ (1 + salt % 255)]) + old[place + 1 :]
    raise AssertionError(old)

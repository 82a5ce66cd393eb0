# SPDX-License-Identifier: Apache-2.0
"""The log as a file: appending, finding, opening what is not ours, failing without loss."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monitor.audit import head
from monitor.audit.head import Head
from monitor.audit.query import Query, select
from monitor.audit.record import Record
from monitor.audit.store import Reader, Store, StoreError
from monitor.audit.verify import Verification
from monitor.policy.action import Verb, Verdict
from tests.support.audit import draft, drafts
from tests.support.checkout import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def log(path: Path) -> Iterator[Store]:
    made = Store(path)
    yield made
    made.close()


def ids(records: list[Record]) -> list[int]:
    return [record.id for record in records]


# -- appending -------------------------------------------------------------------------------------


def test_ids_count_from_one_and_records_come_back(log: Store) -> None:
    given = [draft(object=f"/{number}") for number in range(5)]
    records = log.append(given[:2]) + log.append([]) + log.append(given[2:])
    assert ids(records) == [1, 2, 3, 4, 5]
    assert log.last() == 5
    assert log.query(Query()) == records
    assert log.get(3) == records[2]
    assert [log.get(number) for number in (-1, 0, 6)] == [None, None, None]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(drafts, max_size=20))
def test_anything_that_an_agent_may_do_can_be_stored(log: Store, given: list[object]) -> None:
    before = log.last()
    records = log.append(given)  # type: ignore[arg-type]
    assert log.query(Query(after=before, limit=100)) == records
    assert log.verify().ok


def test_a_reopened_log_goes_on(path: Path) -> None:
    for expected in (1, 2, 3):
        log = Store(path)
        assert ids(log.append([draft()])) == [expected]
        assert log.verify().ok
        log.close()


def test_a_draft_that_is_no_json_stops_the_whole_batch(log: Store) -> None:
    with pytest.raises(TypeError):
        log.append([draft(), draft(details={"x": b""})])
    assert log.last() == 0
    assert ids(log.append([draft()])) == [1]


def test_only_root_may_read_it(log: Store, path: Path) -> None:
    log.append([draft()])
    log._keep_head()
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


@pytest.mark.parametrize("table", ["records", "actors"])
@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET id = id", "DELETE FROM {}", "DELETE FROM {} WHERE id = 1"]
)
def test_the_database_itself_refuses_changes(
    log: Store, path: Path, table: str, statement: str
) -> None:
    log.append([draft()])
    with sqlite3.connect(path) as other, pytest.raises(sqlite3.IntegrityError, match="only grows"):
        other.execute(statement.format(table))
    other.close()


def test_a_second_writer_cannot_fork_the_log(log: Store, path: Path) -> None:
    log.append([draft()])
    second = Store(path)
    second.append([draft()])
    with pytest.raises(StoreError, match="UNIQUE"):
        log.append([draft()])
    assert second.verify().ok
    second.close()


# -- finding ---------------------------------------------------------------------------------------


@pytest.fixture
def filled(log: Store) -> Store:
    log.append(
        [
            draft(time=10.0),
            draft(time=20.0, verdict=Verdict.DENY),
            draft(time=30.0, session="other", agent="spiffe://test.example/agent/writer"),
            draft(time=25.0, session="other", agent="spiffe://test.example/agent/writer",
                  verb=Verb.NET_CONNECT, verdict=Verdict.DENY),
            draft(time=40.0, session="", agent="", verb=Verb.DAEMON_START),
        ]
    )  # fmt: skip
    return log


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), [1, 2, 3, 4, 5]),
        (Query(limit=2), [1, 2]),
        (Query(limit=2, newest=True), [4, 5]),
        (Query(after=3), [4, 5]),
        (Query(after=99), []),
        (Query(session="other"), [3, 4]),
        (Query(session=""), [5]),
        (Query(session="oth"), []),
        (Query(session="\ud800"), []),
        (Query(sessions=frozenset({"other", ""})), [3, 4, 5]),
        (Query(sessions=frozenset()), []),
        (Query(verdict=Verdict.DENY), [2, 4]),
        (Query(verdict=Verdict.ALLOW), [1, 3, 5]),
        (Query(verdict=Verdict.KILL), []),
        (Query(verb=Verb.FILE_OPEN), [1, 2, 3]),
        (Query(verb=Verb.NET_CONNECT), [4]),
        (Query(agent="*/agent/w*"), [3, 4]),
        (Query(agent="w*"), [3, 4]),
        (Query(agent="spiffe://test.example/agent/coder"), [1, 2]),
        (Query(since=25.0), [3, 4, 5]),
        (Query(since=25.0, newest=True, limit=1), [5]),
        (Query(since=1e300), []),
        (Query(verdict=Verdict.DENY, session="other", since=20.0, verb=Verb.NET_CONNECT), [4]),
        (Query(after=2**70), []),
    ],
)  # fmt: skip
def test_filters(filled: Store, query: Query, expected: list[int]) -> None:
    assert ids(filled.query(query)) == expected


def test_counts_are_of_actions(log: Store) -> None:
    log.append([draft(count=3), draft(), draft(verdict=Verdict.DENY), draft(session="other")])
    assert log.counts(draft().session) == {"allow": 4, "deny": 1}
    assert log.counts(draft().session, 1) == {"allow": 3}
    assert log.counts("nobody") == {}


def test_a_filter_finds_by_an_index(filled: Store) -> None:
    queries = {
        Query(session="other"): "records_by_actor",
        Query(verdict=Verdict.DENY): "records_by_verdict",
        Query(verb=Verb.NET_CONNECT): "records_by_verb",
        Query(since=5.0): "records_by_time",
    }
    for query, index in queries.items():
        statement, parameters = select(query)
        plan = filled._database.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
        assert any(index in row[3] for row in plan), (query, plan)


def test_a_reader_sees_what_is_appended_meanwhile(log: Store, path: Path) -> None:
    reader = Store.reader(path)
    assert reader.last() == 0
    log.append([draft()])
    assert reader.last() == 1
    assert reader.verify().ok
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._database.execute("CREATE TABLE x (y)")
    reader.close()


# -- opening ---------------------------------------------------------------------------------------


def test_a_reader_makes_nothing(path: Path) -> None:
    with pytest.raises(StoreError, match="cannot open the audit log .*audit.db"):
        Reader(path)
    assert not path.exists()


@pytest.mark.parametrize("opener", [Store, Reader])
def test_a_file_that_is_no_database(path: Path, opener: type[Reader]) -> None:
    path.write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(StoreError, match="not a database"):
        opener(path)


@pytest.mark.parametrize("opener", [Store, Reader])
def test_a_database_of_something_else(path: Path, opener: type[Reader]) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE songs (title)")
    database.close()
    with pytest.raises(StoreError, match="no audit log"):
        opener(path)


@pytest.mark.parametrize("opener", [Store, Reader])
def test_a_log_of_another_version(path: Path, opener: type[Reader]) -> None:
    Store(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(StoreError, match="format 2, and this version reads 1"):
        opener(path)


def test_a_damaged_database(path: Path) -> None:
    log = Store(path)
    log.append([draft(object="/" + "x" * 3000) for _each in range(200)])
    log.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    with pytest.raises(StoreError, match="cannot open the audit log"):
        Store(path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        Store(tmp_path / "nowhere" / "audit.db")


def test_a_log_behind_its_head_is_not_gone_on_with(path: Path) -> None:
    log = Store(path)
    log.append([draft(), draft()])
    log.close()
    with sqlite3.connect(path) as database:
        database.executescript("DROP TRIGGER records_delete; DELETE FROM records WHERE id = 2;")
    database.close()
    with pytest.raises(StoreError, match="does not hold record 2"):
        Store(path)
    # The evidence stays.
    assert head.read(head.beside(path)) == replace(log._last)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": 1}', '{"id": true, "hash": "00"}', "\xff"])
def test_a_head_file_that_holds_none(path: Path, text: str) -> None:
    log = Store(path)
    log.append([draft()])
    log.close()
    head.beside(path).write_text(text, encoding="latin-1")
    with pytest.raises(StoreError, match="holds no head"):
        Store(path)


def test_a_log_without_its_head(path: Path) -> None:
    log = Store(path)
    log.append([draft()])
    log.close()
    head.beside(path).unlink()
    with pytest.raises(StoreError, match=r"audit\.head is missing"):
        Store(path)


# -- the head --------------------------------------------------------------------------------------


def test_the_head_is_written_once_a_second_and_at_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    log = Store(path)
    log.append([draft()])
    assert head.read(head.beside(path)) == Head()
    clock[0] += 1.0
    log.append([draft()])
    assert head.read(head.beside(path)) == log._last
    assert log._last.id == 2
    log.append([draft()])
    known = head.read(head.beside(path))
    assert known is not None
    assert known.id == 2
    assert log.verify().ok
    log.close()
    known = head.read(head.beside(path))
    assert known is not None
    assert known.id == 3


def test_a_killed_writer_leaves_a_log_that_verifies_and_goes_on(path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from monitor.audit.store import Store
from tests.support.audit import draft
log = Store(Path({str(path)!r}))
log.append([draft()] * 10)
log._keep_head()
log.append([draft()] * 10)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT)
    # Without the daemon, too: what is in the write-ahead log is read from there.
    reader = Reader(path)
    assert (reader.last(), reader.verify()) == (20, Verification(True, 20))
    reader.close()
    log = Store(path)
    assert log.last() == 20
    assert log.verify().ok
    assert ids(log.append([draft()])) == [21]
    log.close()


def test_a_head_that_cannot_be_written_is_told_and_no_loss(
    log: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path, _head: Head) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(head, "write", fail)
        log.append([draft()])
        log._keep_head()
        assert "No space left" in log.head_problem
    log._keep_head()
    assert log.head_problem == ""
    assert head.read(head.beside(path)) == log._last


# -- failing ---------------------------------------------------------------------------------------


def test_a_file_size_limit_loses_nothing(path: Path) -> None:
    """RLIMIT_FSIZE: SQLite sees an input/output error in the middle of a transaction."""
    log = Store(path)
    written = log.append([draft(object=f"/{number}") for number in range(100)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    batch = [draft(object="/" + "x" * 4000) for _each in range(1000)]
    limit = max(file.stat().st_size for file in path.parent.iterdir()) + 65536
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        for _again in range(3):
            with pytest.raises(StoreError, match=r"cannot write the audit log .*audit\.db: disk"):
                log.append(batch)
            assert log.query(Query()) == written
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ids(log.append(batch)) == list(range(101, 1101))
    assert log.verify() == Verification(True, 1100)
    log.close()


def test_a_database_that_became_read_only_loses_nothing(log: Store) -> None:
    log._database.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError, match="readonly"):
        log.append([draft()])
    log._database.execute("PRAGMA query_only = OFF")
    assert ids(log.append([draft()])) == [1]


def test_an_interrupted_append_leaves_nothing(log: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        in_transaction = True

        def __init__(self, inner: sqlite3.Connection) -> None:
            self.inner = inner

        def execute(self, statement: str, *more: object) -> object:
            if statement == "COMMIT":
                raise KeyboardInterrupt
            return self.inner.execute(statement, *more)  # type: ignore[arg-type]

        def executemany(self, statement: str, rows: object) -> object:
            return self.inner.executemany(statement, rows)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(log, "_database", Interrupting(log._database))
        with pytest.raises(KeyboardInterrupt):
            log.append([draft()])
    assert log.last() == 0
    assert ids(log.append([draft()])) == [1]

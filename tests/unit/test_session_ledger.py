# SPDX-License-Identifier: Apache-2.0
"""The ledger of grants: what is counted stays counted, and all of it or nothing."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from monitor.session import ledger as ledgers
from monitor.session.ledger import Ledger, Spent
from monitor.session.registry import Registry

LATER = time.time() + 3600


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def test_uses_are_counted_until_they_are_spent(path: Path) -> None:
    ledger = Ledger(path)
    for number in range(3):
        ledger.use(f"s{number}", ["a", "b"], [("a", 3)], LATER)
    with pytest.raises(Spent) as caught:
        ledger.use("s3", ["a", "b"], [("a", 3)], LATER)
    assert (caught.value.revocation_id, caught.value.used) == ("a", 3)
    assert (ledger.used("a"), ledger.used("b")) == (3, 0)
    assert ledger.sessions("b") == {"s0", "s1", "s2"}
    ledger.close()
    again = Ledger(path)
    assert again.used("a") == 3
    assert again.blocks("s1") == ["a", "b"]
    assert again.blocks("s3") == []
    again.close()


def test_where_one_block_is_spent_none_is_counted(path: Path) -> None:
    ledger = Ledger(path)
    ledger.use("s0", ["a", "b"], [("a", 9), ("b", 1)], LATER)
    with pytest.raises(Spent):
        ledger.use("s1", ["a", "b"], [("a", 9), ("b", 1)], LATER)
    assert (ledger.used("a"), ledger.used("b")) == (1, 1)
    ledger.close()


def test_blocks_keep_their_order(path: Path) -> None:
    ledger = Ledger(path)
    ledger.use("s", ["c", "a", "b"], [], LATER)
    assert ledger.blocks("s") == ["c", "a", "b"]
    ledger.close()


def test_blocks_of_many_sessions(path: Path) -> None:
    ledger = Ledger(path)
    ledger.use("s1", ["a", "b"], [], 1.0)
    ledger.use("s2", ["a"], [], 1.0)
    ledger.use("s3", ["c"], [], 1.0)
    assert ledger.blocks_of(["s1", "s2", "s4"]) == {"s1": ["a", "b"], "s2": ["a"]}
    assert ledger.blocks_of([]) == {}
    ledger.close()


def test_what_was_revoked_stays_so(path: Path) -> None:
    ledger = Ledger(path)
    assert not ledger.revoked("a")
    ledger.revoke("a", "why")
    ledger.revoke("a", "again")
    ledger.close()
    again = Ledger(path)
    again.prune([])
    assert again.revoked("a")
    assert not again.revoked("b")
    again.close()


def test_on_a_full_disk_a_revocation_holds_and_is_written_later(path: Path) -> None:
    ledger = Ledger(path)
    pages = ledger._database.execute("PRAGMA page_count").fetchone()[0]
    ledger._database.execute(f"PRAGMA max_page_count = {pages}")
    many = [f"{number:0128x}" for number in range(200)]
    for identity in many:
        ledger.revoke(identity, "w" * 1000)
    assert "full" in ledger.problem
    assert all(map(ledger.revoked, many))
    with pytest.raises(sqlite3.OperationalError, match="full"):
        ledger.use("s" * 5000, ["a" * 5000], [], LATER)
    assert not ledger.sessions("a" * 5000)
    ledger._database.execute("PRAGMA max_page_count = 100000")
    ledger.save()
    assert ledger.problem == ""
    ledger.close()
    again = Ledger(path)
    assert all(map(again.revoked, many))
    again.close()


def test_pruning_forgets_what_can_matter_no_more(path: Path) -> None:
    ledger = Ledger(path)
    ledger.use("s0", ["old"], [("old", 5)], time.time() - ledgers.KEEP_SECONDS - 10)
    ledger.use("s1", ["expired"], [("expired", 5)], time.time() - 10)
    ledger.prune(["s1"])
    assert (ledger.used("old"), ledger.used("expired")) == (0, 1)
    assert not ledger.sessions("old")
    assert ledger.sessions("expired") == {"s1"}
    ledger.close()


def test_it_stands_beside_the_sessions(path: Path) -> None:
    """Two connections to one database do not get into each other's way."""
    registry = Registry(path)
    registry.ledger.use("s", ["a"], [("a", 1)], LATER)
    assert registry.next_policy_ids(2) == (1, 2)
    registry.ledger.revoke("a", "")
    registry.prune()
    assert registry.ledger.sessions("a") == frozenset()
    assert registry.ledger.revoked("a")
    registry.close()

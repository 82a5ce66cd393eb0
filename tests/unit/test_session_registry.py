# SPDX-License-Identifier: Apache-2.0
"""Sessions: their states, and the registry that a restarted worker reads."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest

from monitor.identity.chain import Chain, Link, Principal
from monitor.policy.plan import EnvironmentPlan, Limits, Plan, Policy, SyscallPlan
from monitor.session import registry as registries
from monitor.session.order import Order, Then
from monitor.session.registry import Registry, UnknownSession
from monitor.session.session import (
    LEGAL,
    Denial,
    Hold,
    IllegalTransition,
    Session,
    State,
    new_id,
)

AGENT = "spiffe://test.example/agent/demo"
PLAN = Plan(
    policies=(Policy("base", "0" * 32, (), (), (), (), (), (), ()),),
    syscalls=SyscallPlan((), 500),
    view=None,
    environment=EnvironmentPlan((), ()),
    limits=Limits(),
    workspace="/work",
    home="/home/alice",
)


def session(number: int = 1, uid: int = 1000, name: str = "alice") -> Session:
    link = Link(f"user:{name}", AGENT, "base", "0" * 32, "to test", None)
    return Session(
        id=new_id(),
        agent=AGENT,
        chain=Chain(Principal(name, uid), (link,)),
        user=name,
        uid=uid,
        gid=uid,
        profile="base",
        digest="0" * 32,
        purpose="to test",
        workspace="/work",
        created=time.time(),
        expires=None,
        expires_boottime=0,
        cgroup=f"/sys/fs/cgroup/ri/{number}",
        cgroup_id=number,
        policies=(number,),
        plan=PLAN,
        launcher=1,
        launcher_start=2,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    made = Registry(path)
    yield made
    made.close()


@pytest.mark.parametrize(("before", "after"), list(product(State, State)))
def test_only_legal_ways_are_gone(before: State, after: State) -> None:
    one = replace(session(), state=before)
    if after in LEGAL[before]:
        assert one.to(after).state is after
    else:
        with pytest.raises(IllegalTransition, match=f"{before.value} and cannot become"):
            one.to(after)


def test_there_is_no_way_back_from_an_end() -> None:
    assert LEGAL[State.ENDED] == set()
    assert LEGAL[State.ENDING] == {State.ENDED}


def test_ids_sort_by_time_and_differ() -> None:
    made = []
    for _ in range(5):
        made.append(new_id())
        time.sleep(0.002)
    assert all(one < other for one, other in pairwise(made))
    assert all(each[14] == "7" and each[19] in "89ab" for each in made)


def test_everything_of_a_session_is_read_back(path: Path, registry: Registry) -> None:
    one = replace(session(), expires=12.5, expires_boottime=99)
    registry.add(one)
    registry.started(one.id, 77)
    frozen = registry.move(one.id, State.FROZEN, hold=Hold.AUDIT, why="a reason")
    registry.close()
    again = Registry(path)
    assert again.get(one.id) == frozen
    assert (frozen.pid, frozen.hold, frozen.why) == (77, Hold.AUDIT, "a reason")
    assert again.by_cgroup(one.cgroup_id) == frozen
    again.close()


def test_an_order_is_kept_until_it_is_carried_out(path: Path, registry: Registry) -> None:
    one, two = session(1), session(2)
    for each in (one, two):
        registry.add(each)
        registry.started(each.id, 7)
    order = Order((one.id, two.id), ("ab",), Then.DENY, "user:root", "a reason")
    killed = registry.get(one.id).to(State.ENDING, why=order.reason)
    denied = replace(registry.get(two.id), denied=Denial.REVOKED, why=order.reason)
    number = registry.begin_revocation(order, [killed, denied])
    assert number
    again = Registry(path)
    assert again.revocations() == {number: order}
    assert (again.get(one.id), again.get(two.id)) == (killed, denied)
    assert denied.why == "revoked by user:root: a reason"
    again.close()
    registry.end_revocation(number)
    assert registry.revocations() == {}


def test_what_was_denied_stays_so_in_every_state(path: Path, registry: Registry) -> None:
    one = session()
    registry.add(one)
    registry.started(one.id, 7)
    registry.deny(one.id, Denial.REVOKED, "over")
    registry.move(one.id, State.FROZEN, hold=Hold.PERSON)
    registry.move(one.id, State.RUNNING)
    registry.close()
    again = Registry(path)
    assert again.get(one.id).denied is Denial.REVOKED
    again.close()


def test_an_order_on_a_full_disk_changes_the_sessions(path: Path, registry: Registry) -> None:
    one = session()
    registry.add(one)
    registry.started(one.id, 7)
    denied = replace(registry.get(one.id), denied=Denial.REVOKED)
    registry._database.execute("PRAGMA query_only = 1")
    order = Order((one.id,), (), Then.DENY, "user:root", "")
    assert registry.begin_revocation(order, [denied]) == 0
    assert registry.problem
    assert registry.get(one.id) == denied
    registry.end_revocation(0)
    registry._database.execute("PRAGMA query_only = 0")
    registry.save()
    assert registry.problem == ""
    again = Registry(path)
    assert again.get(one.id) == denied
    again.close()


def test_a_database_of_before_is_taken_on(path: Path) -> None:
    old = sqlite3.connect(path)
    old.execute(
        "CREATE TABLE sessions (id TEXT PRIMARY KEY, body TEXT NOT NULL, plan TEXT NOT NULL,"
        " state TEXT NOT NULL, hold TEXT, pid INTEGER, ended REAL, why TEXT NOT NULL) WITHOUT ROWID"
    )
    old.close()
    registry = Registry(path)
    one = session()
    registry.add(one)
    registry.deny(one.id, Denial.REVOKED, "over")
    registry.close()
    again = Registry(path)
    assert again.get(one.id).denied is Denial.REVOKED
    again.close()


def test_an_ended_session_is_known_but_not_live(registry: Registry) -> None:
    one = session()
    registry.add(one)
    registry.move(one.id, State.ENDING, why="over")
    registry.move(one.id, State.ENDED)
    assert registry.live() == ()
    assert registry.by_cgroup(one.cgroup_id) is None
    (ended,) = registry.ended()
    assert (ended.id, ended.state, ended.why) == (one.id, State.ENDED, "over")
    assert ended.ended == pytest.approx(time.time(), abs=5)
    with pytest.raises(UnknownSession):
        registry.get(one.id)
    assert registry.ended(one.id[-6:]) == (ended,)
    assert registry.ended("%") == ()


def test_references(registry: Registry) -> None:
    one, other = session(1), session(2)
    both = (one, other)
    assert registry.find(one.id, both) is one
    assert registry.find(one.id[-8:], both) is one
    with pytest.raises(UnknownSession, match="2 sessions answer"):
        registry.find(one.id[:5], both)
    with pytest.raises(UnknownSession, match="no session"):
        registry.find(one.id[-3:], both)
    with pytest.raises(UnknownSession, match="no session"):
        registry.find("", both)


def test_ids_of_a_principal(registry: Registry) -> None:
    mine, gone, theirs = session(1), session(2), session(3, 1001, "bob")
    for each in (mine, gone, theirs):
        registry.add(each)
    registry.move(gone.id, State.ENDING)
    registry.move(gone.id, State.ENDED)
    assert registry.ids_of(1000) == {mine.id, gone.id}
    assert registry.ids_of(1001) == {theirs.id}
    assert registry.ids_of(0) == frozenset()


def test_policy_ids_are_never_given_twice(path: Path, registry: Registry) -> None:
    first = registry.next_policy_ids(2)
    second = registry.next_policy_ids(1)
    registry.close()
    again = Registry(path)
    third = again.next_policy_ids(3)
    again.close()
    assert len({*first, *second, *third}) == 6


def test_the_oldest_are_forgotten(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "KEEP_ENDED", 2)
    made = []
    for number in range(1, 6):
        made.append(session(number))
        registry.add(made[-1])
        time.sleep(0.002)  # ids of one millisecond have no order
    for each in made[:4]:
        registry.move(each.id, State.ENDING)
        registry.move(each.id, State.ENDED)
    registry.prune()
    assert [each.id for each in registry.ended()] == [each.id for each in made[2:4]]
    assert [each.id for each in registry.live()] == [made[4].id]


def test_changes_wait_while_they_cannot_be_saved(path: Path, registry: Registry) -> None:
    """Sessions are frozen and ended on a full disk too."""
    one = session()
    registry.add(one)
    with sqlite3.connect(path) as blocker:
        blocker.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON sessions BEGIN"
            " SELECT RAISE(FAIL, 'database or disk is full'); END"
        )
    registry.started(one.id, 5)
    registry.move(one.id, State.ENDING, why="over")
    assert registry.problem == "database or disk is full"
    assert registry.get(one.id).state is State.ENDING
    registry.save()
    assert registry.problem
    blocker.execute("DROP TRIGGER full")
    registry.save()
    assert registry.problem == ""
    registry.close()
    again = Registry(path)
    assert (again.get(one.id).state, again.get(one.id).pid) == (State.ENDING, 5)
    again.close()
    blocker.close()


def test_a_change_of_plan_is_whole_and_kept_until_it_is_ended(
    registry: Registry, path: Path
) -> None:
    one = session()
    registry.add(one)
    other = replace(one, plan=replace(one.plan, workspace="/other"))
    (first,) = registry.switch([other], {one.id: one.plan})
    (second,) = registry.switch([one], {one.id: other.plan})
    again = Registry(path)
    assert again.get(one.id).plan == one.plan
    assert [each.before for each in again.changes()] == [one.plan, other.plan]
    again.end_change(first)
    assert again.changes() == [second]
    again.end_change(second)
    again.close()


def test_a_change_that_cannot_be_written_changes_nothing(registry: Registry, path: Path) -> None:
    one = session()
    registry.add(one)
    other = replace(one, plan=replace(one.plan, workspace="/other"))
    registry._database.execute("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.Error):
        registry.switch([other], {one.id: one.plan})
    assert registry.get(one.id).plan == one.plan
    later = replace(one, expires=1e12, expires_boottime=5)
    assert registry.extend(later) == registry.get(one.id) == later
    registry._database.execute("PRAGMA query_only = OFF")
    # The next worker knows the earlier end.
    again = Registry(path)
    assert again.get(one.id).expires == one.expires
    again.close()

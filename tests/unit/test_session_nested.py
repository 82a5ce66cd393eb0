# SPDX-License-Identifier: Apache-2.0
"""Sessions inside others in the registry: what is above, beneath, and holds for them as a whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from monitor.identity.chain import Chain, Link, Principal
from monitor.policy.plan import EnvironmentPlan, Limits, Plan, Policy, SyscallPlan
from monitor.session.registry import Registry
from monitor.session.session import Session, State, new_id

AGENT = "spiffe://test.example/agent/demo"


def session(number: int, parent: Session | None = None) -> Session:
    """One with a policy and a label of its own, in `parent` where there is one."""
    return Session(
        id=new_id(),
        agent=AGENT,
        chain=Chain(Principal("a", 1000), (Link("user:a", AGENT, "p", "0" * 32, "", None),)),
        user="a",
        uid=1000,
        gid=1000,
        profile=f"p{number}",
        digest="0" * 32,
        purpose="",
        workspace="/work",
        created=0.0,
        expires=None,
        expires_boottime=0,
        cgroup=f"/sys/fs/cgroup/ri/{number}",
        cgroup_id=number,
        policies=(number,),
        plan=plan(f"p{number}"),
        launcher=1,
        launcher_start=1,
        labels=(number + 100,),
        above=(*parent.above, *parent.policies) if parent else (),
        above_labels=(*parent.above_labels, *parent.labels) if parent else (),
        parent=parent.id if parent else None,
        depth=parent.depth - 1 if parent else 2,
    )


def plan(name: str) -> Plan:
    return Plan(
        policies=(Policy(name, "0" * 32, (), (), (), (), (), (), ()),),
        syscalls=SyscallPlan((), 500),
        view=None,
        environment=EnvironmentPlan((), ()),
        limits=Limits(),
        workspace="/work",
        home="/home/a",
    )


def test_a_session_in_another_is_judged_by_all_links(tmp_path: Path) -> None:
    first = session(1)
    second = session(2, first)
    beside, third = session(9), session(3, second)
    registry = Registry(tmp_path / "state.db")
    for each in (first, second, beside, third):
        registry.add(each)
    restarted = Registry(tmp_path / "state.db")
    for again in (registry, restarted):
        found = again.get(third.id)
        assert found == third
        assert again.above(found) == (first, second)
        assert again.above(first) == ()
        assert again.beneath(first.id) == (second, third)
        assert again.beneath(third.id) == again.beneath(beside.id) == ()
        whole = again.whole(found)
        assert (whole.policies, whole.labels) == ((1, 2, 3), (101, 102, 103))
        assert [each.profile for each in whole.plan.policies] == ["p1", "p2", "p3"]
        assert again.whole(again.get(beside.id)) is again.get(beside.id)
    restarted.close()
    registry.close()


def test_what_changes_above_shows_beneath(tmp_path: Path) -> None:
    first = session(1)
    second = session(2, first)
    registry = Registry(tmp_path / "state.db")
    for each in (first, second):
        registry.add(each)
    assert registry.whole(second).plan.policies[0].profile == "p1"
    registry.update(replace(first, plan=plan("other")))
    assert registry.whole(second).plan.policies[0].profile == "other"
    registry.close()


def test_ended_sessions_are_told_of_too(tmp_path: Path) -> None:
    first = session(1)
    second = session(2, first)
    registry = Registry(tmp_path / "state.db")
    for each in (first, second):
        registry.add(each)
    for each in (second, first):
        registry.move(each.id, State.ENDING)
        registry.move(each.id, State.ENDED)
    (ended,) = registry.ended(second.id)
    assert registry.whole(ended).policies == (1, 2)
    # One above that was forgotten meanwhile leaves it with its own.
    lost = replace(ended, parent=new_id())
    assert registry.whole(lost) == lost
    registry.close()

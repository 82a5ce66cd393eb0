# SPDX-License-Identifier: Apache-2.0
"""Random changes of random profiles: what a running session goes over to is never too much."""

from __future__ import annotations

from hypothesis import given, settings

from monitor.policy.action import (
    Action,
    ExecAction,
    FileAction,
    NetAction,
    SyscallAction,
    UnixAction,
    Verdict,
)
from monitor.policy.decide import decide
from monitor.policy.difference import difference
from monitor.policy.plan import Plan
from monitor.policy.switch import CannotSwitch, InForce, in_force
from monitor.profile.model import Profile
from tests.support import profiles
from tests.support.profiles import compiled

STRENGTH = [Verdict.ALLOW, Verdict.ASK, Verdict.DENY, Verdict.KILL]


def strength(plan: Plan, action: Action) -> int:
    return STRENGTH.index(decide(plan, action).verdict)


def goes_to(old: Plan, new: Plan, *, pinned: bool) -> InForce | None:
    try:
        return in_force(old, new, pinned=pinned, view=old.view is not None)
    except CannotSwitch:
        return None


def named(chain: list[Profile]) -> list[Profile]:
    """The same profiles under the names that both sides have."""
    return [each.model_copy(update={"name": f"p{i}"}) for i, each in enumerate(chain)]


@settings(max_examples=40, deadline=None)
@given(profiles.chains, profiles.chains, profiles.actions)
def test_the_network_is_as_the_new_profiles_say(
    before: list[Profile], after: list[Profile], actions: list[Action]
) -> None:
    old, new = compiled(named(before)), compiled(named(after))
    found = goes_to(old, new, pinned=False)
    assert found is not None
    for action in actions:
        if isinstance(action, NetAction | UnixAction):
            assert decide(found.plan, action).verdict is decide(new, action).verdict, action


@settings(max_examples=40, deadline=None)
@given(profiles.chains, profiles.chains, profiles.actions)
def test_files_and_calls_never_widen(
    before: list[Profile], after: list[Profile], actions: list[Action]
) -> None:
    old, new = compiled(named(before)), compiled(named(after))
    found = goes_to(old, new, pinned=False)
    assert found is not None
    for action in actions:
        if isinstance(action, FileAction | ExecAction | SyscallAction):
            assert strength(found.plan, action) >= strength(old, action), action


@settings(max_examples=40, deadline=None)
@given(profiles.chains, profiles.chains, profiles.chains, profiles.actions)
def test_what_was_delegated_only_narrows(
    before: list[Profile],
    after: list[Profile],
    again: list[Profile],
    actions: list[Action],
) -> None:
    plan = compiled(named(before))
    for chain in (after, again, before):
        new = compiled(named(chain))
        found = goes_to(plan, new, pinned=True)
        if found is None:
            continue
        for action in actions:
            assert strength(found.plan, action) >= strength(plan, action), action
            if isinstance(action, NetAction | UnixAction):
                assert strength(found.plan, action) >= strength(new, action), action
        plan = found.plan


@settings(max_examples=40, deadline=None)
@given(profiles.chains, profiles.chains)
def test_a_difference_is_told_where_there_is_one(
    before: list[Profile], after: list[Profile]
) -> None:
    old, new = compiled(named(before)), compiled(named(after))
    there, back = difference(old, new), difference(new, old)
    assert bool(there.changes) is bool(back.changes)
    if not there.changes:
        for one, other in zip(old.policies, new.policies, strict=True):
            assert one.connect == other.connect
            assert one.bind == other.bind
            assert [each.path for each in one.files] == [each.path for each in other.files]
    assert list(there.lines()) or not there.changes
    assert not difference(old, old).changes

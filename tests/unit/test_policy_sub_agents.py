# SPDX-License-Identifier: Apache-2.0
"""Plans of sessions inside others: what they share, what is refused, and that none allows more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from monitor.policy.action import Action, FileAction, Verb, Verdict
from monitor.policy.compile import CompileError
from monitor.policy.decide import decide
from monitor.policy.plan import (
    Approval,
    Conditions,
    FileAccess,
    Plan,
    Reaction,
    Reactions,
    RecordChoice,
    RiskStep,
    TimeWindow,
)
from monitor.policy.sub_agents import MOST_POLICIES, Launcher, beneath, opened
from monitor.policy.syscalls import NUMBERS
from monitor.profile.model import Profile
from monitor.session.session import Session
from tests.support import profiles
from tests.support.profiles import compiled, profile

LAUNCHER = Launcher(
    api="/run/ri/ri.sock",
    socket="/run/ri/launch.sock",
    programs=("/usr/bin/python3",),
    files=("/etc/ld.so.cache",),
    devices=("/dev/null",),
    trees=("/usr/lib/ri",),
)


def whole(plan: Plan, above: Plan) -> Plan:
    """What holds for a session with `plan` inside one with `above`."""
    session: Any = object.__new__(Session)
    for name in Session.__slots__:
        object.__setattr__(session, name, plan if name == "plan" else ())
    made: Session = session
    return made.whole(above).plan


# -- the way to the launcher -----------------------------------------------------------------------


def test_what_a_launch_needs_is_granted_and_nothing_of_it_without() -> None:
    tight = profile(files={"read": ["/a/x"]})
    shut, plan = compiled([tight]), compiled([tight], launcher=LAUNCHER)
    assert [rule.path for rule in shut.policies[0].files] == ["/a/x"]
    (policy,) = plan.policies
    granted = {rule.path: rule.access for rule in policy.files}
    read, execute, write = FileAccess.READ, FileAccess.EXECUTE, FileAccess.WRITE
    assert granted == {
        "/a/x": read,
        "/dev/null": read | write,
        "/etc/ld.so.cache": read,
        "/usr/bin/python3": read | execute,
        "/usr/lib/ri": read,
    }
    (unix,) = policy.unix
    assert (unix.path, policy.rules[unix.rule].section) == (LAUNCHER.socket, "sub-agents")
    assert dict(plan.environment.set)["RI_SOCKET"] == LAUNCHER.api
    assert "RI_SOCKET" not in dict(shut.environment.set)


def test_what_is_granted_already_is_not_granted_again() -> None:
    wide = profile(files={"read": ["/**"], "write": ["/dev/**"], "execute": ["/usr/**"]})
    policy = compiled([wide], launcher=LAUNCHER).policies[0]
    assert policy.files == compiled([wide]).policies[0].files
    assert opened(policy, LAUNCHER) == policy


def test_the_view_shows_the_socket() -> None:
    masked = profile(files={"read": ["/a/**"], "deny": ["/a/x"]})
    plan = compiled([masked], launcher=LAUNCHER)
    assert plan.view is not None
    assert plan.view.sockets == (LAUNCHER.socket,)


# -- what is above ---------------------------------------------------------------------------------


def test_links_that_stand_above_already_are_left_out() -> None:
    one, other = profile(files={"read": ["/a/**"]}), profile(files={"read": ["/b/**"]})
    above = compiled([one])
    assert beneath(compiled([one, other]), above).policies == compiled([other]).policies
    # One has to stay: a plan is never empty.
    assert beneath(compiled([one]), above).policies == above.policies


def test_the_kernel_holds_so_many_links() -> None:
    links = [profile(files={"read": [f"/a/{number}"]}) for number in range(MOST_POLICIES + 1)]
    above = compiled(links[:-1])
    with pytest.raises(CompileError, match="9 profiles would have to allow each action"):
        beneath(compiled(links[-1:]), above)
    assert len(beneath(compiled(links[-2:-1]), compiled(links[:-2])).policies) == 1


def test_what_holds_above_holds_beneath() -> None:
    base = compiled([profile(files={"read": ["/a/**"]})])
    window = TimeWindow((0,), 0, 600, "UTC")
    above = replace(
        base,
        records=RecordChoice.EVERY,
        audit_required=True,
        approval=Approval(60, Verdict.DENY, 3),
        on_budget=Reaction.FREEZE,
        conditions=Conditions(((window,),), load=2.0, memory=10, otherwise=Reaction.KILL),
        reactions=Reactions(Reaction.DENY, Reaction.KILL, (RiskStep(50, Reaction.KILL),)),
    )
    own = replace(
        base,
        approval=Approval(300, Verdict.ALLOW, 30),
        conditions=Conditions(load=5.0),
        reactions=Reactions(Reaction.KILL, Reaction.DENY, (RiskStep(20, Reaction.FREEZE),)),
    )
    found = beneath(own, above)
    assert (found.records, found.audit_required) == (RecordChoice.EVERY, True)
    assert found.approval == Approval(60, Verdict.DENY, 3)
    assert found.on_budget is Reaction.FREEZE
    assert found.conditions == Conditions(((window,),), 2.0, 10, Reaction.KILL)
    steps = (RiskStep(20, Reaction.FREEZE), RiskStep(50, Reaction.KILL))
    assert found.reactions == Reactions(Reaction.KILL, Reaction.KILL, steps)
    # Both ways round.
    assert beneath(above, own) == replace(found, policies=base.policies)


# -- the view that is shared -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "wanted", "holds"),
    [
        ({"deny": ["/a/x"]}, {"deny": ["/a/x"]}, True),
        ({"deny": ["/a"]}, {"deny": ["/a/x"]}, True),
        ({"deny": ["/a/*"]}, {"deny": ["/a/x/y"]}, True),
        ({"deny": ["/a/**/.env"]}, {"deny": ["/a/**/.env"]}, True),
        ({"deny": ["/a/x"]}, {"read_only": ["/a/x/*"]}, True),
        ({"deny": ["/a/x"]}, {"deny": ["/a/**/x"]}, False),
        ({"deny": ["/a/x/y"]}, {"deny": ["/a/x"]}, False),
        ({"read_only": ["/a/x"]}, {"deny": ["/a/x"]}, False),
        ({"read_only": ["/a/x"]}, {"read_only": ["/a/x"]}, True),
        ({}, {"deny": ["/a/x"]}, False),
        # Nothing that both grant is taken away.
        ({}, {"deny": ["/b/*.key"]}, True),
        ({}, {"deny": ["/**/*.key"]}, False),
    ],
)
def test_what_is_taken_away_has_to_be_taken_away_above(
    held: dict[str, list[str]], wanted: dict[str, list[str]], holds: bool
) -> None:
    both = {"read": ["/a/**"], "write": ["/a/**"]}
    above = compiled([profile(files=both | held)])
    one = profile(files={"read": ["/a/**", "/b/**"], "write": ["/a/**"]} | wanted)
    if holds:
        assert beneath(compiled([one]), above).view is None
        return
    with pytest.raises(CompileError, match="shares its view"):
        beneath(compiled([one]), above)
    found = beneath(compiled([one]), above, {"test"})
    assert found.missing == ("view",)
    assert found.policies[0].masks == ()


def test_terminals_are_those_of_the_view_above() -> None:
    names = profile(files={"read": ["/dev/pts/**"]})
    bare = profile(files={"read": ["/dev/pts/**", "/a/**"]})
    above = compiled([bare])
    assert above.view is not None
    assert beneath(compiled([names]), above).view is None
    with pytest.raises(CompileError, match="other terminals"):
        beneath(compiled([names]), replace(above, view=None))


def test_modes_are_kept_where_a_view_of_its_own_would_keep_them() -> None:
    above = compiled([profile(files={"write": ["/a/**"], "deny": ["/a/y"]})])
    narrow = {"read": ["/a/**"], "write": ["/a/b/**"]}
    calls = {NUMBERS[name] for name in ("chmod", "fchown", "utimensat", "setxattr")}

    def refused(plan: Plan) -> set[int]:
        return {rule.number for rule in plan.syscalls.rules if not rule.tests} & calls

    assert refused(beneath(compiled([profile(files=narrow)]), above)) == set()
    viewed = compiled([profile(files=narrow | {"deny": ["/a/x"]})])
    assert viewed.view is not None
    assert refused(beneath(viewed, above, {"test"})) == calls
    same = compiled([profile(files={"write": ["/a/**"], "deny": ["/a/x"]})])
    assert refused(beneath(same, above, {"test"})) == set()
    assert refused(beneath(same, replace(above, view=None), {"test"})) == calls


def test_only_the_outermost_sessions_calls_are_held() -> None:
    plan = compiled([profile(files={"read": ["/a/**"]})])
    waits = replace(plan, syscalls=replace(plan.syscalls, notified=(NUMBERS["connect"],)))
    with pytest.raises(CompileError, match="only the outermost session can have its calls held"):
        beneath(waits, replace(plan, syscalls=replace(plan.syscalls, notified=())))
    found = beneath(waits, waits)
    assert found.syscalls.notified == ()
    assert whole(found, waits).syscalls.notified == (NUMBERS["connect"],)


# -- never more ------------------------------------------------------------------------------------


def allowed(plan: Plan, action: Action) -> bool:
    return decide(plan, action).verdict is Verdict.ALLOW


@settings(max_examples=30)
@given(profiles.chains, profiles.chains, profiles.actions)
def test_a_session_inside_another_is_never_allowed_more(
    outer: list[Profile], inner: list[Profile], actions: list[Action]
) -> None:
    above, own = compiled(outer), compiled(inner)
    try:
        found = beneath(own, above)
    except CompileError:
        return
    plan = whole(found, above)
    for action in actions:
        # Modes are kept by refused calls, which decide() is not asked about here.
        modes = isinstance(action, FileAction) and action.verb is Verb.FILE_CHMOD
        if allowed(plan, action) and not modes:
            assert allowed(above, action), action
            assert allowed(own, action), action

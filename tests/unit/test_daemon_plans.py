# SPDX-License-Identifier: Apache-2.0
"""Compiled plans are kept for the next session that is the same, and for no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monitor.daemon.plans import Plans
from monitor.policy.compile import Context
from monitor.policy.plan import HostFeatures
from monitor.profile.load import parse
from monitor.profile.model import Profile
from monitor.profile.resolve import digest

HOST = HostFeatures(landlock_abi=7, unix_hooks=True, view=True)
CONTEXT = Context("/work", "/home/alice", "session-1", 1000, None, False, lambda path: path)


def profile(read: str, lines: int = 0) -> tuple[Profile, ...]:
    return (parse("\n" * lines + f'name: one\nfiles: {{read: ["{read}"]}}\n', "one.yaml"),)


@pytest.fixture
def plans() -> Plans:
    return Plans(HOST)


def test_the_same_is_compiled_once(plans: Plans) -> None:
    first = profile("{workspace}/**")
    plan = plans.compile(first, digest(first), CONTEXT)
    again = profile("{workspace}/**")
    assert plans.compile(again, digest(again), replace(CONTEXT, session="session-2")) is plan


@pytest.mark.parametrize(
    "other",
    [
        replace(CONTEXT, workspace="/other"),
        replace(CONTEXT, home="/home/bob"),
        replace(CONTEXT, uid=1001),
        replace(CONTEXT, ttl=60),
        replace(CONTEXT, observe=True),
    ],
)
def test_another_request_is_another_plan(plans: Plans, other: Context) -> None:
    profiles = profile("{workspace}/**")
    plan = plans.compile(profiles, digest(profiles), CONTEXT)
    assert plans.compile(profiles, digest(profiles), other) is not plan


def test_a_rule_that_moved_to_another_line_is_named_there(plans: Plans) -> None:
    before, after = profile("/srv/**"), profile("/srv/**", lines=3)
    assert digest(before) == digest(after)
    plans.compile(before, digest(before), CONTEXT)
    plan = plans.compile(after, digest(after), CONTEXT)
    assert [rule.origin.line for rule in plan.policies[0].files] == [5]


def test_a_link_that_leads_elsewhere_by_now_is_followed_anew(plans: Plans) -> None:
    profiles = profile("/opt/tool/**")

    def leading(target: str) -> Context:
        return replace(CONTEXT, resolve=lambda path: path.replace("/opt/tool", target))

    for target in ("/opt/tool-1", "/opt/tool-2"):
        plan = plans.compile(profiles, digest(profiles), leading(target))
        assert [rule.path for rule in plan.policies[0].files] == [target]


def test_a_plan_that_names_its_session_is_its_own(plans: Plans) -> None:
    profiles = profile("/srv/{session}/**")
    for session in ("session-1", "session-2"):
        plan = plans.compile(profiles, digest(profiles), replace(CONTEXT, session=session))
        assert [rule.path for rule in plan.policies[0].files] == [f"/srv/{session}"]


def test_only_so_many_are_kept(plans: Plans) -> None:
    profiles = profile("{workspace}/**")
    first = plans.compile(profiles, digest(profiles), CONTEXT)
    for number in range(100):
        plans.compile(profiles, digest(profiles), replace(CONTEXT, workspace=f"/{number}"))
    assert plans.compile(profiles, digest(profiles), CONTEXT) is not first

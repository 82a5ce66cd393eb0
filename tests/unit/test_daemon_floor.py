# SPDX-License-Identifier: Apache-2.0
"""The filter that the kernel gets refuses what the plan says, told by an interpreter.

Where several rules match one call, libseccomp answers with the verdict of one of them.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.daemon.launch import floor
from monitor.policy.floor import matching_rule, syscall_plan
from monitor.policy.plan import SocketRule, SyscallPlan
from monitor.policy.syscalls import FIRST_UNKNOWN, NUMBERS
from tests.support.filter import answer

ALLOW = 0x7FFF0000
KILL = 0x80000000
ERRNO = 0x00050000

SOCKETS = {
    "none": (),
    "tcp": (SocketRule(2, 1, -1), SocketRule(2, 1, 6), SocketRule(10, 1, 6)),
    "many": (
        SocketRule(1, 1, -1),
        SocketRule(1, 2, -1),
        SocketRule(1, 5, 0),
        SocketRule(2, 1, 0),
        SocketRule(2, 2, 17),
        SocketRule(16, 3, 0),
        SocketRule(16, 2, 9),
    ),
}
PLANS = [
    syscall_plan(sockets, listen=listen, strict=strict, opened=opened)
    for sockets in SOCKETS.values()
    for listen, strict, opened in (
        (False, False, ()),
        (True, True, ()),
        (True, False, ("sysv-ipc",)),
    )
]
INTERESTING = (0, 1, 2, 3, 5, 6, 8, 9, 10, 16, 17, 41, 57, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 63)


def expected(plan: SyscallPlan, number: int, arguments: tuple[int, ...]) -> set[int]:
    """What the filter may answer."""
    if matching_rule(plan, number, arguments) is None:
        return {ALLOW}
    answers = set()
    for rule in plan.rules:
        alone = replace(plan, rules=(rule,))
        found = matching_rule(alone, number, arguments)
        if found is not None:
            error = floor.ERRORS[found.verdict]
            answers.add(KILL if error is None else ERRNO | error)
    return answers


def values(plan: SyscallPlan, number: int) -> list[int]:
    """Values that some rule of the call looks for, their neighbours, and with upper bits set."""
    found = set(INTERESTING)
    for rule in plan.rules:
        if rule.number == number:
            for test in rule.tests:
                found |= {test.value, test.value + 1, test.value | 1 << 40, max(0, test.value - 1)}
    return sorted(found)


@pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))
def test_the_filter_answers_as_the_plan_says(plan: SyscallPlan) -> None:
    code = floor.export(plan)
    source = random.Random(1)
    for number in range(FIRST_UNKNOWN + 2):
        looked_for = values(plan, number)
        tested = any(rule.tests for rule in plan.rules if rule.number == number)
        for _ in range(60 if tested else 2):
            arguments = tuple(source.choice(looked_for) for _ in range(6))
            found = answer(code, number, arguments)
            assert found in expected(plan, number, arguments), (number, arguments)


@settings(max_examples=100, deadline=None)
@given(
    st.sets(
        st.builds(
            SocketRule, st.integers(0, 46), st.integers(1, 10), st.sampled_from([-1, 0, 6, 17, 255])
        ),
        max_size=6,
    ),
    st.lists(
        st.tuples(
            st.integers(0, 50),
            st.sampled_from([0, 1, 2, 3, 5, 10, 11, 2 | 0o4000, 1 | 0o2000000, 1 << 20]),
            st.sampled_from([0, 1, 6, 17, 136, 255, 256, 6 | 1 << 33]),
        ),
        min_size=5,
        max_size=20,
    ),
)
def test_sockets_of_any_profile(
    sockets: set[SocketRule], calls: list[tuple[int, int, int]]
) -> None:
    plan = syscall_plan(sorted(sockets, key=str), listen=False)
    code = floor.export(plan)
    for call in calls:
        number = NUMBERS["socket"]
        assert answer(code, number, call) in expected(plan, number, call)

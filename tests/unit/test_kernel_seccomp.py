# SPDX-License-Identifier: Apache-2.0
"""Filters by the bytes that the kernel gets: what they answer, told by an interpreter."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.daemon.launch import floor
from monitor.kernel import seccomp
from monitor.kernel.seccomp import Condition, Rule
from monitor.policy.plan import (
    ArgumentTest,
    Compare,
    SyscallPlan,
    SyscallRule,
    SyscallVerdict,
)
from tests.support.filter import AUDIT_ARCH_I386, answer

ALLOW = 0x7FFF0000
KILL = 0x80000000
FIRST_UNKNOWN = 470
SOCKET = 41


def refusal(error: int) -> int:
    return 0x00050000 | error


def holds(test: Condition, value: int) -> bool:
    return {
        "eq": value == test.value,
        "ne": value != test.value,
        "ge": value >= test.value,
        "masked": value & test.mask == test.value,
    }[test.comparison]


def test_an_empty_filter_allows_what_is_known() -> None:
    code = seccomp.build([], FIRST_UNKNOWN)
    assert {answer(code, number) for number in range(FIRST_UNKNOWN)} == {ALLOW}


def test_numbers_from_the_first_unknown_on_do_not_exist() -> None:
    code = seccomp.build([], FIRST_UNKNOWN)
    for number in (FIRST_UNKNOWN, FIRST_UNKNOWN + 1, 1000, 0x3FFFFFFF):
        assert answer(code, number) == refusal(errno.ENOSYS)


@pytest.mark.parametrize("number", [0x40000000, 0x40000000 + 59, 0x7FFFFFFF, 0xFFFFFFFF])
def test_x32_numbers_kill(number: int) -> None:
    assert answer(seccomp.build([], FIRST_UNKNOWN), number) == KILL


def test_another_architecture_kills() -> None:
    assert answer(seccomp.build([], FIRST_UNKNOWN), 0, (), AUDIT_ARCH_I386) == KILL


def test_a_rule_without_tests_always_refuses() -> None:
    code = seccomp.build([Rule(321, errno.EPERM), Rule(101, None)], FIRST_UNKNOWN)
    assert answer(code, 321) == refusal(errno.EPERM)
    assert answer(code, 101) == KILL
    assert answer(code, 102) == ALLOW


def test_both_halves_of_an_argument_count() -> None:
    rule = Rule(SOCKET, errno.EAFNOSUPPORT, (Condition(0, "masked", 16, 0xFFFFFFFF),))
    code = seccomp.build([rule], FIRST_UNKNOWN)
    assert answer(code, SOCKET, [16]) == refusal(errno.EAFNOSUPPORT)
    # The kernel takes the family as an int, so the upper half must not hide it.
    assert answer(code, SOCKET, [16 | 1 << 40]) == refusal(errno.EAFNOSUPPORT)
    rule = Rule(SOCKET, errno.EPERM, (Condition(0, "ge", 1 << 32),))
    code = seccomp.build([rule], FIRST_UNKNOWN)
    assert answer(code, SOCKET, [(1 << 32) - 1]) == ALLOW
    assert answer(code, SOCKET, [1 << 32]) == refusal(errno.EPERM)


def test_a_rule_that_libseccomp_cannot_hold_is_named() -> None:
    rule = Rule(SOCKET, errno.EPERM, (Condition(0, "ne", 1), Condition(0, "ne", 2)))
    with pytest.raises(ValueError, match="number=41"):
        seccomp.build([rule], FIRST_UNKNOWN)


values = st.one_of(
    st.integers(0, 4), st.integers(0, 2**64 - 1), st.sampled_from([2**31, 2**32, 2**63])
)
tests = st.builds(
    lambda index, comparison, value, mask: Condition(
        index, comparison, value & mask if comparison == "masked" else value, mask
    ),
    st.integers(0, 2),
    st.sampled_from(sorted(seccomp.COMPARISONS)),
    values,
    st.sampled_from([0xFFFFFFFF, 0xF, 2**64 - 1, 0xFFFFFFFF00000000]),
)
rules = st.builds(
    Rule,
    st.sampled_from([41, 42, 157]),
    st.just(errno.EPERM),
    st.lists(tests, max_size=3, unique_by=lambda test: test.index).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(rules, max_size=8),
    st.sampled_from([41, 42, 157, 158]),
    st.lists(values, min_size=3, max_size=3),
)
def test_a_call_is_refused_when_some_rule_matches(
    given_rules: list[Rule], number: int, arguments: list[int]
) -> None:
    code = seccomp.build(given_rules, FIRST_UNKNOWN)
    refused = any(
        rule.number == number and all(holds(test, arguments[test.index]) for test in rule.tests)
        for rule in given_rules
    )
    assert answer(code, number, arguments) == (refusal(errno.EPERM) if refused else ALLOW)


def test_the_floor_gives_each_verdict_its_answer() -> None:
    verdicts = {
        SyscallVerdict.EPERM: refusal(errno.EPERM),
        SyscallVerdict.ENOSYS: refusal(errno.ENOSYS),
        SyscallVerdict.EAFNOSUPPORT: refusal(errno.EAFNOSUPPORT),
        SyscallVerdict.KILL: KILL,
    }
    assert set(verdicts) == set(SyscallVerdict)
    for verdict, expected in verdicts.items():
        test = ArgumentTest(1, Compare.EQUAL, 7)
        plan = SyscallPlan((SyscallRule("x", 9, verdict, "a test", (test,)),), FIRST_UNKNOWN)
        code = floor.export(plan)
        assert answer(code, 9, [0, 7]) == expected
        assert answer(code, 9, [0, 8]) == ALLOW
        assert floor.export(plan) is code


def test_every_comparison_of_a_plan_has_one_here() -> None:
    assert {each.value for each in Compare} == set(seccomp.COMPARISONS)

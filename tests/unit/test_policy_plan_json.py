# SPDX-License-Identifier: Apache-2.0
"""Plans as text, and texts that are no plans."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.policy import plan_json
from monitor.policy.action import Origin, Verdict
from monitor.policy.plan import (
    ArgumentTest,
    Compare,
    FileAccess,
    FileRule,
    MaskKind,
    MaskRule,
    NetPrefix,
    Plan,
    PortRange,
    SyscallVerdict,
)
from tests.support.profiles import compiled, profile

PLAN = compiled([profile(files={"read": ["/a/**"], "deny": ["/a/b"]})])

# Whatever a file name holds comes as os.fsdecode gives it: half surrogates for stray bytes.
texts = st.text(st.characters() | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
origins = st.builds(Origin, texts, texts, texts, texts, st.integers(0))
plans = st.builds(
    lambda files, masks, prefixes, tests, ttl, environment: replace(
        PLAN,
        policies=(
            replace(PLAN.policies[0], files=tuple(files), masks=tuple(masks)),
            replace(PLAN.policies[0], connect=tuple(prefixes)),
        ),
        syscalls=replace(
            PLAN.syscalls,
            rules=(replace(PLAN.syscalls.rules[0], tests=tuple(tests)), *PLAN.syscalls.rules[1:3]),
        ),
        limits=replace(PLAN.limits, ttl=ttl),
        environment=replace(PLAN.environment, set=tuple(environment)),
    ),
    st.lists(
        st.builds(
            FileRule,
            texts,
            st.booleans(),
            st.integers(0, 7).map(FileAccess),
            origins,
        ),
        max_size=3,
    ),
    st.lists(st.builds(MaskRule, texts, st.sampled_from(MaskKind), origins), max_size=3),
    st.lists(
        st.builds(
            NetPrefix,
            texts,
            st.lists(
                st.builds(
                    PortRange,
                    st.integers(),
                    st.integers(),
                    st.integers(),
                    st.sampled_from([Verdict.ALLOW, Verdict.ASK, Verdict.DENY]),
                    st.integers(),
                    st.integers(-1, 7),
                ),
                max_size=2,
            ).map(tuple),
        ),
        max_size=2,
    ),
    st.lists(
        st.builds(
            ArgumentTest, st.integers(0, 5), st.sampled_from(Compare), st.integers(0, 2**64 - 1)
        ),
        max_size=2,
    ),
    st.none() | st.integers(),
    st.lists(st.tuples(texts, texts), max_size=2),
)


@given(plans)
def test_comes_back_as_it_was(plan: Plan) -> None:
    text = plan_json.to_json(plan)
    assert text.isascii()
    assert plan_json.from_json(text) == plan
    assert plan_json.to_json(plan_json.from_json(text)) == text


def _without_view(tree: dict[str, Any]) -> None:
    del tree["view"]


def _unknown_key(tree: dict[str, Any]) -> None:
    tree["extra"] = 1


def _number_for_text(tree: dict[str, Any]) -> None:
    tree["workspace"] = 7


def _truth_for_number(tree: dict[str, Any]) -> None:
    tree["syscalls"]["first_unknown"] = True


def _unknown_verdict(tree: dict[str, Any]) -> None:
    tree["syscalls"]["rules"][0]["verdict"] = "EWHATEVER"


def _unknown_access(tree: dict[str, Any]) -> None:
    tree["policies"][0]["files"][0]["access"] = ["APPEND"]


def _text_for_list(tree: dict[str, Any]) -> None:
    tree["missing"] = "view"


def _short_pair(tree: dict[str, Any]) -> None:
    tree["environment"]["set"] = [["A"]]


@pytest.mark.parametrize(
    "spoil",
    [
        _without_view,
        _unknown_key,
        _number_for_text,
        _truth_for_number,
        _unknown_verdict,
        _unknown_access,
        _text_for_list,
        _short_pair,
    ],
)
def test_refuses_what_it_did_not_write(spoil: Callable[[dict[str, Any]], None]) -> None:
    tree = json.loads(plan_json.to_json(PLAN))
    spoil(tree)
    with pytest.raises(ValueError, match="."):
        plan_json.from_json(json.dumps(tree))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{", '"plan"'])
def test_refuses_what_is_no_plan(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        plan_json.from_json(text)


def test_writes_names_and_values() -> None:
    tree = json.loads(plan_json.to_json(PLAN))
    assert tree["policies"][0]["files"][0]["access"] == ["READ"]
    assert tree["policies"][0]["masks"][0]["kind"] == "hide"
    assert SyscallVerdict(tree["syscalls"]["rules"][0]["verdict"])

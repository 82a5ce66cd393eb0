# SPDX-License-Identifier: Apache-2.0
"""What CMD keeps of the environment."""

from __future__ import annotations

from typing import Any

from monitor.policy.environment import kept
from monitor.policy.plan import EnvironmentPlan
from tests.support.profiles import HOME, compiled, profile

NAMES = ["PATH", "LANG", "LC_ALL", "LD_PRELOAD", "AWS_SECRET_ACCESS_KEY", "HOME"]


def plan(*sections: dict[str, Any] | None) -> EnvironmentPlan:
    return compiled([profile(environment=section) for section in sections]).environment


def test_nothing_is_kept_that_no_pattern_names() -> None:
    assert kept(plan(None), NAMES) == []
    assert kept(plan({"keep": []}), NAMES) == []


def test_keeps_by_glob_in_the_callers_order() -> None:
    assert kept(plan({"keep": ["L*", "PATH"]}), NAMES) == ["PATH", "LANG", "LC_ALL", "LD_PRELOAD"]


def test_scrub_beats_keep() -> None:
    section = {"keep": ["*"], "scrub": ["LD_*", "*SECRET*"]}
    assert kept(plan(section), NAMES) == ["PATH", "LANG", "LC_ALL", "HOME"]


def test_a_name_that_keep_spells_out_beats_a_pattern_of_scrub() -> None:
    section = {"keep": ["AWS_SECRET_ACCESS_KEY", "*"], "scrub": ["*SECRET*", "*_ALL"]}
    assert kept(plan(section), NAMES) == [
        "PATH", "LANG", "LD_PRELOAD", "AWS_SECRET_ACCESS_KEY", "HOME",
    ]  # fmt: skip
    section["scrub"].append("AWS_SECRET_ACCESS_KEY")
    assert "AWS_SECRET_ACCESS_KEY" not in kept(plan(section), NAMES)


def test_no_link_lifts_what_another_scrubs() -> None:
    outer = {"keep": ["*"], "scrub": ["*SECRET*"]}
    assert "AWS_SECRET_ACCESS_KEY" not in kept(plan(outer, {"keep": NAMES}), NAMES)


def test_a_pattern_of_scrub_yields_to_a_name_that_keep_spells_out() -> None:
    section = {"keep": ["HOME", "LANG", "L*"], "scrub": ["*"]}
    assert kept(plan(section), NAMES) == ["LANG", "HOME"]
    assert kept(plan(section | {"scrub": ["*", "HOME"]}), NAMES) == ["LANG"]
    # Only the same link's: what an outer one scrubs stays away.
    assert kept(plan({"keep": ["*"], "scrub": ["L*"]}, section), NAMES) == ["HOME"]


def test_globs_look_at_case() -> None:
    assert kept(plan({"keep": ["path"]}), NAMES) == []


def test_every_link_must_keep_a_name_and_none_scrub_it() -> None:
    found = plan({"keep": ["L*", "PATH"], "scrub": ["LD_*"]}, {"keep": ["*"], "scrub": ["LANG"]})
    assert kept(found, NAMES) == ["PATH", "LC_ALL"]


def test_sets_values_with_variables_in_them() -> None:
    assert plan({"set": {"B": "{home}/x", "A": "1"}}).set == (("A", "1"), ("B", f"{HOME}/x"))


def test_the_outermost_link_sets_and_what_it_scrubs_stays_away() -> None:
    outer = {"set": {"PROXY": "outer"}, "scrub": ["LD_*"]}
    inner = {"set": {"PROXY": "inner", "LD_PRELOAD": "x", "B": "2"}}
    assert plan(outer, inner).set == (("B", "2"), ("PROXY", "outer"))


def test_a_link_may_set_what_it_scrubs_of_the_callers() -> None:
    assert plan({"scrub": ["PAGER"], "set": {"PAGER": "cat"}}).set == (("PAGER", "cat"),)

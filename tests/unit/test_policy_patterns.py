# SPDX-License-Identifier: Apache-2.0
"""The patterns of masks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.policy.patterns import escape, is_within, join, pattern, split

COVERED = [
    ("/w/.env", "/w/.env"),
    ("/w/.git", "/w/.git/hooks/post-commit"),
    ("/w/.git/**", "/w/.git"),
    ("/w/.git/**", "/w/.git/hooks"),
    ("/w/*.pem", "/w/key.pem"),
    ("/w/*.pem", "/w/key.pem/beneath"),
    ("/w/**/.env", "/w/.env"),
    ("/w/**/.env", "/w/a/b/.env"),
    ("/w/**/.env", "/w/a/.env/x"),
    ("/w/**/a/**/b", "/w/a/b"),
    ("/w/**/a/**/b", "/w/x/a/y/z/b"),
    ("/w/**/**/b", "/w/b"),
    ("/w/?", "/w/x"),
    ("/w/[ab]c", "/w/ac"),
    ("/w/[!a]c", "/w/bc"),
    ("/w/*", "/w/.hidden"),
    ("/w/[*]", "/w/*"),
    ("/w/[[]x]", "/w/[x]"),
    ("/w/*", "/w/new\nline"),
    ("/", "/anything"),
    ("/", "/"),
]
FREE = [
    ("/w/.env", "/w/.envrc"),
    ("/w/.env", "/w"),
    ("/w/.env", "/w/a/.env"),
    ("/w/*.pem", "/w/a/key.pem"),
    ("/w/**/.env", "/w/a"),
    ("/w/**/a/**/b", "/w/a"),
    ("/w/**/a/**/b", "/w/b/a"),
    ("/w/?", "/w/xy"),
    ("/w/[ab]c", "/w/cc"),
    ("/w/[!a]c", "/w/ac"),
    ("/w/[*]", "/w/x"),
    ("/w/*", "/w"),
    ("/w/A", "/w/a"),
    ("/w/a.b", "/w/axb"),
]


@pytest.mark.parametrize(("text", "path"), COVERED)
def test_covers(text: str, path: str) -> None:
    assert pattern(text).covers(path)


@pytest.mark.parametrize(("text", "path"), FREE)
def test_leaves_alone(text: str, path: str) -> None:
    assert not pattern(text).covers(path)


@pytest.mark.parametrize(
    ("text", "literal", "whole"),
    [
        ("/w/.git/hooks", "/w/.git/hooks", True),
        ("/w/.git/*", "/w/.git", False),
        ("/w/**/x", "/w", False),
        ("/w/[[]x]/y", "/w/[x]/y", True),
        ("/*", "/", False),
        ("/w/**", "/w", True),
    ],
)
def test_begins_with_a_plain_path(text: str, literal: str, whole: bool) -> None:
    assert pattern(text).start == literal
    assert pattern(text).is_literal is whole


file_names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]) | st.sampled_from("*?[]!"),
    min_size=1,
    max_size=8,
).filter(lambda name: name not in {".", "..", "**"})


@given(st.lists(file_names, min_size=1, max_size=3), st.lists(file_names, min_size=1, max_size=3))
def test_an_escaped_path_names_itself_only(names: list[str], others: list[str]) -> None:
    path, other = join(names), join(others)
    found = pattern(escape(path))
    assert found.is_literal
    assert found.start == path
    assert found.covers(path)
    assert found.covers(other) is is_within(other, path)


@given(st.lists(file_names, max_size=4))
def test_splits_and_joins(names: list[str]) -> None:
    assert split(join(names)) == tuple(names)


def test_is_within_goes_by_names() -> None:
    assert is_within("/srv/a/b", "/srv/a")
    assert is_within("/srv/a", "/srv/a")
    assert is_within("/srv", "/")
    assert not is_within("/srv/ab", "/srv/a")
    assert not is_within("/srv", "/srv/a")


def test_a_pattern_takes_no_time_that_grows_with_the_name() -> None:
    # A matcher that goes back would not end; the agent chooses the names.
    assert not pattern("/w/**/a/**/a/**/a/**/b").covers("/w" + "/a" * 2000)
    assert not pattern("/w/*a*a*a*a*b").covers("/w/" + "a" * 4000)

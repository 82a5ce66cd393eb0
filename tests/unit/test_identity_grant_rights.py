# SPDX-License-Identifier: Apache-2.0
"""Who may make which grants, and what is said where somebody may not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from monitor.identity.delegations import Delegations, DelegationsError, NotAuthorized, parse
from monitor.identity.grant_rights import DEFAULT_TTL, GrantRequest

REQUEST = GrantRequest("alice", 1000, ("dev",), "coder", "demo/coder", None, 0, "alice")


def rights(delegate: str, who: str = "user:alice", run_as: str = "[]") -> Delegations:
    return parse(
        f"delegations: [{{who: '{who}', profiles: [coder], agents: ['demo/*'],"
        f" run_as: {run_as}{delegate}}}]",
        "F",
    )


def test_nobody_makes_grants_who_is_not_told_so() -> None:
    for delegations, words in (
        (Delegations("F"), "no right in F"),
        (rights(", delegate: {}", "user:bob"), "no right in F"),
        (rights(""), "may not make grants: delegate is missing"),
    ):
        with pytest.raises(NotAuthorized, match=words):
            delegations.authorize_grant(REQUEST)


@pytest.mark.parametrize("who", ["user:alice", "group:dev"])
def test_an_empty_right_is_for_a_working_day_and_one_link(who: str) -> None:
    delegations = rights(", delegate: {}", who)
    assert delegations.authorize_grant(REQUEST) == DEFAULT_TTL == 8 * 3600
    assert delegations.authorize_grant(replace(REQUEST, ttl=60)) == 60
    changes: list[dict[str, Any]] = [{"ttl": DEFAULT_TTL + 1}, {"depth": 1}]
    for change in changes:
        with pytest.raises(NotAuthorized):
            delegations.authorize_grant(replace(REQUEST, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"profile": "other"}, "the profile other"),
        ({"agent": "coder"}, "the agent coder"),
        ({"bearer": "bob"}, "for bob"),
        ({"depth": 3}, "passed on 3 times: max_depth is 2"),
        ({"ttl": 3601}, "for 3601 s: max_ttl is 3600 s"),
    ],
)
def test_the_missing_right_is_named(change: dict[str, Any], words: str) -> None:
    delegations = rights(", delegate: {max_ttl: 1h, max_depth: 2}", run_as="[ci]")
    allowed = replace(REQUEST, bearer="ci", depth=2, ttl=3600)
    assert delegations.authorize_grant(allowed) == 3600
    assert delegations.authorize_grant(REQUEST) == 3600
    with pytest.raises(NotAuthorized, match=words):
        delegations.authorize_grant(replace(allowed, **change))


def test_of_several_entries_one_must_grant_all_of_it() -> None:
    one = ", delegate: {max_ttl: 1h}}, {who: 'group:dev', profiles: ['*'], agents: ['*']"
    delegations = rights(one)
    assert delegations.authorize_grant(REQUEST) == 3600
    with pytest.raises(NotAuthorized, match="the profile other"):
        delegations.authorize_grant(replace(REQUEST, profile="other"))


def test_root_may_delegate_everything() -> None:
    root = replace(REQUEST, user="root", uid=0, depth=9, bearer="bob")
    assert Delegations("F").authorize_grant(root) == DEFAULT_TTL
    assert Delegations("F").authorize_grant(replace(root, ttl=10**6)) == 10**6


@pytest.mark.parametrize(
    "delegate", ["true", "{depth: 1}", "{max_depth: -1}", "{max_depth: '1'}", "{max_ttl: 60}"]
)
def test_a_right_that_cannot_be_meant_is_refused(delegate: str) -> None:
    with pytest.raises(DelegationsError, match=r"^F:1: delegations\[0\]\.delegate"):
        rights(f", delegate: {delegate}")

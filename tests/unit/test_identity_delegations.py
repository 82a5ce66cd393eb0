# SPDX-License-Identifier: Apache-2.0
"""Who may start which session, and what is said where somebody may not."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.identity.delegations import (
    Delegations,
    DelegationsError,
    NotAuthorized,
    Permission,
    Request,
    load,
    parse,
)

ROOT = Path(__file__).resolve().parents[2]
REQUEST = Request("alice", 1000, ("dev",), "coder", False, "demo/coder", False, None, "alice")


def rights(*entries: str) -> Delegations:
    return parse("delegations:" + "".join(f"\n  - {{{entry}}}" for entry in entries), "F")


def entry(who: str = "user:alice", **keys: str) -> str:
    given = {"profiles": "[coder]", "agents": "['*']"} | keys
    return ", ".join([f"who: '{who}'", *(f"{key}: {value}" for key, value in given.items())])


def refusal(delegations: Delegations, request: Request) -> str:
    with pytest.raises(NotAuthorized, match="^[^\n]*$") as error:
        delegations.authorize(request)
    return str(error.value)


@pytest.mark.parametrize("text", ["", "# nothing", "delegations: []"])
def test_nothing_listed_is_refused(text: str) -> None:
    assert refusal(parse(text, "F"), REQUEST) == "user alice has no right in F"


def test_root_may_everything() -> None:
    root = replace(
        REQUEST, user="root", uid=0, observe=True, profile_file=True, run_as="bob", ttl=9
    )
    assert Delegations("F").authorize(root) == Permission("coder", 9)
    assert "--profile" in refusal(Delegations("F"), replace(root, profile=None))


@pytest.mark.parametrize("who", ["user:alice", "group:dev"])
def test_an_entry_names_users_and_groups(who: str) -> None:
    assert rights(entry(who)).authorize(REQUEST) == Permission("coder", None)


@pytest.mark.parametrize("who", ["user:bob", "group:alice", "user:dev", "group:wheel"])
def test_an_entry_is_for_nobody_else(who: str) -> None:
    assert "no right" in refusal(rights(entry(who)), REQUEST)


@pytest.mark.parametrize(
    ("keys", "change", "says"),
    [
        ({"profiles": "[]"}, {}, "profile coder"),
        ({"profiles": "[Coder, code]"}, {}, "profile coder"),
        ({"agents": "[]"}, {}, "agent demo/coder"),
        ({"agents": "[demo]"}, {}, "agent demo/coder"),
        ({}, {"observe": True}, "observe"),
        ({}, {"profile_file": True}, "profile_files"),
        ({}, {"run_as": "bob"}, "run_as"),
        ({"run_as": "[carol]"}, {"run_as": "bob"}, "run_as"),
        ({"max_ttl": "1h"}, {"ttl": 3601}, "max_ttl"),
        ({"profiles": "['*']"}, {"profile": None}, "say --profile"),
        ({}, {"depth": 1}, "depth is 0"),
        ({"depth": "1"}, {"depth": 2}, "depth is 1"),
    ],
)
def test_each_right_is_needed(keys: dict[str, str], change: dict[str, object], says: str) -> None:
    request = replace(REQUEST, **change)  # type: ignore[arg-type]
    assert says in refusal(rights(entry(**keys)), request)
    # The same is granted where the right is there.
    every = entry(
        profiles="[coder, '*']", observe="true", profile_files="true", run_as="[bob]", max_ttl="2h",
        depth="2",
    )  # fmt: skip
    rights(every).authorize(request)


def test_globs() -> None:
    one = rights(entry(profiles="['co*']", agents="['demo/*']"))
    assert one.authorize(REQUEST).profile == "coder"
    assert "agent ci/x" in refusal(one, replace(REQUEST, agent="ci/x"))


def test_the_first_plain_name_is_the_default() -> None:
    one = rights(entry(profiles="['*', 'x*', second, third]"))
    assert one.authorize(replace(REQUEST, profile=None)).profile == "second"


def test_a_file_takes_no_default_name() -> None:
    one = rights(entry(profile_files="true"))
    brought = replace(REQUEST, profile=None, profile_file=True)
    assert one.authorize(brought).profile == ""
    assert one.authorize(replace(brought, profile="mine")).profile == "mine"


def test_ttl() -> None:
    one = rights(entry(max_ttl="1h"))
    assert one.authorize(REQUEST).ttl == 3600
    assert one.authorize(replace(REQUEST, ttl=60)).ttl == 60
    two = rights(entry(max_ttl="1h"), entry("group:dev", max_ttl="2h"))
    assert two.authorize(REQUEST).ttl == 7200
    assert two.authorize(replace(REQUEST, ttl=7200)).ttl == 7200
    assert rights(entry(max_ttl="1h"), entry()).authorize(REQUEST).ttl is None


def test_depth() -> None:
    assert rights(entry()).authorize(REQUEST).depth == 0
    one = rights(entry(depth="3"))
    assert one.authorize(REQUEST).depth == 3
    assert one.authorize(replace(REQUEST, depth=1)).depth == 1
    # Of two that grant as long, the deeper; a request is for one entry as a whole.
    two = rights(entry(), entry("group:dev", depth="2"), entry("group:dev", max_ttl="1h"))
    assert (two.authorize(REQUEST).ttl, two.authorize(REQUEST).depth) == (None, 2)
    brief = rights(entry(max_ttl="1h", depth="5"), entry(max_ttl="2h"))
    assert brief.authorize(REQUEST).depth == 0
    assert brief.authorize(replace(REQUEST, depth=4)) == Permission("coder", 3600, 4)
    # Root has what it asks for.
    root = replace(REQUEST, user="root", uid=0)
    assert Delegations("F").authorize(root).depth == 0
    assert Delegations("F").authorize(replace(root, depth=7)).depth == 7


def test_two_halves_grant_nothing() -> None:
    halves = rights(entry(agents="[other]"), entry(profiles="[other]"))
    assert "agent demo/coder" in refusal(halves, REQUEST)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("delegations:\n  - profiles: []", "F:2: delegations[0].who: is missing"),
        ("delegations:\n  - {who: alice, profiles: [], agents: []}", "user:NAME or group:NAME"),
        ("delegations:\n  - {who: 'user:*', profiles: [], agents: []}", "user:NAME or group:NAME"),
        ("delegations:\n  - who: user:a\n    profile: []", "F:3: delegations[0].profile: unknown"),
        ("delegations:\n  - {who: user:a, profiles: x, agents: []}", "must be a list"),
        ("delegations:\n  - {who: user:a, profiles: [7], agents: []}", "profiles[0]: must be text"),
        ("delegations: [{who: user:a, profiles: [], agents: [], observe: 1}]", "true or false"),
        ("delegations: [{who: user:a, profiles: [], agents: [], observe: 'yes'}]", "true or false"),
        ("delegations: [{who: user:a, profiles: [], agents: [], max_ttl: 5}]", "duration"),
        ("delegations: [{who: user:a, profiles: [], agents: [], run_as: ['*']}]", "user"),
        ("delegations: {}", "must be a list"),
        ("delegation: []", "F:1: delegation: unknown key"),
        ("- a", "F:1: must be a mapping"),
        ("delegations:\n  - a: 1\n    a: 2", "F:3: found duplicate key"),
        ("a: [", "F:1"),
        ("a: \0", "F: "),
        ("[" * 50_000, "F"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(DelegationsError) as error:
        parse(text, "F")
    assert says in str(error.value)
    assert all(line.startswith("F") for line in str(error.value).splitlines())


@given(st.text())
def test_any_text_is_rights_or_an_error(text: str) -> None:
    with contextlib.suppress(DelegationsError):
        parse(text, "F")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "delegations.yaml"
    assert load(path) == Delegations(str(path))
    path.write_text(f"delegations:\n  - {{{entry()}}}")
    path.chmod(0o644)
    assert load(path).authorize(REQUEST).profile == "coder"
    path.chmod(0o646)
    with pytest.raises(DelegationsError, match="written by others"):
        load(path)
    path.chmod(0o644)
    path.write_bytes(b"\xff")
    with pytest.raises(DelegationsError, match="cannot read"):
        load(path)
    with pytest.raises(DelegationsError):
        load(tmp_path)


def test_the_sample_grants_nobody_anything() -> None:
    sample = (ROOT / "packaging/etc/delegations.yaml").read_text(encoding="utf-8")
    assert parse(sample, "F").entries == ()


def test_what_the_sample_shows_can_be_used() -> None:
    sample = (ROOT / "packaging/etc/delegations.yaml").read_text(encoding="utf-8")
    shown = [line[2:] for line in sample.splitlines() if line.startswith("# ")]
    text = "\n".join(shown[shown.index("delegations:") :])
    assert [each.who for each in parse(text, "F").entries] == [
        "group:developers",
        "user:alice",
        "user:ci",
    ]

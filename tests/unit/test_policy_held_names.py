# SPDX-License-Identifier: Apache-2.0
"""Which listed unix sockets a session may redirect, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monitor.policy import held_names
from monitor.policy.plan import Plan
from monitor.policy.plan_json import from_json, to_json
from monitor.policy.sub_agents import Launcher, beneath
from monitor.policy.switch import in_force
from monitor.policy.syscalls import NUMBERS
from monitor.wire.layout import ri_unix_value
from monitor.wire.rows import policy_rows
from tests.support.profiles import compiled, profile

CONNECT = NUMBERS["connect"]


def plan(write: list[str], unix: list[str], *, observe: bool = False) -> Plan:
    return compiled([profile(files={"write": write}, network={"unix": unix})], observe=observe)


def held(made: Plan) -> dict[str, bool]:
    return {rule.path: rule.held for policy in made.policies for rule in policy.unix}


@pytest.mark.parametrize(
    ("write", "path", "wanted"),
    [
        ("/w/**", "/w/x", True),
        ("/w/**", "/w/a/b/x", True),
        ("/w/**", "/wx/x", False),
        ("/w/a/**", "/w/x", False),
        ("/w/x", "/w/x", False),  # the file itself, not its folder
        ("/**", "/run/x", True),
        ("/w/**", "@/w/x", False),
        ("/run/**", "/run/x", True),
    ],
)
def test_a_name_in_a_writable_folder_is_held(write: str, path: str, wanted: bool) -> None:
    made = plan([write], [path])
    assert held(made) == {path: wanted}
    assert (CONNECT in made.syscalls.notified) is wanted
    assert from_json(to_json(made)) == made


def test_reading_is_not_writing() -> None:
    made = compiled([profile(files={"read": ["/w/**"]}, network={"unix": ["/w/x"]})])
    assert held(made) == {"/w/x": False}


def test_every_link_must_let_it_be_written() -> None:
    wide = profile(name="wide", files={"write": ["/w/**"]}, network={"unix": ["/w/x"]})
    narrow = profile(name="narrow", files={"write": ["/w/a/**"]}, network={"unix": ["/w/x"]})
    assert not any(held(compiled([wide, narrow])).values())
    assert all(held(compiled([wide, wide.model_copy(update={"name": "other"})])).values())


def test_observing_holds_nothing() -> None:
    made = plan(["/w/**"], ["/w/x"], observe=True)
    assert held(made) == {"/w/x": False}
    assert made.syscalls.notified == ()


def test_both_names_of_a_rule_are_held_where_one_is() -> None:
    (policy,) = plan(["/w/**"], ["/r/x"]).policies
    (rule,) = policy.unix
    both = replace(policy, unix=(rule, replace(rule, path="/w/link/x")))
    assert [each.held for each in held_names.marked([both])[0].unix] == [True, True]
    assert [each.held for each in held_names.cleared(held_names.marked([both]))[0].unix] == [
        False,
        False,
    ]


def test_the_daemons_own_socket_is_not_held() -> None:
    launcher = Launcher(api="/w/api", socket="/w/launch")
    made = compiled([profile(files={"write": ["/w/**"]})], launcher=launcher)
    assert held(made) == {"/w/launch": False}
    assert CONNECT not in made.syscalls.notified


def test_the_kernels_rows_say_so() -> None:
    (policy,) = plan(["/w/**"], ["/w/x", "/r/x"]).policies
    rows = [row for row in policy_rows(1, policy) if row.map == "unix_paths"]
    values = {
        row.key[8:].rstrip(b"\0"): ri_unix_value.from_buffer_copy(row.value).held for row in rows
    }
    assert values == {b"/w/x": 1, b"/r/x": 0}


def test_one_inside_another_needs_no_gate_for_what_it_alone_would_write() -> None:
    above = compiled([profile(name="above", files={"read": ["/w/**"]}, network={"unix": ["/w/x"]})])
    inner = plan(["/w/**"], ["/w/x"])
    assert not any(held(beneath(inner, above)).values())
    writing = compiled(
        [profile(name="above", files={"write": ["/w/**"]}, network={"unix": ["/w/x"]})]
    )
    assert all(held(beneath(inner, writing)).values())


def test_a_session_that_was_started_without_the_gate_is_refused_such_a_name() -> None:
    old = plan(["/w/**"], [])
    switched = in_force(old, plan(["/w/**"], ["/w/x"]), pinned=False, view=True)
    assert held(switched.plan) == {"/w/x": True}
    assert CONNECT not in switched.plan.syscalls.notified
    assert any("network.unix: /w/x" in line for line in switched.pending)

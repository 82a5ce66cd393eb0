# SPDX-License-Identifier: Apache-2.0
"""Asks, labels and rules on arguments held against a plain reading, on random profiles."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.policy import exec_rules
from monitor.policy.action import NetAction, Origin, Verb, Verdict
from monitor.policy.decide import decide
from monitor.policy.decide_network import port_range
from monitor.policy.exec_rules import Program
from monitor.policy.gates import Gates, gates
from monitor.policy.plan import ExecRule, Plan
from monitor.policy.plan_json import from_json, to_json
from monitor.profile.model import Profile
from tests.support import profiles
from tests.support.profiles import compiled

lists = st.lists(profiles.destinations, max_size=3)
# One label, by a destination that is not a list of its own: two labels may not name the same.
labels = st.none() | st.fixed_dictionaries(
    {
        "only": st.none() | lists,
        "connect": st.lists(profiles.narrow, max_size=2),
        "ask": st.booleans(),
    }
)
CONNECTS = [each for each in profiles.NET_ACTIONS if each.verb is not Verb.NET_BIND]


def written(
    connect: list[str], ask: list[str], deny: list[str], label: dict[str, Any] | None = None
) -> Plan:
    """The plan of one profile with these destinations."""
    document: dict[str, Any] = {
        "name": "one",
        "network": {
            key: [{"to": text} for text in texts]
            for key, texts in (("connect", connect), ("ask", ask), ("deny", deny))
        },
    }
    if label is not None:
        then: dict[str, Any] = {"ask": "everywhere" if label["ask"] else None}
        if label["only"] is not None:
            then["network"] = {"only": [{"to": text} for text in label["only"]]}
        earned = [{"to": text} for text in label["connect"]]
        document["labels"] = {"l": {"files": [{"path": "/x"}], "connect": earned, "then": then}}
    return compiled([Profile.model_validate(document)])


def verdicts(plan: Plan, action: NetAction) -> tuple[Verdict, Verdict]:
    """Before and after the first label is earned."""
    return decide(plan, action).verdict, decide(plan, action, frozenset({0})).verdict


@settings(max_examples=150)
@given(lists, lists, lists, labels, profiles.some(CONNECTS, 80))
def test_deny_beats_ask_beats_allow_and_a_label_only_narrows(
    connect: list[str],
    ask: list[str],
    deny: list[str],
    label: dict[str, Any] | None,
    actions: list[NetAction],
) -> None:
    plan = written(connect, ask, deny, label)
    asking, granting = written(ask, [], deny), written(connect, [], deny)
    left = None if label is None or label["only"] is None else written(label["only"], [], [])
    for action in actions:
        before, after = verdicts(plan, action)
        if decide(asking, action).verdict is Verdict.ALLOW:
            expected = Verdict.ASK
        else:
            expected = decide(granting, action).verdict
        assert before is expected, action
        if label is not None and expected is not Verdict.DENY:
            if left is not None and decide(left, action).verdict is Verdict.DENY:
                expected = Verdict.DENY
            elif label["ask"]:
                expected = Verdict.ASK
        assert after is expected, action
    assert from_json(to_json(plan)) == plan
    if any(Verdict.ASK in verdicts(plan, action) for action in actions):
        assert Gates.CONNECT in gates(plan)


@settings(max_examples=150)
@given(lists, lists, lists, st.lists(profiles.destinations, min_size=1, max_size=2))
def test_what_earns_a_label_changes_no_verdict(
    connect: list[str], ask: list[str], deny: list[str], earning: list[str]
) -> None:
    label = {"only": [], "connect": earning, "ask": False}
    marked, plain = written(connect, ask, deny, label), written(connect, ask, deny)
    named = written(earning, [], [])
    for action in CONNECTS[::7]:
        assert decide(marked, action).verdict is decide(plain, action).verdict, action
        found = earns(marked, action)
        if decide(plain, action).verdict is not Verdict.DENY:
            # A wide rule earns by reserved addresses as well, where the profile names those.
            assert found or decide(named, action).verdict is not Verdict.ALLOW, action


def earns(plan: Plan, action: NetAction) -> bool:
    """Whether connecting there earns the label."""
    found = port_range(plan.policies[0].connect, action.address, action.port, action.protocol)
    return found is not None and found.label == 0


# -- arguments ------------------------------------------------------------------------------------

words = st.sampled_from(["", "a", "ab", "push", "-r", "b"])
patterns = st.lists(st.sampled_from(["...", "a*", "?", "*", "push", "-r", "[ab]"]), max_size=6)
NOWHERE = Origin("p", "exec.ask", "x", "p", 1)


def plainly(patterns: list[str], arguments: list[str]) -> bool:
    """What the patterns say, word by word."""
    if not patterns:
        return not arguments
    if patterns[0] == "...":
        return any(plainly(patterns[1:], arguments[at:]) for at in range(len(arguments) + 1))
    return (
        bool(arguments)
        and fnmatchcase(arguments[0], patterns[0])
        and plainly(patterns[1:], arguments[1:])
    )


@settings(max_examples=500)
@given(patterns, st.lists(words, max_size=6), st.sampled_from(["x", "push", "x-push", "/a/b/x"]))
def test_arguments_match_as_they_read(
    patterns: list[str], arguments: list[str], called: str
) -> None:
    rule = ExecRule("/bin/x", tuple(patterns), None, False, Verdict.ASK, "", NOWHERE)
    program = Program("/bin/x", (called, *arguments), "/")
    # Called `push`: as if that were the first argument, where a pattern spells it out.
    expected = plainly(patterns, arguments) or ("push" in called and spelt(patterns, arguments))
    assert exec_rules.matches(rule, program) is expected


def spelt(patterns: list[str], arguments: list[str]) -> bool:
    """The name taken by the first pattern that is none of `...`."""
    first = next((at for at, each in enumerate(patterns) if each != "..."), None)
    return (
        first is not None
        and patterns[first] == "push"
        and plainly(patterns[first + 1 :], arguments)
    )

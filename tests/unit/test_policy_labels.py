# SPDX-License-Identifier: Apache-2.0
"""Network asks, labels, budgets, conditions and signals as a Plan holds them."""

from __future__ import annotations

import ipaddress

import pytest

from monitor.policy.action import FileAction, NetAction, Verb, Verdict
from monitor.policy.compile import CompileError
from monitor.policy.decide import decide
from monitor.policy.plan import (
    Budgets,
    Plan,
    Reaction,
    RiskStep,
    TimeWindow,
)
from monitor.policy.plan_json import from_json, to_json
from monitor.profile.errors import ProfileError
from monitor.profile.load import parse
from monitor.profile.resolve import resolve
from tests.support.profiles import compiled


def plan(*texts: str) -> Plan:
    made = compiled([parse(f"name: p{i}\n{text}", f"p{i}") for i, text in enumerate(texts)])
    assert from_json(to_json(made)) == made
    return made


def verdict(made: Plan, to: str, earned: frozenset[int] = frozenset()) -> Verdict:
    address, _, port = to.rpartition(":")
    action = NetAction(Verb.NET_CONNECT, ipaddress.ip_address(address), int(port), 6)
    return decide(made, action, earned).verdict


def test_deny_beats_ask_beats_connect() -> None:
    made = plan(
        "network: {connect: ['10.0.0.0/8:*'], ask: ['any:443', '10.1.0.0/16:22'],"
        " deny: ['10.1.2.3:443']}"
    )
    assert verdict(made, "10.0.0.1:80") is Verdict.ALLOW
    assert verdict(made, "10.0.0.1:443") is Verdict.ASK
    assert verdict(made, "8.8.8.8:443") is Verdict.ASK
    assert verdict(made, "8.8.8.8:80") is Verdict.DENY
    assert verdict(made, "10.1.0.1:22") is Verdict.ASK
    assert verdict(made, "10.1.2.3:443") is Verdict.DENY
    assert verdict(made, "169.254.169.254:443") is Verdict.DENY, "`any` does not reach it"


def test_a_denial_of_a_later_link_beats_the_ask_of_an_earlier_one() -> None:
    made = plan("network: {ask: ['any:443']}", "network: {connect: ['10.0.0.0/8:443']}")
    assert verdict(made, "10.0.0.1:443") is Verdict.ASK
    assert verdict(made, "8.8.8.8:443") is Verdict.DENY


def test_a_label_leaves_what_it_lists_of_what_the_profile_allows() -> None:
    made = plan(
        "network: {connect: ['any:443', '10.0.0.0/8:5432']}\n"
        "labels: {data: {connect: ['10.1.0.0/16:5432'],"
        " then: {network: {only: ['10.0.0.0/8:*', '8.8.8.8:53']}}}}"
    )
    before, after = frozenset[int](), frozenset({0})
    assert verdict(made, "8.8.8.8:443", before) is Verdict.ALLOW
    assert verdict(made, "8.8.8.8:443", after) is Verdict.DENY
    assert verdict(made, "10.0.0.1:443", after) is Verdict.ALLOW
    assert verdict(made, "8.8.8.8:53", after) is Verdict.DENY, "a label never widens"
    policy = made.policies[0]
    earning = {
        (prefix.network, ports.first)
        for prefix in policy.connect
        for ports in prefix.ports
        if ports.label == 0
    }
    assert earning == {("::ffff:10.1.0.0/112", 5432)}
    label = policy.labels[0]
    assert label.policy is not None
    assert (label.policy.sockets, label.policy.bind) == (policy.sockets, policy.bind)


def test_a_label_that_asks_everywhere() -> None:
    made = plan(
        "network: {connect: ['any:443']}\nlabels: {a: {files: [/x/**], then: {ask: everywhere}}}"
    )
    assert verdict(made, "8.8.8.8:443") is Verdict.ALLOW
    assert verdict(made, "8.8.8.8:443", frozenset({0})) is Verdict.ASK
    assert verdict(made, "8.8.8.8:80", frozenset({0})) is Verdict.DENY
    assert made.policies[0].labels[0].files == ("/x",)


def test_labels_are_counted_over_all_links() -> None:
    label = "{files: [/x], then: {network: {only: []}}}"
    five = ", ".join(f"l{i}: {label}" for i in range(5))
    with pytest.raises(CompileError, match="the kernel holds 8"):
        plan(f"labels: {{{five}}}", f"labels: {{{five}}}")
    made = plan(
        "network: {connect: ['any:1']}", f"network: {{connect: ['any:1']}}\nlabels: {{{five}}}"
    )
    assert verdict(made, "9.9.9.9:1", frozenset({4})) is Verdict.DENY


def test_one_destination_earns_one_label() -> None:
    text = (
        "network: {connect: ['any:1']}\n"
        "labels: {a: {connect: ['any:1'], then: {ask: everywhere}},"
        " b: {connect: ['any:1'], then: {ask: everywhere}}}"
    )
    with pytest.raises(CompileError, match="gives another label for the same"):
        plan(text)


def test_files_that_are_asked_about() -> None:
    made = plan("files: {read: [/srv/**], ask: [{path: '/srv/*.key', why: keys}]}")
    assert decide(made, FileAction(Verb.FILE_OPEN, "/srv/a.key")).verdict is Verdict.ASK
    assert decide(made, FileAction(Verb.FILE_OPEN, "/srv/a")).verdict is Verdict.ALLOW
    assert decide(made, FileAction(Verb.FILE_WRITE, "/srv/a.key")).verdict is Verdict.DENY
    assert made.policies[0].asks[0].why == "keys"


def test_budgets_are_each_links_own() -> None:
    made = plan(
        "limits: {connects_per_minute: 9, egress_bytes: 1K, on_budget: ask}",
        "limits: {execs_per_minute: 3, deletes_per_minute: 2, destinations: 1}",
    )
    assert [policy.budgets for policy in made.policies] == [
        Budgets(connects=9, egress=1024),
        Budgets(execs=3, deletes=2, destinations=1),
    ]
    assert made.on_budget is Reaction.DENY, "one that does not say so denies"
    assert plan("limits: {execs_per_minute: 3, on_budget: ask}").on_budget is Reaction.ASK


def test_asks_take_the_strictest_of_all_links() -> None:
    one = "exec: {ask: [/x]}\nask_fallback: allow\nlimits: {ask_timeout: 2m, asks_per_minute: 5}"
    assert plan(one).approval.fallback is Verdict.ALLOW
    assert plan(one, "files: {read: [/x]}").approval.fallback is Verdict.ALLOW
    both = plan(one, "exec: {ask: [/x]}\nlimits: {ask_timeout: 1m, asks_per_minute: 50}").approval
    assert (both.fallback, both.timeout, both.per_minute) == (Verdict.DENY, 60, 5)
    usual = plan("exec: {ask: [/x]}", one.replace("2m", "9m").replace(": 5", ": 99")).approval
    assert (usual.timeout, usual.per_minute) == (300, 30), "a further link makes none of it milder"
    milder = plan("limits: {ask_timeout: 9m, asks_per_minute: 99}\nexec: {ask: [/x]}").approval
    assert (milder.timeout, milder.per_minute) == (540, 99)
    assert plan("ask_fallback: allow").approval.fallback is Verdict.DENY


def test_conditions_of_all_links_hold_together() -> None:
    made = plan(
        'conditions: {time: [{days: [fri, mon], start: "08:30", until: "17:00", zone: UTC}],'
        " load_below: 8, memory_available: 1M}",
        'conditions: {time: [{start: "22:00", until: "06:00", zone: Europe/Berlin}],'
        " load_below: 4, memory_available: 2M, otherwise: freeze}",
    ).conditions
    every = (0, 1, 2, 3, 4, 5, 6)
    assert made.windows == (
        (TimeWindow((0, 4), 510, 1020, "UTC"),),
        (TimeWindow(every, 1320, 360, "Europe/Berlin"),),
    )
    assert (made.load, made.memory, made.otherwise) == (4.0, 2 << 20, Reaction.FREEZE)


def test_reactions_rise_with_the_score() -> None:
    made = plan(
        "signals: {session_revoked: deny,"
        " risk_score: [{at: 50, then: freeze}, {at: 80, then: deny}]}"
    ).reactions
    assert made.revoked is Reaction.DENY
    assert made.assurance is Reaction.FREEZE
    assert made.risk == (RiskStep(50, Reaction.FREEZE), RiskStep(80, Reaction.FREEZE))


def test_labels_of_included_profiles_come_along_and_may_not_differ() -> None:
    label = "labels: {a: {files: [/x], then: {network: {only: [%s]}}}}"
    included = parse("name: other\n" + label % "'any:1'", "other.yaml")
    (whole,) = resolve(parse("name: mine\ninclude: [other]", "mine.yaml"), lambda _name: included)
    assert list(whole.labels) == ["a"]
    assert whole.places["labels.a.files[0]"].source == "other.yaml"
    differing = parse("name: mine\ninclude: [other]\n" + label % "", "mine.yaml")
    with pytest.raises(ProfileError, match=r"mine.yaml:3:.*labels.a: other and mine both"):
        resolve(differing, lambda _name: included)
    same = parse("name: mine\ninclude: [other]\n" + label % "'any:1'", "mine.yaml")
    assert list(resolve(same, lambda _name: included)[0].labels) == ["a"]


def test_what_narrows_is_the_strictest_of_what_is_included() -> None:
    parts = {
        "one": "conditions: {purpose: required, load_below: 9}\nask_fallback: allow",
        "two": "conditions: {load_below: 3, otherwise: kill}\nsignals: {session_revoked: freeze}",
    }
    (whole,) = resolve(
        parse("name: mine\ninclude: [one, two]", "mine.yaml"),
        lambda name: parse(f"name: {name}\n{parts[name]}", f"{name}.yaml"),
    )
    assert whole.conditions is not None
    assert (whole.conditions.purpose, whole.conditions.load_below) == ("required", 3)
    assert whole.conditions.otherwise == "kill"
    assert whole.signals is not None
    assert whole.signals.session_revoked == "freeze"
    assert whole.ask_fallback is None, "what weakens is said where it is used"

# SPDX-License-Identifier: Apache-2.0
"""Two plans against each other, and what a running session can go over to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monitor.policy import plan_json
from monitor.policy.action import NetAction, Origin, Verb, Verdict
from monitor.policy.changes import Change, Effect
from monitor.policy.compile import Context, compile_plan
from monitor.policy.decide import decide
from monitor.policy.difference import difference
from monitor.policy.plan import (
    Conditions,
    HostFeatures,
    Label,
    Plan,
    Reaction,
    Reactions,
    RiskStep,
    TimeWindow,
)
from monitor.policy.switch import CannotSwitch, in_force
from monitor.profile.load import parse
from monitor.profile.model import Profile

HOST = HostFeatures(landlock_abi=7, unix_hooks=True, view=True)
BASE = """
files:
  read: ["/usr/**", "{workspace}/**"]
  write: ["{workspace}/**"]
  execute: ["/usr/bin/**"]
network:
  connect: ["10.0.0.0/8:443", "192.0.2.1:80"]
limits: {ttl: 8h, processes: 100}
"""


def profile(text: str = BASE, name: str = "p") -> Profile:
    return parse(f"name: {name}\n{text}", f"/etc/{name}.yaml")


def plan(*texts: str) -> Plan:
    profiles = tuple(profile(text, "pqrstuvwxyz"[i]) for i, text in enumerate(texts or (BASE,)))
    context = Context("/ws", "/home/a", "id", 1000, None, False, lambda path: path)
    return compile_plan(profiles, context, HOST)


def changed(old: str, new: str, text: str = BASE) -> Plan:
    assert old in text
    return plan(text.replace(old, new))


def lines(new: Plan, old: Plan | None = None) -> list[str]:
    return list(difference(old or plan(), new).lines())


def test_the_same_is_no_difference() -> None:
    assert not difference(plan(), plan()).changes
    assert not difference(plan(), plan("# moved\n\n" + BASE)).changes


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (', "192.0.2.1:80"', "", ["profile p", "  - network.connect: 192.0.2.1:80"]),
        (
            ', "192.0.2.1:80"',
            ', "192.0.2.1:80", "192.0.2.2:80"',
            ["profile p", "  + network.connect: 192.0.2.2:80"],
        ),
        (
            'connect: ["10',
            'deny: ["10.1.0.0/16:*"]\n  connect: ["10',
            ["profile p", "  - network.deny: 10.1.0.0/16:* (a new rule)"],
        ),
        (
            "execute:",
            'deny: ["/usr/lib/x"]\n  execute:',
            ["profile p", "  - files.deny: /usr/lib/x (a new rule)"],
        ),
        (
            '"/usr/**", ',
            '"/usr/**", "/srv/**", ',
            ["profile p", "  + files.read: /srv/** (new sessions only)"],
        ),
        ('"/usr/**", ', "", ["profile p", "  - files.read: /usr/**"]),
        ("processes: 100", "processes: 50", ["session", "  - limits.processes: 100 -> 50"]),
        (
            "ttl: 8h",
            "ttl: 9h",
            ["session", "  + limits.ttl: 28800 -> 32400 (new sessions only)"],
        ),
        ("ttl: 8h", "ttl: 1h", ["session", "  - limits.ttl: 28800 -> 3600"]),
        (", processes: 100", "", ["session", "  + limits.processes: 100 -> not limited"]),
        (
            "limits: {",
            "limits: {on_expiry: deny, ",
            ["session", "  + limits.on_expiry: kill -> deny"],
        ),
    ],
)
def test_each_rule_is_named(old: str, new: str, said: list[str]) -> None:
    assert lines(changed(old, new)) == said


def test_what_goes_the_other_way_has_the_other_sign() -> None:
    wider = changed("execute:", 'deny: ["/usr/lib/x"]\n  execute:')
    assert lines(plan(), wider) == [
        "profile p",
        "  + files.deny: /usr/lib/x (the rule is gone, new sessions only)",
    ]


def test_a_protocol_that_the_floor_closes_is_for_new_sessions() -> None:
    udp = changed(', "192.0.2.1:80"', ', "192.0.2.1:80", "192.0.2.1:53/udp"')
    said = lines(udp)
    assert "  + network.connect: 192.0.2.1:53/udp (new sessions only)" in said
    binds = changed("limits:", '  bind: ["127.0.0.1:8000"]\nlimits:')
    assert "  + network.bind: 127.0.0.1:8000 (new sessions only)" in lines(binds)


def test_a_further_profile_takes_away_and_one_less_adds() -> None:
    said = lines(plan(BASE, BASE))
    assert said[:2] == ["profile q", "  - extends: q must allow as well"]
    said = lines(plan(), plan(BASE, BASE))
    assert said[:2] == ["profile q", "  + extends: q need not allow any more"]


def test_json_tells_all() -> None:
    found = difference(plan(), changed(', "192.0.2.1:80"', ""))
    assert found.to_dict() == [
        {
            "effect": "takes away",
            "profile": "p",
            "section": "network.connect",
            "rule": "192.0.2.1:80",
            "live": True,
            "came": False,
        }
    ]


# -- what a session goes over to ------------------------------------------------------------------


def allowed(found: Plan, address: str, port: int) -> bool:
    import ipaddress

    action = NetAction(Verb.NET_CONNECT, ipaddress.ip_address(address), port, 6)
    return decide(found, action).verdict is Verdict.ALLOW


def test_the_network_goes_both_ways() -> None:
    new = changed(', "192.0.2.1:80"', ', "192.0.2.2:80"')
    found = in_force(plan(), new, pinned=False, view=False)
    assert allowed(found.plan, "192.0.2.2", 80)
    assert not allowed(found.plan, "192.0.2.1", 80)
    assert found.pending == ()


def test_what_is_worn_stays() -> None:
    old = plan()
    new = changed('"/usr/**", ', '"/usr/**", "/srv/**", ', BASE.replace("8h", "9h"))
    found = in_force(old, new, pinned=False, view=True)
    assert found.plan.policies[0].files == old.policies[0].files
    assert found.plan.syscalls == old.syscalls
    assert found.plan.limits.ttl == 8 * 3600
    assert plan_json.from_json(plan_json.to_json(found.plan)) == found.plan


def test_files_narrow_in_the_view_or_wait() -> None:
    old = plan()
    deny = changed("execute:", 'deny: ["/usr/lib/x"]\n  execute:')
    there = in_force(old, deny, pinned=False, view=True)
    assert [each.pattern for each in there.masks] == ["/usr/lib/x"]
    assert there.plan.policies[0].masks == there.masks
    assert there.pending == ()
    not_there = in_force(old, deny, pinned=False, view=False)
    assert not_there.masks == ()
    assert not_there.plan.policies[0].masks == ()
    assert not_there.pending == ("p: files.deny: /usr/lib/x",)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ('  write: ["{workspace}/**"]', "", "read-only"),
        ('execute: ["/usr/bin/**"]', "execute: []", "no-exec"),
        (', "{workspace}/**"]\n  write: ["{workspace}/**"]', "]", "hide"),
    ],
)
def test_rules_that_are_gone(old: str, new: str, kind: str) -> None:
    found = in_force(plan(), changed(old, new), pinned=False, view=True)
    assert [each.kind.value for each in found.masks] == [kind]
    assert found.pending == ()


def test_what_no_mask_can_express_waits() -> None:
    unreadable = changed(', "{workspace}/**"]', "]")
    found = in_force(plan(), unreadable, pinned=False, view=True)
    assert found.pending == ("p: files.read: {workspace}/** is gone",)
    inside = changed('"/usr/**"', '"/usr/bin/**"')
    assert in_force(plan(), inside, pinned=False, view=True).pending == (
        "p: files.read: /usr/** is gone",
    )


def test_a_wider_rule_that_stays_keeps_what_it_covers() -> None:
    both = BASE.replace('"/usr/**"', '"/usr/**", "/usr/lib/**"')
    found = in_force(plan(both), plan(), pinned=False, view=True)
    assert found.masks == () == found.pending


def test_a_delegated_plan_narrows_and_never_widens() -> None:
    new = changed(', "192.0.2.1:80"', ', "192.0.2.2:80"')
    found = in_force(plan(), new, pinned=True, view=False).plan
    assert len(found.policies) == 2
    assert not allowed(found, "192.0.2.1", 80)
    assert not allowed(found, "192.0.2.2", 80)
    assert allowed(found, "10.1.1.1", 443)
    # Back again: what was taken away stays away.
    again = in_force(found, plan(), pinned=True, view=False).plan
    assert not allowed(again, "192.0.2.1", 80)
    assert allowed(again, "10.1.1.1", 443)


def test_a_delegated_plan_that_only_narrows_stays_short() -> None:
    found = in_force(plan(), changed(', "192.0.2.1:80"', ""), pinned=True, view=False).plan
    assert len(found.policies) == 1


def test_a_delegated_plan_keeps_the_stricter_choices() -> None:
    window = (TimeWindow((0,), 0, 60, "UTC"),)
    other = (TimeWindow((1,), 0, 60, "UTC"),)
    old = replace(
        plan(),
        conditions=Conditions((window,), load=2.0, otherwise=Reaction.KILL),
        reactions=Reactions(risk=(RiskStep(50, Reaction.FREEZE),)),
    )
    new = replace(
        plan(),
        conditions=Conditions((other,), load=3.0, memory=5),
        reactions=Reactions(
            revoked=Reaction.DENY, risk=(RiskStep(30, Reaction.DENY), RiskStep(80, Reaction.KILL))
        ),
    )
    found = in_force(old, new, pinned=True, view=False).plan
    assert found.conditions == Conditions((window, other), 2.0, 5, Reaction.KILL)
    assert found.reactions.revoked is Reaction.KILL
    assert found.reactions.risk == (
        RiskStep(30, Reaction.DENY),
        RiskStep(50, Reaction.FREEZE),
        RiskStep(80, Reaction.KILL),
    )
    free = in_force(old, new, pinned=False, view=False).plan
    assert free.conditions == new.conditions


def test_more_rule_sets_than_the_kernel_holds_are_refused() -> None:
    old = plan(*[BASE] * 8)
    new = plan(*[BASE.replace("192.0.2.1", "192.0.2.9")] * 8)
    with pytest.raises(CannotSwitch, match="the kernel holds 8"):
        in_force(old, new, pinned=True, view=False)
    assert len(in_force(old, new, pinned=False, view=False).plan.policies) == 8


def label(name: str) -> Label:
    origin = Origin("p", "labels", name, "/etc/p.yaml", 1)
    return Label(name, (), (), None, (), True, origin)


def with_labels(*names: str) -> Plan:
    one = plan()
    policy = replace(one.policies[0], labels=tuple(map(label, names)))
    return replace(one, policies=(policy,))


def test_an_earned_label_only_comes_off_by_a_person() -> None:
    old = with_labels("a", "b")
    new = with_labels("c")
    found = in_force(old, new, {"p": {"b"}}, pinned=False, view=False).plan
    assert [each.name for each in found.policies[0].labels] == ["c", "b"]
    assert [c.effect for c in difference(old, new).changes] == [
        Effect.TAKES,
        Effect.ADDS,
        Effect.ADDS,
    ]


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(CannotSwitch, match="labels"):
        in_force(with_labels("z"), with_labels(*"abcdefgh"), {"p": {"z"}}, pinned=False, view=False)


def test_change_reads_well() -> None:
    assert str(Change(Effect.CHANGES, "p", "network.ask", "any:443", came=True)) == (
        "~ network.ask: any:443 (a new rule)"
    )

# SPDX-License-Identifier: Apache-2.0
"""Rules that name hosts, from the text of a profile to its plan, and what lint says of them."""

from __future__ import annotations

import ipaddress

import pytest

from monitor.policy import plan_json
from monitor.policy.action import NetAction, SocketAction, Verb, Verdict
from monitor.policy.decide import decide
from monitor.policy.plan import Plan
from monitor.profile.errors import ProfileError
from monitor.profile.lint import lint
from monitor.profile.load import parse
from monitor.profile.variables import Variables
from monitor.resolver.names import Depth
from tests.support.profiles import compiled

VARIABLES = Variables("/home/u/w", "/home/u", "s", 1000)


def plan(*rules: str, more: str = "") -> Plan:
    text = f"name: a\nnetwork: {{connect: [{', '.join(rules)}]{more}}}"
    return compiled([parse(text, "a")])


def test_names_stand_in_the_plan_with_their_rules() -> None:
    found = plan("api.example.com:443", '"*.Example.ORG.:80,443/udp"', "10.0.0.0/8:443", "any:22")
    [policy] = found.policies
    assert [(str(each), each.ports, each.protocol) for each in policy.names] == [
        ("*.example.org", ((80, 80), (443, 443)), 17),
        ("any", ((22, 22),), 6),
        ("api.example.com", ((443, 443),), 6),
    ]
    texts = [policy.rules[each.rule].text for each in policy.names]
    assert texts == ["*.Example.ORG.:80,443/udp", "any:22", "api.example.com:443"]
    assert plan_json.from_json(plan_json.to_json(found)) == found


def test_a_private_rule_is_another_one() -> None:
    [one, other] = plan("a.corp:1", "{to: 'a.corp:1', private: true}").policies[0].names
    assert (one.private, other.private) == (False, True)
    assert one.rule != other.rule
    assert one.depth is Depth.EXACT


def test_names_come_with_what_asking_needs() -> None:
    found = plan("a.corp:1")
    for kind in (1, 2):
        assert decide(found, SocketAction(2, kind, 0)).verdict is Verdict.ALLOW

    here = ipaddress.ip_address("0.0.0.0")
    assert decide(found, NetAction(Verb.NET_BIND, here, 0, 17)).verdict is Verdict.ALLOW
    assert decide(found, NetAction(Verb.NET_BIND, here, 53, 17)).verdict is Verdict.DENY
    assert decide(found, NetAction(Verb.NET_BIND, here, 0, 6)).verdict is Verdict.DENY
    metadata = ipaddress.ip_address("169.254.169.254")
    refused = decide(found, NetAction(Verb.NET_CONNECT, metadata, 1, 6))
    # Not merely unlisted: what a name came to does not lead there either.
    assert refused.rule is not None
    assert decide(plan("10.0.0.1:1"), SocketAction(2, 2, 0)).verdict is Verdict.DENY


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ("{connect: ['*:443']}", "every address is written `any`"),
        ("{connect: ['a.*.b:443']}", "stands at the beginning of a name only"),
        ("{connect: ['a_b.example:443']}", "is not a host name"),
        ("{connect: ['example.org/24:443']}", "a rule that names a host has the form"),
        ("{connect: ['1.2.3:443']}", "is not an IPv4 address"),
        ("{connect: ['example.org:']}", "the ports are missing"),
        ("{connect: ['example.org:443/icmp']}", "neither tcp nor udp"),
        ("{connect: [{to: '10.0.0.1:1', private: true}]}", "this names addresses"),
        ("{ask: ['example.org:443']}", "host names are taken in network.connect alone"),
        ("{deny: ['example.org:443']}", "host names are taken in network.connect alone"),
        ("{bind: ['localhost:443']}", "host names are taken in network.connect alone"),
        ("{deny: [{to: '10.0.0.1:1', private: true}]}", "unknown key"),
    ],
)
def test_refusals(network: str, says: str) -> None:
    with pytest.raises(ProfileError) as error:
        parse(f"name: a\nnetwork: {network}", "a")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("**.com:443", "anybody can get one"),
        ("*.co.uk:443", "anybody can get one"),
        ("**.amazonaws.com:443", "every customer of amazonaws.com"),
        ("*.github.io:443", "every customer of github.io"),
        ("**.s3.amazonaws.com:443", "every customer of amazonaws.com"),
        ("**.example.org:443", "data leaves in the names"),
        ("*.example.org:443", ""),
        ("bucket.s3.amazonaws.com:443", ""),
        ("*.bucket.s3.amazonaws.com:443", ""),
    ],
)
def test_lint_tells_of_wildcards_that_mean_strangers(rule: str, says: str) -> None:
    profile = parse(f"name: a\nnetwork: {{connect: ['{rule}']}}", "a")
    found = [
        each.message
        for each in lint((profile,), VARIABLES, exists=lambda _path: True)
        if each.key == "network.connect"
    ]
    assert len(found) == bool(says), found
    assert not says or says in found[0]

# SPDX-License-Identifier: Apache-2.0
"""Packet rules say the same as the tables of the cgroup programs, address by address."""

from __future__ import annotations

import ipaddress
import random

import pytest

from monitor.policy.action import Verdict
from monitor.policy.decide_network import port_range
from monitor.policy.packets import Interval, Span, disjoint, rules
from monitor.policy.plan import NetPrefix, Policy, PortRange
from tests.support.probes import UDP, policy, ports

TCP = 6


def allowed(intervals: tuple[Interval, ...], address: str, protocol: int, port: int) -> bool:
    found = [each for each in intervals if each.holds(_ip(address), protocol, port)]
    assert len(found) < 2, "intervals overlap"
    return bool(found)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text)


def test_the_longest_prefix_is_the_whole_verdict() -> None:
    made = rules(
        [
            policy(
                connect=[
                    ("::ffff:10.0.0.0/104", [ports(80, 90), ports(53, protocol=UDP)]),
                    ("::ffff:10.1.0.0/112", [ports(443)]),
                    ("::ffff:10.1.2.3/128", [ports(443, allow=False), ports(80)]),
                ]
            )
        ]
    )
    assert allowed(made.send, "10.0.0.1", TCP, 85)
    assert not allowed(made.send, "10.1.0.1", TCP, 85)
    assert allowed(made.send, "10.1.0.1", TCP, 443)
    assert not allowed(made.send, "10.1.2.3", TCP, 443)
    assert allowed(made.send, "10.1.2.3", TCP, 80)
    assert allowed(made.send, "10.2.0.0", UDP, 53)
    assert not allowed(made.send, "11.0.0.0", TCP, 85)


def test_every_policy_must_allow() -> None:
    wide = policy(connect=[("::ffff:0.0.0.0/96", [ports(0, 65535, rule=3)])])
    narrow = policy(
        connect=[
            ("::ffff:10.0.0.0/104", [ports(443, rule=5)]),
            ("fd00::/8", [ports(443)]),
        ]
    )
    made = rules([wide, narrow])
    assert [(str(each.first), str(each.last), each.low, each.rules) for each in made.send] == [
        ("10.0.0.0", "10.255.255.255", 443, (3, 5))
    ]
    assert rules([wide, narrow, policy()]).send == ()
    assert rules([]).send == ()


def test_what_is_asked_about_is_not_allowed() -> None:
    made = rules([policy(connect=[("::ffff:10.0.0.1/128", [ports(443, ask=True), ports(80)])])])
    assert not allowed(made.send, "10.0.0.1", TCP, 443)
    assert allowed(made.send, "10.0.0.1", TCP, 80)


def test_everywhere_is_both_families_and_no_address_twice() -> None:
    made = rules([policy(connect=[("::/0", [ports(443)]), ("::ffff:0.0.0.0/96", [ports(443)])])])
    assert allowed(made.send, "0.0.0.0", TCP, 443)
    assert allowed(made.send, "255.255.255.255", TCP, 443)
    assert allowed(made.send, "::", TCP, 443)
    assert allowed(made.send, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", TCP, 443)
    assert {each.first.version for each in made.send} == {4, 6}
    # Addresses that no packet carries: IPv4-mapped ones.
    assert not allowed(made.send, "::ffff:10.0.0.1", TCP, 443)


def test_a_wildcard_is_every_own_address_of_its_family() -> None:
    four = rules([policy(bind=[("::ffff:0.0.0.0/128", [ports(7000)])])])
    assert allowed(four.own, "10.9.0.1", TCP, 7000)
    assert not allowed(four.own, "fd00::1", TCP, 7000)
    six = rules([policy(bind=[("::/128", [ports(7000)])])])
    assert allowed(six.own, "fd00::1", TCP, 7000)
    assert allowed(six.own, "10.9.0.1", TCP, 7000)  # a socket bound to :: takes IPv4 as well
    one = rules([policy(bind=[("::ffff:10.9.0.1/128", [ports(7000)])])])
    assert allowed(one.own, "10.9.0.1", TCP, 7000)
    assert not allowed(one.own, "10.9.0.2", TCP, 7000)


def test_a_wildcard_beside_one_address_does_not_overlap() -> None:
    made = rules(
        [
            policy(
                bind=[
                    ("::ffff:0.0.0.0/128", [ports(7000, 7010)]),
                    ("::ffff:10.9.0.1/128", [ports(7005, 7020)]),
                ]
            )
        ]
    )
    for port, at_one, elsewhere in ((7000, True, True), (7010, True, True), (7015, True, False)):
        assert allowed(made.own, "10.9.0.1", TCP, port) is at_one
        assert allowed(made.own, "10.9.0.2", TCP, port) is elsewhere


def test_port_0_is_any_port_that_the_kernel_chose() -> None:
    made = rules([policy(bind=[("::ffff:127.0.0.1/128", [ports(0)])])])
    assert allowed(made.own, "127.0.0.1", TCP, 49152)
    assert not allowed(made.own, "127.0.0.1", UDP, 49152)


def test_what_is_exposed_is_what_is_bound_unless_told() -> None:
    bound = policy(bind=[("::ffff:0.0.0.0/128", [ports(7000)])])
    assert rules([bound]).exposed == rules([bound]).own
    assert rules([bound], exposed=[[]]).exposed == ()
    table = (NetPrefix("::ffff:10.9.0.1/128", (PortRange(TCP, 7000, 7000, Verdict.ALLOW, 0),)),)
    assert len(rules([bound], exposed=[table]).exposed) == 1


def test_spans_are_cut_where_they_overlap() -> None:
    given = [Span(6, 100, 200), Span(6, 150, 250), Span(17, 100, 200), Span(6, 300, 301)]
    assert disjoint(given) == (
        Span(6, 100, 149),
        Span(6, 150, 200),
        Span(6, 201, 250),
        Span(6, 300, 301),
        Span(17, 100, 200),
    )


def test_others_reach_what_is_exposed_of_what_may_be_bound() -> None:
    held = policy(bind=[("::ffff:0.0.0.0/128", [ports(8000, 8010)]), ("::1/128", [ports(7)])])
    at_one = policy(bind=[("::ffff:10.0.0.7/128", [ports(8005, 9000)])]).bind
    everywhere = policy(bind=[("::/0", [ports(0, 65535)]), ("::ffff:0.0.0.0/96", [ports(8000)])])
    made = rules([held], exposed=[at_one])
    assert allowed(made.own, "10.0.0.8", TCP, 8005)
    assert [(str(each.first), each.low, each.high) for each in made.exposed] == [
        ("10.0.0.7", 8005, 8010)
    ]
    assert rules([held], exposed=[()]).exposed == ()
    made = rules([held, held], exposed=[at_one, everywhere.bind])
    assert made.exposed == ()
    made = rules([held], exposed=[everywhere.bind])
    assert allowed(made.exposed, "192.0.2.1", TCP, 8000)
    assert not allowed(made.exposed, "192.0.2.1", TCP, 8001)
    assert allowed(made.exposed, "::1", TCP, 7)
    assert not allowed(made.exposed, "::2", TCP, 7)


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_the_tables_of_the_cgroup_programs(seed: int) -> None:
    """Random policies, asked about random addresses near their edges."""
    dice = random.Random(seed)
    policies = [_random_policy(dice) for _ in range(dice.randint(1, 4))]
    made = rules(policies)
    for _ in range(400):
        address, protocol, port = _random_end(dice)
        expected = all(_allows(each, address, protocol, port) for each in policies)
        assert allowed(made.send, str(address), protocol, port) is expected, (address, port)


def _allows(
    held: Policy, address: ipaddress.IPv4Address | ipaddress.IPv6Address, protocol: int, port: int
) -> bool:
    found = port_range(held.connect, address, port, protocol)
    return found is not None and found.verdict is Verdict.ALLOW


def _random_policy(dice: random.Random) -> Policy:
    networks: dict[str, list[PortRange]] = {}
    for _ in range(dice.randint(1, 12)):
        bits = dice.choice([0, 80, 96, 104, 112, 118, 120, 124, 126, 128])
        base = dice.choice([0xFFFF << 32, 0xFD00 << 112]) + dice.randrange(1 << 10)
        if bits < 96:
            base = 0xFD00 << 112 if bits else 0
        network = str(ipaddress.IPv6Network((base, bits), strict=False))
        ranges: list[PortRange] = []
        for protocol in (TCP, UDP):
            at = 0
            for _ in range(dice.randint(0, 3)):
                first = at + dice.randint(0, 4)
                last = first + dice.randint(0, 4)
                verdict = dice.choice([Verdict.ALLOW, Verdict.ALLOW, Verdict.DENY, Verdict.ASK])
                ranges.append(PortRange(protocol, first, last, verdict, dice.randrange(9)))
                at = last + 1
        networks[network] = ranges
    return policy(connect=list(networks.items()))


def _random_end(
    dice: random.Random,
) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int, int]:
    number = dice.randrange(1 << 10)
    address: ipaddress.IPv4Address | ipaddress.IPv6Address = (
        ipaddress.IPv4Address(number)
        if dice.random() < 0.6
        else ipaddress.IPv6Address((0xFD00 << 112) + number)
    )
    return address, dice.choice([TCP, UDP]), dice.randint(0, 20)

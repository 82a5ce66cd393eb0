# SPDX-License-Identifier: Apache-2.0
"""What the daemon and the resolver's process say to each other."""

from __future__ import annotations

import ipaddress
import socket

from hypothesis import given
from hypothesis import strategies as st

from monitor.daemon.resolver import channel
from monitor.daemon.resolver.resolver import Peer, Resolution
from monitor.resolver.decision import Admission, Cause, NameTable, Permission, judge
from monitor.resolver.names import parse

PUBLIC, PRIVATE = ipaddress.ip_address("93.184.216.34"), ipaddress.ip_address("fd00::1")


@given(
    st.sampled_from(["a.b:443", "*.a.b:1-5,9/udp", "**.a.b:*", "any:53/udp"]),
    st.integers(-1, 9),
    st.booleans(),
)
def test_rules_come_back_as_they_went(text: str, number: int, private: bool) -> None:
    rule = parse(text, number, private)
    sent = channel.encode(channel.session_message("s-1", 5, [[rule], [rule, rule]]))
    got = channel.decode(sent)
    assert (got["do"], got["session"], got["cgroup"]) == ("session", "s-1", 5)
    rules = [[channel.rule_from_json(each) for each in link] for link in got["links"]]
    assert rules == [[rule], [rule, rule]]


def test_addresses_go_with_what_is_allowed_there() -> None:
    rules = [parse("a.b:443", 3, private=True), parse("a.b:80", 4)]
    found = judge("a.b", 1, [NameTable(rules)])
    assert isinstance(found, Permission)
    private = found.for_private()
    assert private is not None
    admissions = [
        Admission("a.b", PUBLIC, 60, found),
        Admission("a.b", PRIVATE, 60, private),
        Admission("a.b", ipaddress.ip_address("1.1.1.1"), 60, found),
    ]
    sent = channel.decode(channel.encode(channel.allow_message(7, "s-1", admissions)))
    assert (sent["number"], sent["session"], sent["name"]) == (7, "s-1", "a.b")
    public, inside = sent["groups"]
    assert (public["addresses"], public["ttl"]) == (["93.184.216.34", "1.1.1.1"], 60)
    assert public["ports"] == [[6, [[80, 80], [443, 443]]]]
    assert (inside["addresses"], inside["ports"]) == (["fd00::1"], [[6, [[443, 443]]]])
    links = [[channel.rule_from_json(rule) for rule in link] for link in inside["links"]]
    assert links == [rules[:1]]
    assert channel.admissions(sent) == [admissions[0], admissions[2], admissions[1]]


def test_a_record_says_all_that_is_known() -> None:
    peer = Peer(socket.IPPROTO_UDP, "::1", 9)
    resolution = Resolution("s-1", peer, "a\\000.b", "A", Cause.PRIVATE, 0, private=(PRIVATE,))
    sent = channel.decode(channel.encode(channel.record_message(resolution, 3)))
    assert sent == {
        "say": "record",
        "session": "s-1",
        "peer": [17, "::1", 9],
        "name": "a\\000.b",
        "type": "A",
        "cause": "private address",
        "rcode": 0,
        "addresses": [],
        "aliases": [],
        "private": ["fd00::1"],
        "rules": [],
        "ttl": 0,
        "cached": False,
        "seconds": 0.0,
        "times": 1,
        "lost": 3,
    }

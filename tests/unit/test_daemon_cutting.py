# SPDX-License-Identifier: Apache-2.0
"""Which open sockets a change of plan takes away."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from monitor.daemon.cutting import Rules, taken
from monitor.kernel.sockdiag import Endpoint, OpenSocket
from monitor.policy.compile import Context, compile_plan
from monitor.policy.plan import HostFeatures
from monitor.profile.load import parse

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
NOWHERE = "0.0.0.0:0"


def rules(connect: str = "", bind: str = "", ask: str = "", *, observe: bool = False) -> Rules:
    text = f"name: p\nnetwork: {{connect: [{connect}], bind: [{bind}], ask: [{ask}]}}\n"
    context = Context("/ws", "/home/a", "id", 1000, None, observe, lambda path: path)
    host = HostFeatures(landlock_abi=7, unix_hooks=True, view=True)
    return Rules(compile_plan((parse(text, "p.yaml"),), context, host))


def endpoint(text: str) -> Endpoint:
    address, _, port = text.rpartition(":")
    return Endpoint(ipaddress.ip_address(address.strip("[]")), int(port))


def opened(
    local: str, remote: str = NOWHERE, protocol: int = TCP, listens: bool = False
) -> OpenSocket:
    return OpenSocket(2, protocol, listens, endpoint(local), endpoint(remote), b"")


OUT = opened("10.0.0.1:40000", "192.0.2.1:80")
IN = opened("10.0.0.1:8000", "192.0.2.9:50000")
LISTENER = opened("10.0.0.1:8000", listens=True)
WEB, OTHER, OWN = '"192.0.2.1:80"', '"192.0.2.2:80"', '"10.0.0.1:8000"'


@pytest.mark.parametrize(
    ("old", "new", "each", "cut"),
    [
        (rules(WEB), rules(WEB), OUT, False),
        (rules(WEB), rules(OTHER), OUT, True),
        (rules(WEB), rules(), OUT, True),
        (rules(WEB), rules(OTHER, observe=True), OUT, False),
        (rules(bind=OWN), rules(bind=OWN), IN, False),
        (rules(bind=OWN), rules(), IN, True),
        (rules(WEB, OWN), rules(bind=OWN), IN, False),
        # A peer that could have been connected to: it cannot be told who began.
        (rules('"any:*"', OWN), rules(WEB, OWN), IN, True),
        (rules(bind=OWN), rules(), LISTENER, True),
        (rules(bind=OWN), rules(bind=OWN), LISTENER, False),
        (rules(WEB), rules(), opened("10.0.0.1:40000", protocol=UDP), False),
        (rules(WEB), rules(), opened("10.0.0.1:40000"), False),
        (rules(WEB), rules(), opened(NOWHERE), False),
        (
            rules(bind='"10.0.0.1:53/udp"'),
            rules(),
            opened("10.0.0.1:53", protocol=UDP),
            True,
        ),
        (
            rules('"192.0.2.1:53/udp"'),
            rules(),
            opened("10.0.0.1:4000", "192.0.2.1:53", UDP),
            True,
        ),
    ],
)
def test_just_what_is_taken_away(old: Rules, new: Rules, each: OpenSocket, cut: bool) -> None:
    assert taken(old, new, each) is cut


def test_one_that_is_asked_about_from_now_on() -> None:
    assert taken(rules(WEB), rules(ask=WEB), OUT)
    assert not taken(rules(ask=WEB), rules(ask=WEB), OUT)
    assert not taken(rules(ask=WEB), rules(WEB), OUT)

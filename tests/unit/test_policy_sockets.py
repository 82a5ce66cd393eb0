# SPDX-License-Identifier: Apache-2.0
"""Netlink by its key, and unix sockets on kernels that cannot decide on their names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from monitor.daemon.view.request import Identity, ViewRequest
from monitor.policy.compile import CompileError
from monitor.policy.plan import Plan
from monitor.policy.plan_json import from_json, to_json
from tests.support.profiles import ABLE, compiled, profile

AF_UNIX, AF_NETLINK = 1, 16
OLD = replace(ABLE, unix_hooks=False)
BLIND = replace(OLD, view=False)


def families(plan: Plan) -> set[int]:
    listed = [set(policy.sockets) for policy in plan.policies]
    return {rule.family for rule in set.intersection(*listed)}


def with_network(**network: Any) -> Plan:
    return compiled([profile(network=network)])


@pytest.mark.parametrize(
    ("network", "opened"),
    [
        ({}, False),
        ({"connect": ["127.0.0.1:80"]}, False),
        ({"connect": ["127.0.0.0/8:80", "[::1]:80"]}, False),
        ({"bind": ["0.0.0.0:80"]}, False),
        ({"connect": ["10.0.0.1:80"]}, True),
        ({"connect": ["any:443"]}, True),
        ({"connect": ["api.example.org:443"]}, True),
        ({"ask": ["10.0.0.1:80"]}, True),
        ({"netlink": "route-read"}, True),
        ({"connect": ["127.0.0.1:80"], "netlink": "route-read"}, True),
        ({"connect": ["10.0.0.1:80"], "netlink": "closed"}, False),
    ],
)
def test_netlink_by_its_key_or_by_what_is_reached(network: dict[str, Any], opened: bool) -> None:
    plan = with_network(**network)
    assert (AF_NETLINK in families(plan)) is opened
    for rule in plan.policies[0].sockets:
        assert rule.family != AF_NETLINK or rule.protocol == 0  # NETLINK_ROUTE


def test_every_link_must_open_netlink() -> None:
    opens = profile(name="opens", network={"netlink": "route-read"})
    closed = profile(name="closed", network={"connect": ["127.0.0.1:80"]})
    assert AF_NETLINK in families(compiled([opens]))
    assert AF_NETLINK not in families(compiled([opens, closed]))


def test_the_strict_preset_closes_netlink() -> None:
    strict = {"preset": "strict"}
    reached = profile(network={"connect": ["10.0.0.1:80"]}, syscalls=strict)
    assert AF_NETLINK not in families(compiled([reached]))
    with pytest.raises(CompileError, match="the preset `strict` closes it"):
        compiled([profile(network={"netlink": "route-read"}, syscalls=strict)])


def test_an_old_kernel_refuses_rules_on_names() -> None:
    listing = profile(network={"unix": ["/run/x"]})
    with pytest.raises(CompileError, match=r"may_lack: \[unix\]"):
        compiled([listing], OLD)
    assert compiled([profile(network={})], OLD).view is None


def test_an_old_kernel_leaves_them_to_the_view_where_the_profile_agrees() -> None:
    agreed = profile(network={"unix": ["/run/x", "/s/y"]}, may_lack=["unix"])
    plan = compiled([agreed], OLD)
    assert plan.missing == ("unix",)
    assert AF_UNIX in families(plan)
    assert plan.view is not None
    assert plan.view.hide_sockets
    assert plan.view.sockets == ("/run/x",)
    assert from_json(to_json(plan)) == plan
    request = ViewRequest.of(plan, Identity(0, 0, False))
    assert request.hide_sockets
    assert request.sockets == ("/run/x", "/s/y")
    assert ViewRequest.from_json(request.to_json()) == request


def test_it_is_not_lacking_where_the_kernel_decides() -> None:
    agreed = profile(network={"unix": ["/run/x"]}, may_lack=["unix"])
    plan = compiled([agreed])
    assert plan.missing == ()
    assert plan.view is None


def test_without_a_view_nobody_can_agree() -> None:
    agreed = profile(network={"unix": ["/run/x"]}, may_lack=["unix"])
    with pytest.raises(CompileError, match="cannot decide on the names"):
        compiled([agreed], BLIND)


def test_a_link_that_lists_none_makes_none() -> None:
    agreed = profile(name="a", network={"unix": ["/run/x"]}, may_lack=["unix"])
    other = profile(name="b", network={})
    assert AF_UNIX not in families(compiled([agreed, other], OLD))

# SPDX-License-Identifier: Apache-2.0
"""Chains and the names of agents."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.identity.chain import Chain, Link, Principal, agent_id, from_json, to_json

LINKS = st.builds(
    Link,
    st.text(),
    st.text(),
    st.text(),
    st.text(),
    st.text(),
    st.none() | st.floats(0, 2**40),
)
CHAINS = st.builds(Chain, st.builds(Principal, st.text(), st.integers(0)), st.tuples(LINKS, LINKS))


@given(CHAINS)
def test_a_chain_comes_back_from_json(chain: Chain) -> None:
    assert from_json(json.loads(json.dumps(to_json(chain)))) == chain


def test_names() -> None:
    links = tuple(Link("x", name, "p", "d", "", None) for name in ("one", "two"))
    assert Chain(Principal("alice", 1000), links).names() == ("user:alice", "one", "two")


@pytest.mark.parametrize("name", ["coder", "demo/coder", "a.b_c-D/1"])
def test_agents_names(name: str) -> None:
    assert agent_id("example.org", name) == f"spiffe://example.org/agent/{name}"


@pytest.mark.parametrize(
    "name",
    ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a b", "ä", "a\n", "a\0", "a?b", "x" * 256],
)
def test_no_agents_names(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        agent_id("example.org", name)


@pytest.mark.parametrize("domain", ["", "Example.org", "a/b", "-a", "a\n", "a" * 256])
def test_no_trust_domains(domain: str) -> None:
    with pytest.raises(ValueError, match="trust domain"):
        agent_id(domain, "a")

# SPDX-License-Identifier: Apache-2.0
"""Rows of names: packed as the header has them, and read back as they were."""

from __future__ import annotations

import ctypes
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.wire import layout, named
from monitor.wire.named import NamedSpan
from monitor.wire.rows import RowError

ports = st.integers(0, 65535)
spans = st.builds(
    NamedSpan,
    protocol=st.sampled_from([6, 17]),
    first=ports,
    last=ports,
    until=st.integers(0, 2**63),
    rules=st.lists(st.integers(-1, 2**31 - 1), min_size=8, max_size=8).map(tuple),
    host=st.booleans(),
    labels=st.integers(0, 255),
)


@given(st.lists(spans, max_size=layout.NAMED_SPANS))
def test_what_is_packed_is_read_back(some: list[NamedSpan]) -> None:
    data = named.value(some)
    assert len(data) == ctypes.sizeof(layout.ri_named)
    assert named.spans(data) == tuple(some)


@given(st.integers(0, 2**64 - 1), st.ip_addresses())
def test_keys_have_both(cgroup: int, address: IPv4Address | IPv6Address) -> None:
    data = named.key(cgroup, address)
    assert len(data) == ctypes.sizeof(layout.ri_named_key)
    assert named.key_cgroup(data) == cgroup
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    assert named.key_address(data) == (mapped or address)


def test_ipv4_is_mapped() -> None:
    assert named.key(1, ip_address("192.0.2.1")) == named.key(1, ip_address("::ffff:192.0.2.1"))


def test_a_row_that_is_too_long_is_none() -> None:
    with pytest.raises(RowError, match="17 ranges"):
        named.value([NamedSpan(6, 1, 1, 1, (0,))] * 17)

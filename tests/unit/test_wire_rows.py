# SPDX-License-Identifier: Apache-2.0
"""Rows of the kernel's tables as bytes: what they say, and what cannot be said."""

from __future__ import annotations

import ctypes
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.policy.action import Verdict
from monitor.policy.plan import NetPrefix, Policy, PortRange, SocketRule, UnixRule
from monitor.wire import layout
from monitor.wire.layout import SessionFlag
from monitor.wire.rows import Row, RowError, SessionRow, policy_rows, port_prefixes, row_policy
from tests.support.audit import policy

U32 = st.integers(0, 2**32 - 1)


def rows(made: Policy, table: str, number: int = 9) -> list[Row]:
    return [row for row in policy_rows(number, made) if row.map == table]


@given(st.integers(0, 2**64 - 1), U32, st.lists(U32, min_size=1, max_size=8))
def test_a_session_comes_back(expires: int, flags: int, policies: list[int]) -> None:
    row = SessionRow(expires, SessionFlag(flags & 7), tuple(policies))
    assert SessionRow.unpack(row.pack()) == row
    assert len(row.pack()) == ctypes.sizeof(layout.ri_session)


@pytest.mark.parametrize("count", [0, 9])
def test_a_chain_that_does_not_fit(count: int) -> None:
    with pytest.raises(RowError, match=f"1 to 8 links, not {count}"):
        SessionRow(0, SessionFlag.NONE, (1,) * count).pack()


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_a_range_of_ports_is_covered_exactly_and_briefly(one: int, other: int) -> None:
    first, last = sorted((one, other))
    covered: list[int] = []
    prefixes = list(port_prefixes(first, last))
    for port, bits in prefixes:
        size = 1 << (16 - bits)
        assert port % size == 0
        covered += range(port, port + size)
    assert covered == list(range(first, last + 1))
    assert len(prefixes) <= 30


@pytest.mark.parametrize(("first", "last"), [(2, 1), (-1, 5), (0, 65536)])
def test_what_is_no_range_of_ports(first: int, last: int) -> None:
    with pytest.raises(RowError):
        list(port_prefixes(first, last))


def test_a_prefix_and_its_ports() -> None:
    made = policy(
        connect=(NetPrefix("::ffff:10.0.0.0/104", (PortRange(6, 443, 443, Verdict.ALLOW, 3),)),)
    )
    (prefix,) = rows(made, "prefixes")
    key = layout.ri_prefix_key.from_buffer_copy(prefix.key)
    assert (key.prefix_length, key.policy, key.table) == (64 + 104, 9, layout.Table.CONNECT)
    assert ipaddress.ip_address(bytes(key.address)).ipv4_mapped == ipaddress.ip_address("10.0.0.0")  # type: ignore[union-attr]
    (port,) = rows(made, "ports")
    port_key = layout.ri_port_key.from_buffer_copy(port.key)
    assert (port_key.prefix_length, port_key.policy, port_key.protocol) == (96, 9, 6)
    assert port_key.port.to_bytes(2, "little") == (443).to_bytes(2, "big")
    assert port_key.set.to_bytes(4, "little") == prefix.value
    value = layout.ri_port_value.from_buffer_copy(port.value)
    assert (value.rule, value.verdict, value.label) == (3, 1, 0)


def test_equal_sets_of_ports_are_written_once() -> None:
    ports = (PortRange(6, 0, 65535, Verdict.ALLOW, 0),)
    made = policy(connect=(NetPrefix("::/0", ports),), bind=(NetPrefix("::1/128", ports),))
    assert len(rows(made, "prefixes")) == 2
    assert len({row.value for row in rows(made, "prefixes")}) == 1
    assert len(rows(made, "ports")) == 1


@pytest.mark.parametrize(
    ("rule", "protocol"),
    [
        (SocketRule(2, 1, 0), 6),
        (SocketRule(2, 2, 0), 17),
        (SocketRule(2, 3, 1), 1),
        (SocketRule(1, 1, -1), layout.ANY_PROTOCOL),
    ],
)
def test_sockets(rule: SocketRule, protocol: int) -> None:
    (row,) = rows(policy(sockets=(rule,)), "sockets")
    key = layout.ri_socket_key.from_buffer_copy(row.key)
    assert (key.policy, key.family, key.type, key.protocol) == (9, rule.family, rule.type, protocol)


@pytest.mark.parametrize(
    ("name", "data"),
    [("/run/x", b"/run/x"), ("@bus", b"\0bus"), ("/" + "n" * 107, b"/" + b"n" * 107),
     ("/\udcff", b"/\xff")],
)  # fmt: skip
def test_unix_names(name: str, data: bytes) -> None:
    (row,) = rows(policy(unix=(UnixRule(name, 1),)), "unix_paths")
    start = layout.ri_unix_key.path.offset
    key = layout.ri_unix_key.from_buffer_copy(row.key)
    assert (key.policy, key.length) == (9, len(data))
    assert row.key[start:] == data.ljust(112, b"\0")


@pytest.mark.parametrize("name", ["/" + "n" * 108, "/a\0b"])
def test_unix_names_that_no_socket_can_have(name: str) -> None:
    with pytest.raises(RowError):
        rows(policy(unix=(UnixRule(name, 1),)), "unix_paths")


@given(U32)
def test_every_row_knows_its_policy(number: int) -> None:
    made = policy(
        connect=(NetPrefix("::/0", (PortRange(6, 1, 9, Verdict.ALLOW, 0),)),),
        unix=(UnixRule("/x", 0),),
        sockets=(SocketRule(2, 1, 6),),
    )
    found = policy_rows(number, made)
    assert {row.map for row in found} == {"prefixes", "ports", "sockets", "unix_paths"}
    assert all(row_policy(row.map, row.key) == number for row in found)

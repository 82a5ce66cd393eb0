# SPDX-License-Identifier: Apache-2.0
"""Rows of labels, asks, budgets and tickets as bytes, and the event of an earned label."""

from __future__ import annotations

import ctypes
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.policy.action import Origin, Verdict
from monitor.policy.plan import Budgets, Label, NetPrefix, Policy, PortRange
from monitor.wire import layout, rows
from monitor.wire.decode import Decoder
from monitor.wire.events import LabelEvent, NetOperation
from monitor.wire.layout import BudgetKind, Kind, Operation, SessionFlag
from monitor.wire.rows import RowError, SessionRow, Ticket
from tests.support.audit import policy

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
COUNT = st.none() | st.integers(0, 2**32 - 2)
ORIGIN = Origin("coder", "labels", "seen", "coder.yaml", 1)


def label(narrowed: Policy | None) -> Label:
    return Label("seen", (), (), narrowed, (), False, ORIGIN)


@given(U64, st.lists(U32, min_size=1, max_size=8), st.lists(U32, max_size=8), st.integers(0, 31))
def test_a_session_with_labels_comes_back(
    expires: int, policies: list[int], labels: list[int], kinds: int
) -> None:
    row = SessionRow(expires, SessionFlag.GATED, tuple(policies), tuple(labels))
    packed = row.pack(kinds)
    assert SessionRow.unpack(packed) == row
    assert layout.ri_session.from_buffer_copy(packed).budgets == kinds


def test_more_labels_than_a_row_holds() -> None:
    with pytest.raises(RowError, match="up to 8 labels, not 9"):
        SessionRow(0, SessionFlag.NONE, (1,), (2,) * 9).pack()


def test_verdicts_and_labels_of_ports() -> None:
    ranges = (
        PortRange(6, 1, 1, Verdict.ASK, 0),
        PortRange(6, 2, 2, Verdict.DENY, 1),
        PortRange(6, 3, 3, Verdict.ALLOW, 2, 1),
    )
    made = policy(connect=(NetPrefix("::/0", ranges),), labels=(label(None), label(None)))
    found = [row for row in rows.policy_rows(9, made, (21, 22)) if row.map == "ports"]
    values = [layout.ri_port_value.from_buffer_copy(row.value) for row in found]
    assert [(each.rule, each.verdict, each.label) for each in values] == [
        (0, layout.PortVerdict.ASK, 0),
        (1, layout.PortVerdict.DENY, 0),
        (2, layout.PortVerdict.ALLOW, 22),
    ]


def test_a_label_is_there_from_the_start_and_not_earned() -> None:
    (row,) = rows.label_rows(7, None)
    assert (row.map, row.key, row.value, row.once) == (
        "earned", struct.pack("=I", 7), bytes(8), True,
    )  # fmt: skip
    narrowed = rows.label_rows(7, policy(connect=(NetPrefix("::/0", ()),)))
    assert {each.map for each in narrowed} == {"earned", "prefixes"}
    assert all(rows.row_policy(each.map, each.key) == 7 for each in narrowed)


@given(COUNT, COUNT, st.none() | st.integers(0, 2**64 - 2), COUNT, COUNT)
def test_budgets_come_back(
    connects: int | None,
    destinations: int | None,
    egress: int | None,
    execs: int | None,
    deletes: int | None,
) -> None:
    budgets = Budgets(connects, destinations, egress, execs, deletes)
    made = rows.policy_rows(9, policy(budgets=budgets))
    limits = [row for row in made if row.map == "budgets"]
    usage = [row for row in made if row.map == "usage"]
    if budgets == Budgets():
        assert limits + usage == []
        return
    (row,) = limits
    assert rows.unpack_budgets(row.value) == budgets
    kinds = [layout.ri_usage_key.from_buffer_copy(row.key).budget for row in usage]
    assert sum(1 << kind for kind in kinds) == rows.budget_kinds(budgets)
    # What was used is never written over.
    assert all(row.once and row.value == bytes(8) for row in usage)


def test_an_approval_of_ipv4_is_one_of_the_mapped_address() -> None:
    one = rows.approval_key(77, 9, 6, ipaddress.ip_address("192.0.2.1"), 443)
    other = rows.approval_key(77, 9, 6, ipaddress.ip_address("::ffff:192.0.2.1"), 443)
    assert one == other
    assert rows.approval_cgroup(one) == 77
    key = layout.ri_approval_key.from_buffer_copy(one)
    assert (key.policy, key.protocol, key.port) == (9, 6, socket_order(443))
    value = layout.ri_approval.from_buffer_copy(rows.approval(5, -1))
    assert (value.expires, value.uses) == (5, -1)


def socket_order(port: int) -> int:
    return int.from_bytes(port.to_bytes(2, "big"), "little")


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**31), st.integers(0, 2**31))
def test_counts_are_of_their_minute(count: int, minute: int, now: int) -> None:
    value = struct.pack("=Q", minute << 32 | count)
    assert rows.used(value, now) == (count if minute == now else 0)
    assert rows.used(value, None) == minute << 32 | count


@given(U32, U32, U64, U64)
def test_a_ticket(pid: int, device: int, inode: int, arguments: int) -> None:
    key = layout.ri_ticket_key.from_buffer_copy(Ticket(pid, device, inode, arguments).pack())
    assert (key.pid, key.device, key.inode, key.arguments) == (pid, device, inode, arguments)


def test_an_earned_label_is_decoded() -> None:
    event = layout.ri_event()
    event.header.kind, event.header.cgroup, event.header.pid = Kind.LABEL, 77, 100
    event.net.policy, event.net.rule, event.net.port, event.net.protocol = 8, 3, 443, 6
    event.net.operation = Operation.SEND
    event.net.address[:] = ipaddress.ip_address("2001:db8::1").packed
    found = Decoder().event(bytes(event))
    assert isinstance(found, LabelEvent)
    assert (found.cgroup, found.pid, found.policy, found.rule) == (77, 100, 8, 3)
    assert (found.operation, found.protocol) == (NetOperation.SEND, 6)
    assert (found.address, found.port) == ("2001:db8::1", 443)


@pytest.mark.parametrize("kind", BudgetKind)
def test_every_kind_has_its_field(kind: BudgetKind) -> None:
    assert hasattr(Budgets(), kind.name.lower())
    assert ctypes.sizeof(layout.ri_usage_key) == 8

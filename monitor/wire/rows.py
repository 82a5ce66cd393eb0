# SPDX-License-Identifier: Apache-2.0
"""From a Policy to the rows of the kernel maps, as bytes. Pure; daemon/probes/tables.py writes."""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from monitor.policy.action import IPAddress, Verdict
from monitor.policy.plan import Budgets, NetPrefix, Policy, PortRange
from monitor.wire import layout
from monitor.wire.layout import BudgetKind, PortVerdict, SessionFlag, Table, struct_format

_SESSION = struct.Struct(struct_format(layout.ri_session))
_PREFIX = struct.Struct(struct_format(layout.ri_prefix_key))
_PORT = struct.Struct(struct_format(layout.ri_port_key))
_PORT_VALUE = struct.Struct(struct_format(layout.ri_port_value))
_SOCKET = struct.Struct(struct_format(layout.ri_socket_key))
_UNIX = struct.Struct(struct_format(layout.ri_unix_key))
_UNIX_VALUE = struct.Struct(struct_format(layout.ri_unix_value))
_APPROVAL_KEY = struct.Struct(struct_format(layout.ri_approval_key))
_APPROVAL = struct.Struct(struct_format(layout.ri_approval))
_BUDGET = struct.Struct(struct_format(layout.ri_budget))
_USAGE_KEY = struct.Struct(struct_format(layout.ri_usage_key))
_TICKET_KEY = struct.Struct(struct_format(layout.ri_ticket_key))
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")

# Bits of the keys before the address and before the port.
_PREFIX_HEAD = 64
_PORT_HEAD = 80
# As ri_budget holds them.
_BUDGETS_COUNTED = (
    BudgetKind.CONNECTS,
    BudgetKind.EXECS,
    BudgetKind.DELETES,
    BudgetKind.DESTINATIONS,
)
_ALL = 0xFFFFFFFFFFFFFFFF
_SUN_PATH = 108  # uapi/linux/un.h

# uapi/linux/in.h, linux/net.h: what protocol 0 stands for
_DEFAULT_PROTOCOL = {1: 6, 2: 17}


class RowError(ValueError):
    """A policy holds something that no row can express."""


@dataclass(frozen=True, slots=True)
class Row:
    """One entry of the pinned map named `map`. `once`: only where there is none yet."""

    map: str
    key: bytes
    value: bytes
    once: bool = False


@dataclass(frozen=True, slots=True)
class SessionRow:
    """What the programs know of a session. `expires`: CLOCK_BOOTTIME ns, 0: never.

    `labels` are policies too, which count from the moment that their label is earned.
    """

    expires: int
    flags: SessionFlag
    policies: tuple[int, ...]
    labels: tuple[int, ...] = ()

    def pack(self, budgets: int = 0) -> bytes:
        """The row; `budgets`: which of them any of its policies has (budget_kinds)."""
        if not 1 <= len(self.policies) <= layout.MAX_POLICIES:
            raise RowError(
                f"a chain has 1 to {layout.MAX_POLICIES} links, not {len(self.policies)}"
            )
        if len(self.labels) > layout.MAX_LABELS:
            raise RowError(
                f"a session has up to {layout.MAX_LABELS} labels, not {len(self.labels)}"
            )
        return _SESSION.pack(
            self.expires,
            self.flags,
            len(self.policies),
            *_padded(self.policies, layout.MAX_POLICIES),
            len(self.labels),
            *_padded(self.labels, layout.MAX_LABELS),
            budgets,
        )

    @classmethod
    def unpack(cls, data: bytes) -> SessionRow:
        expires, flags, count, *rest = _SESSION.unpack(data)
        policies, labels = rest[: layout.MAX_POLICIES], rest[layout.MAX_POLICIES + 1 : -1]
        return cls(
            expires,
            SessionFlag(flags),
            tuple(policies[:count]),
            tuple(labels[: rest[layout.MAX_POLICIES]]),
        )


@dataclass(frozen=True, slots=True)
class Ticket:
    """One decided program start: process `pid` becomes the file `inode` on `device` (kernel dev_t).

    `arguments` is the hash of argv; 0: whatever they are.
    """

    pid: int
    device: int
    inode: int
    arguments: int = 0

    def pack(self) -> bytes:
        return _TICKET_KEY.pack(self.inode, self.arguments, self.pid, self.device)


def packed_address(address: IPAddress) -> bytes:
    """The 16 bytes of an address as all maps hold it: IPv4 as ::ffff:a.b.c.d."""
    packed = address.packed
    return packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed


def address_of(packed: bytes) -> IPAddress:
    """The address of those 16 bytes."""
    address = ipaddress.IPv6Address(packed)
    return address.ipv4_mapped or address


def number_key(policy_id: int) -> bytes:
    """The key of maps that have one row for a policy."""
    return _U32.pack(policy_id)


def approval_key(
    cgroup: int,
    policy_id: int,
    protocol: int,
    address: IPAddress,
    port: int,
) -> bytes:
    """The key of one destination's approval."""
    packed = packed_address(address)
    return _APPROVAL_KEY.pack(cgroup, policy_id, protocol, _network_order(port), packed)


def approved(key: bytes) -> tuple[int, int, IPAddress, int]:
    """(policy, protocol, address, port) of an approval's key."""
    _cgroup, policy, protocol, port, packed = _APPROVAL_KEY.unpack(key)
    return policy, protocol, address_of(packed), _network_order(port)


def approval(expires: int, uses: int) -> bytes:
    """The value: until CLOCK_BOOTTIME ns (0: with the session), `uses` times (below 0: any)."""
    return _APPROVAL.pack(expires, uses)


def approval_cgroup(key: bytes) -> int:
    """Whose approval it is."""
    return int(_U64.unpack_from(key)[0])


def usage_key(policy_id: int, kind: BudgetKind) -> bytes:
    """The key of one count."""
    return _USAGE_KEY.pack(policy_id, kind)


def used(value: bytes, minute: int | None) -> int:
    """How much a count says was used in all, or in `minute` (of boottime)."""
    word = int(_U64.unpack(value)[0])
    if minute is None:
        return word
    return word & 0xFFFFFFFF if word >> 32 == minute else 0


def unpack_budgets(value: bytes) -> Budgets:
    """The budgets that a row holds."""
    egress, *rest = _BUDGET.unpack(value)
    connects, execs, deletes, destinations = (
        None if number == layout.UNLIMITED else number for number in rest
    )
    return Budgets(connects, destinations, None if egress == _ALL else egress, execs, deletes)


def budget_limits(budgets: Budgets) -> dict[BudgetKind, int]:
    """Those that are limited."""
    every = {kind: getattr(budgets, kind.name.lower()) for kind in BudgetKind}
    return {kind: limit for kind, limit in every.items() if limit is not None}


def budget_kinds(budgets: Budgets) -> int:
    """A bit for each that is limited: 1 << enum ri_budget_kind."""
    return sum(1 << kind for kind in budget_limits(budgets))


def _budget_rows(policy_id: int, budgets: Budgets) -> Iterator[Row]:
    limits = budget_limits(budgets)
    if not limits:
        return
    egress = limits.get(BudgetKind.EGRESS, _ALL)
    counts = (
        min(limits.get(kind, layout.UNLIMITED), layout.UNLIMITED) for kind in _BUDGETS_COUNTED
    )
    yield Row("budgets", number_key(policy_id), _BUDGET.pack(egress, *counts))
    for kind in limits:
        yield Row("usage", usage_key(policy_id, kind), _U64.pack(0), once=True)


def _padded(numbers: tuple[int, ...], size: int) -> tuple[int, ...]:
    return numbers + (0,) * (size - len(numbers))


_VERDICTS = {
    Verdict.DENY: PortVerdict.DENY,
    Verdict.ALLOW: PortVerdict.ALLOW,
    Verdict.ASK: PortVerdict.ASK,
}


def policy_rows(policy_id: int, policy: Policy, labels: tuple[int, ...] = ()) -> list[Row]:
    """Every row of `policy` under the kernel's `policy_id`; `labels` as `policy.labels` go."""
    return [
        *_network_rows(policy_id, policy, labels),
        *_socket_rows(policy_id, policy),
        *_unix_rows(policy_id, policy),
        *_budget_rows(policy_id, policy.budgets),
    ]


def label_rows(policy_id: int, policy: Policy | None) -> list[Row]:
    """The rows of a label, which is not earned yet; `policy` is what it narrows the network to."""
    narrowed = [] if policy is None else policy_rows(policy_id, policy)
    return [*narrowed, Row("earned", number_key(policy_id), _U64.pack(0), once=True)]


def row_policy(map_name: str, key: bytes) -> int:
    """The policy id that a key of `map_name` belongs to."""
    offset = 4 if map_name in ("prefixes", "ports") else 0
    return int(_U32.unpack_from(key, offset)[0])


def _network_rows(policy_id: int, policy: Policy, labels: tuple[int, ...]) -> Iterator[Row]:
    sets: dict[tuple[PortRange, ...], int] = {}
    for table, prefixes in ((Table.CONNECT, policy.connect), (Table.BIND, policy.bind)):
        for prefix in prefixes:
            number = sets.setdefault(prefix.ports, len(sets))
            yield Row("prefixes", _prefix_key(policy_id, table, prefix), _U32.pack(number))
    for ports, number in sets.items():
        for entry in ports:
            label = 0 if entry.label < 0 else labels[entry.label]
            value = _PORT_VALUE.pack(entry.rule, _VERDICTS[entry.verdict], label)
            for port, bits in port_prefixes(entry.first, entry.last):
                yield Row("ports", _port_key(policy_id, number, entry.protocol, port, bits), value)


def _prefix_key(policy_id: int, table: Table, prefix: NetPrefix) -> bytes:
    network = ipaddress.IPv6Network(prefix.network)
    bits = _PREFIX_HEAD + network.prefixlen
    return _PREFIX.pack(bits, policy_id, table, network.network_address.packed)


def _port_key(policy_id: int, number: int, protocol: int, port: int, bits: int) -> bytes:
    return _PORT.pack(_PORT_HEAD + bits, policy_id, number, protocol, _network_order(port))


def _network_order(port: int) -> int:
    return int.from_bytes(port.to_bytes(2, "big"), "little")


def port_prefixes(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest (port, bits) prefixes of 16 bits that cover `first`..`last` exactly."""
    if not 0 <= first <= last <= 0xFFFF:
        raise RowError(f"{first}-{last} is not a range of ports")
    while first <= last:
        size = first & -first or 1 << 16
        while size > last - first + 1:
            size >>= 1
        yield first, 17 - size.bit_length()
        first += size


def _socket_rows(policy_id: int, policy: Policy) -> Iterator[Row]:
    for rule in policy.sockets:
        protocol = layout.ANY_PROTOCOL if rule.protocol == -1 else rule.protocol
        # The hook runs after the kernel has put in the protocol that 0 asks for.
        protocol = protocol or _DEFAULT_PROTOCOL.get(rule.type, 0)
        key = _SOCKET.pack(policy_id, rule.family, rule.type, protocol, 0)
        yield Row("sockets", key, _U32.pack(1))


def _unix_rows(policy_id: int, policy: Policy) -> Iterator[Row]:
    for rule in policy.unix:
        name = os.fsencode(rule.path)
        if name.startswith(b"@"):
            name = b"\0" + name[1:]
        elif b"\0" in name:
            raise RowError(f"unix socket {rule.path!r} holds a NUL")
        if len(name) > _SUN_PATH:
            raise RowError(f"unix socket {rule.path} is longer than {_SUN_PATH} bytes")
        value = _UNIX_VALUE.pack(rule.rule, rule.held)
        yield Row("unix_paths", _UNIX.pack(policy_id, len(name), name), value)

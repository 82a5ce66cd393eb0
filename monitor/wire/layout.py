# SPDX-License-Identifier: Apache-2.0
"""The one mirror of probes/include/records.h and maps.h: structs as ctypes, enums as IntEnum.

tests/unit/test_wire_layout.py compares sizes, offsets and values with the headers by clang, for
the host and for BPF, over every struct and every enum. Everything else (struct formats, numpy
types) is derived from these classes.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64
from enum import IntEnum, IntFlag
from typing import Any

from monitor.wire.layout_lsm import *  # noqa: F403  (re-exported)

MAX_POLICIES = 8
MAX_LABELS = 8
NAMED_SPANS = 16
NAME_MAX = 256
SHORT_DATA = 1024
LONG_DATA = 8192
ARGUMENTS = 4096
ANY_PROTOCOL = 0xFFFF
UNLIMITED = 0xFFFFFFFF


class Kind(IntEnum):
    """enum ri_kind"""

    OPEN = 1
    FORK = 2
    EXIT = 3
    NET = 4
    SYSCALL = 5
    COUNT = 6
    DIRECTORY = 64
    PATH_CALL = 65
    NAME = 66
    UNIX = 67
    EXEC = 68
    DENIED = 69
    HELLO = 72
    LABEL = 7


class Flag(IntFlag):
    """enum ri_flag"""

    WRITE = 1
    CREATED = 2
    OBSERVED = 4
    TRUNCATED = 8
    IOCTL_ONLY = 16
    RECEIVED = 32


class Operation(IntEnum):
    """enum ri_operation"""

    SOCKET = 0
    CONNECT = 1
    SEND = 2
    BIND = 3
    LISTEN = 4


class Cause(IntEnum):
    """enum ri_cause"""

    ALLOWED = 0
    RULE = 1
    UNLISTED = 2
    EXPIRED = 3
    DENY_ALL = 4
    ROUTED = 5
    UNANSWERED = 6
    OVER_BUDGET = 7
    CONDITION = 8
    NO_TICKET = 9
    UNHELD = 10


class Tls(IntEnum):
    """enum ri_tls"""

    INCOMPLETE = 0
    ALLOWED = 1
    HOLE = 2
    PLAIN = 3
    BROKEN = 4
    NAMELESS = 5
    OTHER = 6
    URGENT = 7
    SHARED = 8


class BudgetKind(IntEnum):
    """enum ri_budget_kind"""

    CONNECTS = 0
    DESTINATIONS = 1
    EGRESS = 2
    EXECS = 3
    DELETES = 4


class SessionFlag(IntFlag):
    """enum ri_session_flag. OBSERVE: record, let pass. REVOKED: deny all. EVERY: count nothing.

    GATED: a program starts by a ticket only. PAUSED: deny all until a condition holds again.
    NAMES: what it asks name servers goes to the resolver.
    """

    NONE = 0
    OBSERVE = 1
    REVOKED = 2
    EVERY = 4
    GATED = 8
    PAUSED = 16
    NAMES = 32


class SpanFlag(IntFlag):
    """enum ri_span_flag. HOST: a link names the host, and not merely any."""

    NONE = 0
    HOST = 1


class PortVerdict(IntEnum):
    """enum ri_verdict"""

    DENY = 0
    ALLOW = 1
    ASK = 2


class Table(IntEnum):
    """enum ri_table"""

    CONNECT = 0
    BIND = 1


class ri_header(ctypes.Structure):
    _fields_ = [
        ("time", c_uint64),
        ("cgroup", c_uint64),
        ("pid", c_uint32),
        ("tid", c_uint32),
        ("kind", c_uint16),
        ("flags", c_uint16),
        ("reserved", c_uint32),
        ("comm", c_char * 16),
    ]


class ri_open(ctypes.Structure):
    _fields_ = [
        ("tag", c_uint64),
        ("inode", c_uint64),
        ("directory", c_uint64),
        ("device", c_uint32),
        ("length", c_uint32),
        ("name", c_char * 48),
    ]


class ri_net(ctypes.Structure):
    _fields_ = [
        ("tag", c_uint64),
        ("address", c_uint8 * 16),
        ("rule", c_int32),
        ("policy", c_uint32),
        ("port", c_uint16),
        ("family", c_uint16),
        ("type", c_uint16),
        ("protocol", c_uint16),
        ("operation", c_uint16),
        ("cause", c_uint16),
        ("reserved", c_uint32 * 9),
    ]


class ri_process(ctypes.Structure):
    _fields_ = [("child", c_uint32), ("status", c_uint32), ("reserved", c_uint64 * 9)]


class ri_syscall(ctypes.Structure):
    _fields_ = [
        ("arguments", c_uint64 * 6),
        ("number", c_int32),
        ("error", c_int32),
        ("reserved", c_uint64 * 3),
    ]


class ri_count(ctypes.Structure):
    _fields_ = [("tag", c_uint64), ("count", c_uint64), ("reserved", c_uint64 * 8)]


class _ri_body(ctypes.Union):
    _fields_ = [
        ("open", ri_open),
        ("net", ri_net),
        ("process", ri_process),
        ("call", ri_syscall),
        ("count", ri_count),
    ]


class ri_event(ctypes.Structure):
    _anonymous_ = ("body",)
    _fields_ = [("header", ri_header), ("body", _ri_body)]


class ri_detail(ctypes.Structure):
    _fields_ = [
        ("header", ri_header),
        ("tag", c_uint64),
        ("inode", c_uint64),
        ("directory", c_uint64),
        ("second_directory", c_uint64),
        ("device", c_uint32),
        ("number", c_int32),
        ("error", c_int32),
        ("length", c_uint32),
        ("second", c_uint32),
        ("rule", c_int32),
        ("policy", c_uint32),
        ("cause", c_uint32),
    ]


class ri_short(ctypes.Structure):
    _fields_ = [("detail", ri_detail), ("data", c_char * SHORT_DATA)]


class ri_long(ctypes.Structure):
    _fields_ = [("detail", ri_detail), ("data", c_char * LONG_DATA)]


class ri_asked(ctypes.Structure):
    _fields_ = [
        ("address", c_uint8 * 16),
        ("port", c_uint16),
        ("own_port", c_uint16),
        ("length", c_uint32),
        ("name", c_char * 256),
    ]


class ri_exec(ctypes.Structure):
    _fields_ = [
        ("header", ri_header),
        ("inode", c_uint64),
        ("directory", c_uint64),
        ("device", c_uint32),
        ("length", c_uint32),
        ("cause", c_uint32),
        ("reserved", c_uint32),
        ("name", c_char * NAME_MAX),
        ("arguments", c_char * ARGUMENTS),
    ]


class ri_session(ctypes.Structure):
    _fields_ = [
        ("expires", c_uint64),
        ("flags", c_uint32),
        ("policy_count", c_uint32),
        ("policies", c_uint32 * MAX_POLICIES),
        ("label_count", c_uint32),
        ("labels", c_uint32 * MAX_LABELS),
        ("budgets", c_uint32),
    ]


class ri_earned(ctypes.Structure):
    _fields_ = [("time", c_uint64)]


class ri_prefix_key(ctypes.Structure):
    _fields_ = [
        ("prefix_length", c_uint32),
        ("policy", c_uint32),
        ("table", c_uint32),
        ("address", c_uint8 * 16),
    ]


class ri_port_key(ctypes.Structure):
    _fields_ = [
        ("prefix_length", c_uint32),
        ("policy", c_uint32),
        ("set", c_uint32),
        ("protocol", c_uint16),
        ("port", c_uint16),
    ]


class ri_port_value(ctypes.Structure):
    _fields_ = [("rule", c_int32), ("verdict", c_uint32), ("label", c_uint32)]


class ri_approval_key(ctypes.Structure):
    _fields_ = [
        ("cgroup", c_uint64),
        ("policy", c_uint32),
        ("protocol", c_uint16),
        ("port", c_uint16),
        ("address", c_uint8 * 16),
    ]


class ri_approval(ctypes.Structure):
    _fields_ = [("expires", c_uint64), ("uses", c_int64)]


class ri_ticket_key(ctypes.Structure):
    _fields_ = [
        ("inode", c_uint64),
        ("arguments", c_uint64),
        ("pid", c_uint32),
        ("device", c_uint32),
    ]


class ri_ticket(ctypes.Structure):
    _fields_ = [("expires", c_uint64)]


class ri_budget(ctypes.Structure):
    _fields_ = [
        ("egress", c_uint64),
        ("connects", c_uint32),
        ("execs", c_uint32),
        ("deletes", c_uint32),
        ("destinations", c_uint32),
    ]


class ri_usage_key(ctypes.Structure):
    _fields_ = [("policy", c_uint32), ("budget", c_uint32)]


class ri_destination_key(ctypes.Structure):
    _fields_ = [("policy", c_uint32), ("address", c_uint8 * 16)]


class ri_named_key(ctypes.Structure):
    _fields_ = [("cgroup", c_uint64), ("address", c_uint8 * 16)]


class ri_named_span(ctypes.Structure):
    _fields_ = [
        ("until", c_uint64),
        ("first", c_uint16),
        ("last", c_uint16),
        ("protocol", c_uint16),
        ("flags", c_uint16),
        ("labels", c_uint32),
        ("rules", c_int32 * MAX_POLICIES),
        ("place", c_uint32),
    ]


class ri_named(ctypes.Structure):
    _fields_ = [
        ("count", c_uint32),
        ("reserved", c_uint32),
        ("spans", ri_named_span * NAMED_SPANS),
    ]


class ri_host_key(ctypes.Structure):
    _fields_ = [
        ("cgroup", c_uint64),
        ("address", c_uint8 * 16),
        ("length", c_uint32),
        ("reserved", c_uint32),
        ("name", c_uint8 * 256),
    ]


class ri_socket_key(ctypes.Structure):
    _fields_ = [
        ("policy", c_uint32),
        ("family", c_uint16),
        ("type", c_uint16),
        ("protocol", c_uint16),
        ("reserved", c_uint16),
    ]


class ri_unix_key(ctypes.Structure):
    _fields_ = [("policy", c_uint32), ("length", c_uint32), ("path", c_char * 112)]


class ri_unix_value(ctypes.Structure):
    _fields_ = [("rule", c_int32), ("held", c_uint32)]


class ri_unix_ticket(ctypes.Structure):
    _fields_ = [("cookie", c_uint64), ("pid", c_uint32), ("reserved", c_uint32)]


class ri_seen(ctypes.Structure):
    _fields_ = [("tag", c_uint64), ("cgroup", c_uint64), ("count", c_uint64)]


class ri_directory(ctypes.Structure):
    _fields_ = [("tag", c_uint64), ("sent", c_uint64)]


_CODES: dict[Any, str] = {
    c_char: "s",
    c_uint8: "s",
    c_uint16: "H",
    c_int32: "i",
    c_uint32: "I",
    c_int64: "q",
    c_uint64: "Q",
}


def struct_format(structure: type[ctypes.Structure]) -> str:
    """The `struct` module's format of a mirror: arrays of bytes come out as one bytes object."""
    return "=" + "".join(_field_format(field[1]) for field in structure._fields_)


def _field_format(kind: Any) -> str:
    if issubclass(kind, ctypes.Structure):
        return struct_format(kind)[1:]
    if issubclass(kind, ctypes.Array):
        if issubclass(kind._type_, ctypes.Structure):
            return _field_format(kind._type_) * int(kind._length_)
        return f"{kind._length_}{_CODES[kind._type_]}"
    return _CODES[kind]

# SPDX-License-Identifier: Apache-2.0
"""nf_tables by netlink itself, where libnftables is slow: it reads all sets of the host first.

Elements of sets and verdict maps, counters, names, removal. Rules are libnftables' (kernel/nft.py).
Several changes make one transaction. Everything is in family `inet`.
Sources: uapi/linux/netfilter/nfnetlink.h, uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from monitor.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    Received,
    attribute,
    attributes,
    error_of,
    listed,
    messages,
    nested,
    request,
)

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES = 10
NFPROTO_INET = 1
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
# enum nf_tables_msg_types
NFT_MSG_NEWCHAIN, NFT_MSG_GETCHAIN, NFT_MSG_DELCHAIN = 3, 4, 5
NFT_MSG_NEWRULE, NFT_MSG_GETRULE, NFT_MSG_DELRULE = 6, 7, 8
NFT_MSG_NEWSET, NFT_MSG_GETSET, NFT_MSG_DELSET = 9, 10, 11
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = 12, 13, 14
NFT_MSG_NEWOBJ, NFT_MSG_GETOBJ, NFT_MSG_DELOBJ = 18, 19, 20
# nlmsghdr
NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x200, 0x400, 0x800
NLM_F_DUMP_INTR = 0x10
# Attributes: a chain's, a set's, an object's and a rule's name.
TABLE = 1
NFTA_CHAIN_NAME, NFTA_SET_NAME, NFTA_OBJ_NAME, NFTA_RULE_CHAIN = 3, 2, 2, 2
NFTA_OBJ_TYPE, NFTA_OBJ_DATA = 3, 4
NFT_OBJECT_COUNTER = 1
NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS = 1, 2
NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 2, 3
NFTA_LIST_ELEM = 1
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_TIMEOUT = 1, 2, 4
NFTA_SET_ELEM_EXPR, NFTA_SET_ELEM_KEY_END = 7, 10
NFTA_EXPR_DATA = 2
NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFT_JUMP = -3
NFTA_RULE_EXPRESSIONS = 4
NFTA_EXPR_NAME = 1
# Of an expression that names a set, an object or a prefix: where the name is.
NAMES = {"lookup": 1, "dynset": 1, "objref": 2, "log": 2}
# What makes a set: flags, key's type and length, policy, description, timeout, interval of
# collection, what list programs note, expressions.
SET_ATTRIBUTES = (3, 4, 5, 8, 9, 11, 12, 13, 17, 18)
NFTA_SET_ID = 10

SOL_NETLINK, NETLINK_CAP_ACK = 270, 10  # linux/socket.h, uapi/linux/netlink.h
SO_SNDBUFFORCE = 32  # asm-generic/socket.h

GENERIC = struct.Struct("!BBH")  # nfgenmsg
RECEIVE_SIZE = 1 << 18
# Elements in one message: their list is an attribute, and those have 16 bits for their length.
MOST_ELEMENTS = 500
TRIES = 20

Message = tuple[int, int, bytes]  # type, further flags, attributes


@dataclass(frozen=True, slots=True)
class Expression:
    """A part of a rule, as the kernel keeps it."""

    name: str
    data: Mapping[int, bytes]

    def renamed(self, names: Mapping[str, str]) -> Expression:
        """With what it names, but for chains, called as `names` says."""
        kind = NAMES.get(self.name)
        if kind is None or kind not in self.data:
            return self
        name = names[name_of(self.data[kind])]
        return Expression(self.name, {**self.data, kind: name.encode() + b"\0"})


@dataclass(frozen=True, slots=True)
class Found:
    """An element of a set. `end`: an interval's last key; `chain`: where its verdict leads."""

    key: bytes
    end: bytes
    chain: str
    packets: int
    bytes: int


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def name_of(data: bytes) -> str:
    return data.rstrip(b"\0").decode()


# -- changes, for Connection.apply ----------------------------------------------------------------


def add_elements(
    table: str, name: str, elements: Sequence[tuple[bytes, int | None]]
) -> list[Message]:
    """Keys, and the milliseconds that they stay (None: always). What is there stays as it is."""
    return _elements(
        NFT_MSG_NEWSETELEM,
        table,
        name,
        [
            _key(key)
            + (
                b""
                if timeout is None
                else attribute(NFTA_SET_ELEM_TIMEOUT, timeout.to_bytes(8, "big"))
            )
            for key, timeout in elements
        ],
    )


def delete_elements(table: str, name: str, keys: Sequence[bytes]) -> list[Message]:
    """ENOENT where one is not there."""
    return _elements(NFT_MSG_DELSETELEM, table, name, [_key(key) for key in keys])


def add_jump(table: str, name: str, key: bytes, chain: str) -> list[Message]:
    """In a verdict map, lead from `key` to `chain`."""
    verdict = nested(
        NFTA_DATA_VERDICT,
        attribute(NFTA_VERDICT_CODE, struct.pack("!i", NFT_JUMP)),
        _text(NFTA_VERDICT_CHAIN, chain),
    )
    return _elements(
        NFT_MSG_NEWSETELEM, table, name, [_key(key) + nested(NFTA_SET_ELEM_DATA, verdict)]
    )


def add_interval(table: str, name: str, first: bytes, last: bytes) -> list[Message]:
    """An interval of concatenated fields."""
    end = nested(NFTA_SET_ELEM_KEY_END, attribute(NFTA_DATA_VALUE, last))
    return _elements(NFT_MSG_NEWSETELEM, table, name, [_key(first) + end])


def add_chain(table: str, name: str) -> list[Message]:
    """EEXIST where it is there."""
    body = _text(TABLE, table) + _text(NFTA_CHAIN_NAME, name)
    return [(NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, body)]


def add_rule(table: str, chain: str, expressions: Sequence[Expression]) -> list[Message]:
    """Behind the chain's other rules."""
    listed = [
        nested(
            NFTA_LIST_ELEM,
            _text(NFTA_EXPR_NAME, each.name),
            nested(NFTA_EXPR_DATA, *(attribute(*pair) for pair in each.data.items())),
        )
        for each in expressions
    ]
    body = _text(TABLE, table) + _text(NFTA_RULE_CHAIN, chain)
    body += nested(NFTA_RULE_EXPRESSIONS, *listed)
    return [(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body)]


def add_set(table: str, name: str, number: int, attributes_: Mapping[int, bytes]) -> list[Message]:
    """Made of `attributes_`, as of Connection.sets; stays as it is where it is there.

    `number` is the set's own within a transaction.
    """
    body = _text(TABLE, table) + _text(NFTA_SET_NAME, name)
    body += b"".join(attribute(*pair) for pair in attributes_.items())
    body += attribute(NFTA_SET_ID, number.to_bytes(4, "big"))
    return [(NFT_MSG_NEWSET, NLM_F_CREATE, body)]


def add_counter(table: str, name: str) -> list[Message]:
    """Stays as it is where it is there."""
    body = _counter(table, name) + nested(NFTA_OBJ_DATA)
    return [(NFT_MSG_NEWOBJ, NLM_F_CREATE, body)]


def delete_chain(table: str, name: str) -> list[Message]:
    """With its rules."""
    inside = _text(TABLE, table)
    return [
        (NFT_MSG_DELRULE, 0, inside + _text(NFTA_RULE_CHAIN, name)),
        (NFT_MSG_DELCHAIN, 0, inside + _text(NFTA_CHAIN_NAME, name)),
    ]


def delete_set(table: str, name: str) -> list[Message]:
    return [(NFT_MSG_DELSET, 0, _text(TABLE, table) + _text(NFTA_SET_NAME, name))]


def delete_counter(table: str, name: str) -> list[Message]:
    return [(NFT_MSG_DELOBJ, 0, _counter(table, name))]


def _key(key: bytes) -> bytes:
    return nested(NFTA_SET_ELEM_KEY, attribute(NFTA_DATA_VALUE, key))


def _elements(kind: int, table: str, name: str, elements: Sequence[bytes]) -> list[Message]:
    inside = _text(TABLE, table) + _text(NFTA_SET_ELEM_LIST_SET, name)
    found: list[Message] = []
    for first in range(0, len(elements), MOST_ELEMENTS):
        some = [nested(NFTA_LIST_ELEM, each) for each in elements[first : first + MOST_ELEMENTS]]
        found.append((kind, NLM_F_CREATE, inside + nested(NFTA_SET_ELEM_LIST_ELEMENTS, *some)))
    return found


def _counter(table: str, name: str) -> bytes:
    kind = attribute(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER.to_bytes(4, "big"))
    return _text(TABLE, table) + _text(NFTA_OBJ_NAME, name) + kind


# -- the connection --------------------------------------------------------------------------------


class Connection:
    """A netlink socket in the network namespace it was made in; OSError from each function."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        # An error otherwise comes with the whole message that it is about.
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.settimeout(30)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    @property
    def port(self) -> int:
        """What tells this socket from others, in what the kernel says of changes."""
        port: int = self._socket.getsockname()[0]
        return port

    def apply(self, changes: Sequence[Message]) -> None:
        """Make all changes as one transaction, or none."""
        if not changes:
            return
        batch = GENERIC.pack(0, 0, NFNL_SUBSYS_NFTABLES)
        data = [self._message(NFNL_MSG_BATCH_BEGIN, 0, batch)]
        last = len(changes) - 1
        for number, (kind, flags, body) in enumerate(changes):
            data.append(self._request(kind, flags | (NLM_F_ACK if number == last else 0), body))
        final = self._sequence
        begin = final - len(changes)
        data.append(self._message(NFNL_MSG_BATCH_END, 0, batch))
        self._send(b"".join(data))
        failed = 0
        while True:
            for each in self._receive():
                if each.kind != NLMSG_ERROR or each.sequence < begin:
                    continue
                failed = failed or error_of(each.body)
                if each.sequence in (begin, final):
                    if failed:
                        raise OSError(failed, f"nf_tables: {os.strerror(failed)}")
                    return

    def names(self, what: str, table: str) -> list[str]:
        """The names of a table's `chain`s, `set`s or `counter`s."""
        kind, name = {
            "chain": (NFT_MSG_GETCHAIN, NFTA_CHAIN_NAME),
            "set": (NFT_MSG_GETSET, NFTA_SET_NAME),
            "counter": (NFT_MSG_GETOBJ, NFTA_OBJ_NAME),
        }[what]
        return [
            name_of(each[name])
            for each in map(attributes, self._dump(kind, _text(TABLE, table)))
            if name_of(each[TABLE]) == table
        ]

    def sets(self, table: str) -> list[tuple[str, dict[int, bytes]]]:
        """The named sets of a table: (name, what makes it)."""
        return [
            (
                name_of(each[NFTA_SET_NAME]),
                {key: each[key] for key in SET_ATTRIBUTES if key in each},
            )
            for each in map(attributes, self._dump(NFT_MSG_GETSET, _text(TABLE, table)))
            if name_of(each[TABLE]) == table
        ]

    def rules(self, table: str, chain: str) -> list[list[Expression]]:
        """The rules of a chain."""
        inside = _text(TABLE, table) + _text(NFTA_RULE_CHAIN, chain)
        return [
            [_expression(each) for _kind, each in listed(found[NFTA_RULE_EXPRESSIONS])]
            for found in map(attributes, self._dump(NFT_MSG_GETRULE, inside))
            if name_of(found[TABLE]) == table and name_of(found[NFTA_RULE_CHAIN]) == chain
        ]

    def elements(self, table: str, name: str) -> list[Found]:
        """ENOENT where there is no such set."""
        inside = _text(TABLE, table) + _text(NFTA_SET_ELEM_LIST_SET, name)
        return [
            _found(attributes(each))
            for body in self._dump(NFT_MSG_GETSETELEM, inside)
            for _kind, each in listed(attributes(body).get(NFTA_SET_ELEM_LIST_ELEMENTS, b""))
        ]

    def counter(self, table: str, name: str) -> tuple[int, int]:
        """(packets, bytes) of a named counter."""
        self._send(self._request(NFT_MSG_GETOBJ, 0, _counter(table, name)))
        for each in self._receive():
            if each.kind == NLMSG_ERROR:
                error = error_of(each.body)
                raise OSError(error, f"nf_tables: counter {name}: {os.strerror(error)}")
            return _counted(attributes(attributes(each.body[GENERIC.size :])[NFTA_OBJ_DATA]))
        raise OSError(errno.EIO, f"nf_tables: no answer about counter {name}")

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        """The attributes of each answer; again where others changed the tables in between."""
        for _ in range(TRIES):
            found: list[bytes] = []
            self._send(self._request(kind, NLM_F_DUMP, body))
            whole, done = True, False
            while not done:
                for each in self._receive():
                    whole = whole and not each.flags & NLM_F_DUMP_INTR
                    if each.kind == NLMSG_DONE:
                        done = True
                    elif each.kind == NLMSG_ERROR:
                        error = error_of(each.body)
                        if error != errno.EINTR:
                            raise OSError(error, f"nf_tables: {os.strerror(error)}")
                        whole, done = False, True
                    else:
                        found.append(each.body[GENERIC.size :])
            if whole:
                return found
        raise OSError(errno.EBUSY, "nf_tables: the rules change faster than they can be read")

    def _request(self, kind: int, flags: int, body: bytes) -> bytes:
        number = NFNL_SUBSYS_NFTABLES << 8 | kind
        return self._message(number, flags, GENERIC.pack(NFPROTO_INET, 0, 0) + body)

    def _message(self, kind: int, flags: int, body: bytes) -> bytes:
        self._sequence += 1
        return request(kind, flags, body, self._sequence)

    def _send(self, data: bytes) -> None:
        # The socket's room bounds a batch: as much as it needs, root may.
        if len(data) > 1 << 16:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 * len(data))
        self._socket.send(data)

    def _receive(self) -> Iterator[Received]:
        return messages(self._socket.recv(RECEIVE_SIZE))


def _expression(data: bytes) -> Expression:
    found = attributes(data)
    return Expression(name_of(found[NFTA_EXPR_NAME]), attributes(found.get(NFTA_EXPR_DATA, b"")))


def _found(element: Mapping[int, bytes]) -> Found:
    key = attributes(element[NFTA_SET_ELEM_KEY])[NFTA_DATA_VALUE]
    end = key
    if NFTA_SET_ELEM_KEY_END in element:
        end = attributes(element[NFTA_SET_ELEM_KEY_END])[NFTA_DATA_VALUE]
    chain = ""
    if NFTA_SET_ELEM_DATA in element:
        verdict = attributes(attributes(element[NFTA_SET_ELEM_DATA])[NFTA_DATA_VERDICT])
        chain = name_of(verdict[NFTA_VERDICT_CHAIN])
    packets = size = 0
    if NFTA_SET_ELEM_EXPR in element:
        expression = attributes(element[NFTA_SET_ELEM_EXPR])
        packets, size = _counted(attributes(expression[NFTA_EXPR_DATA]))
    return Found(key, end, chain, packets, size)


def _counted(counter: Mapping[int, bytes]) -> tuple[int, int]:
    return (
        int.from_bytes(counter[NFTA_COUNTER_PACKETS], "big"),
        int.from_bytes(counter[NFTA_COUNTER_BYTES], "big"),
    )

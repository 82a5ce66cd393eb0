# SPDX-License-Identifier: Apache-2.0
"""A name server of the tests: answers what it is told to, be it true, broken or malicious."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from monitor.daemon.resolver.listening import listen

# What a name is answered with: (type, text of the record, TTL). CNAMEs are not followed.
Record = tuple[str, str, int]
# Given the question and whether it came over TCP, the messages to send (b"": close or stay silent).
Behaviour = Callable[[dns.message.Message, bool], list[bytes]]


@dataclass
class NameServer:
    """Serves on a port of `address`, UDP and TCP, in a thread of its own.

    `records` by lower-case name without a dot at its end. `behaviours` by name come before them.
    A name that is in neither does not exist; `soa`: the answer then says for how long.
    """

    address: str = "127.0.0.1"
    records: dict[str, list[Record]] = field(default_factory=dict)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    soa: int | None = 60
    room: int = 1232  # more than this is truncated over UDP
    asked: list[tuple[str, str, bool]] = field(default_factory=list)  # name as sent, type, TCP
    queries: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._udp, self._tcp = listen(self.address)
        self.port = self._udp.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._wake.close()
        self._thread.join(10)
        for sock in (self._udp, self._tcp, self._woken):
            sock.close()

    def add(self, name: str, *records: str | Record, ttl: int = 60) -> None:
        """`A 192.0.2.1` and the like, to what is there for `name`."""
        known = self.records.setdefault(name, [])
        for record in records:
            if isinstance(record, str):
                kind, _space, data = record.partition(" ")
                known.append((kind, data, ttl))
            else:
                known.append(record)

    def count(self, name: str) -> int:
        """How many questions there were for `name`."""
        return sum(asked.lower() == name for asked, _kind, _tcp in self.asked)

    def _run(self) -> None:
        poll = [self._udp, self._tcp, self._woken]
        while True:
            ready, _write, _broken = select.select(poll, [], [])
            if self._woken in ready:
                return
            if self._udp in ready:
                data, peer = self._udp.recvfrom(65535)
                for reply in self._replies(data, False):
                    self._udp.sendto(reply, peer)
            if self._tcp in ready:
                self._connection()

    def _connection(self) -> None:
        connection, _peer = self._tcp.accept()
        with connection:
            connection.settimeout(5)
            size = connection.recv(2)
            if len(size) == 2:
                data = connection.recv(int.from_bytes(size, "big"))
                for reply in self._replies(data, True):
                    connection.sendall(struct.pack(">H", len(reply)) + reply)

    def _replies(self, data: bytes, tcp: bool) -> list[bytes]:
        query = dns.message.from_wire(data)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        self.asked.append((name, dns.rdatatype.to_text(question.rdtype), tcp))
        self.queries.append(data)
        behaviour = self.behaviours.get(name.lower())
        if behaviour is not None:
            return [each for each in behaviour(query, tcp) if each]
        return [self.honest(query, tcp)]

    def honest(self, query: dns.message.Message, tcp: bool) -> bytes:
        """What the records say."""
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        records = self.records.get(name)
        response = dns.message.make_response(query)
        if records is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        kind = dns.rdatatype.to_text(question.rdtype)
        for each in (kind, "CNAME"):
            chosen = [record for record in records or () if record[0] == each]
            if chosen:
                response.answer.append(rrset(question.name.to_text(), *chosen))
                break
        if not response.answer and self.soa is not None:
            text = f"ns.example. host.example. 1 2 3 4 {self.soa}"
            response.authority.append(rrset("example.", ("SOA", text, 3600)))
        wire: bytes = response.to_wire(max_size=65535)
        if not tcp and len(wire) > self.room:
            response.answer.clear()
            response.flags |= dns.flags.TC
            wire = response.to_wire()
        return wire


def rrset(name: str, *records: Record) -> dns.rrset.RRset:
    """Records of one name and type."""
    kind, _text, ttl = records[0]
    return dns.rrset.from_text_list(name, ttl, "IN", kind, [text for _kind, text, _ttl in records])


def answered(query: dns.message.Message, *sets: dns.rrset.RRset, rcode: int = 0) -> bytes:
    """A response to `query` with whatever answers."""
    response = dns.message.make_response(query)
    response.set_rcode(dns.rcode.Rcode(rcode))
    response.answer.extend(sets)
    wire: bytes = response.to_wire(max_size=65535)
    return wire


def question(name: str, kind: str = "A", **more: object) -> bytes:
    """A client's message; a random number."""
    wire: bytes = dns.message.make_query(name, kind, **more).to_wire()  # type: ignore[arg-type]
    return wire

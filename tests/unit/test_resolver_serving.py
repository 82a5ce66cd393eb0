# SPDX-License-Identifier: Apache-2.0
"""The resolver from question to reply, with servers that are true, slow, broken and malicious."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

from monitor.daemon.resolver import resolver as resolving
from monitor.daemon.resolver import server as serving
from monitor.daemon.resolver.asking import MOST_FOREIGN, Asker, Patience
from monitor.daemon.resolver.listening import listen
from monitor.daemon.resolver.resolver import Peer, Resolution, Resolver, Settings
from monitor.daemon.resolver.server import Server
from monitor.daemon.resolver.upstreams import (
    ResolvConf,
    Upstream,
    parse_upstream,
    read_resolv_conf,
)
from monitor.resolver.answers import Lifetimes
from monitor.resolver.decision import Admission, Cause
from monitor.resolver.limits import Limits
from monitor.resolver.names import NameRule, parse
from monitor.resolver.wire import NXDOMAIN, REFUSED, SERVFAIL
from tests.support.dns import NameServer, answered, question, rrset

PUBLIC, OTHER, PUBLIC6 = "93.184.216.34", "151.101.1.69", "2606:4700::1111"
SEED = 20261125
QUICK = Patience(one=2.0, all=6.0, rounds=2)


@dataclass
class Surroundings:
    """The daemon around the resolver: every peer is of `session`; what was allowed and recorded."""

    session: str | None = "s-1"
    allowed: list[Admission] = field(default_factory=list)
    recorded: list[Resolution] = field(default_factory=list)
    before_allow: Callable[[], Awaitable[None]] | None = None

    def who(self, _peer: Peer) -> str | None:
        return self.session

    async def allow(self, session: str, admissions: Sequence[Admission]) -> None:
        assert session == self.session
        if self.before_allow is not None:
            await self.before_allow()
        self.allowed += admissions

    def record(self, resolution: Resolution) -> None:
        self.recorded.append(resolution)

    @property
    def causes(self) -> list[Cause | None]:
        return [each.cause for each in self.recorded]


class Case:
    """A name server, a resolver that asks it, and what is around."""

    def __init__(self) -> None:
        self.upstream = NameServer()
        self.around = Surroundings()
        self.more: list[NameServer] = []
        self.now: float | None = None
        self.resolver = self.make()

    def make(
        self, patience: Patience = QUICK, lifetimes: Lifetimes | None = None, **more: object
    ) -> Resolver:
        upstreams = [Upstream("127.0.0.1", each.port) for each in (*self.more, self.upstream)]
        asker = Asker(upstreams, lifetimes, patience)
        settings = Settings(**more)  # type: ignore[arg-type]
        self.resolver = Resolver(self.around, asker, settings, self.clock)
        self.govern("**.example.org:443", "api.example.org:443")
        return self.resolver

    def clock(self) -> float:
        return time.monotonic() if self.now is None else self.now

    def govern(self, *rules: str, private: bool = False) -> None:
        self.resolver.govern("s-1", [[self.rule(text, private) for text in rules]])

    @staticmethod
    def rule(text: str, private: bool = False) -> NameRule:
        return parse(text, 0, private)

    async def ask(
        self, name: str, kind: str = "A", datagram: bool = True, **more: Any
    ) -> dns.message.Message:
        """The reply, which repeats number and question."""
        data = question(name, kind, **more)
        peer = Peer(socket.IPPROTO_UDP if datagram else socket.IPPROTO_TCP, "127.0.0.1", 4)
        reply = await self.resolver.answer(data, peer, datagram)
        assert reply is not None
        assert reply[:2] == data[:2]
        return dns.message.from_wire(reply)

    def told(self, name: str, kind: str = "A", **more: Any) -> list[str] | str:
        """The records, or the rcode where there are none."""
        return told(asyncio.run(self.ask(name, kind, **more)))

    def close(self) -> None:
        for each in (self.upstream, *self.more):
            each.close()


def told(reply: dns.message.Message) -> list[str] | str:
    found = [each.to_text() for part in reply.answer for each in part]
    return sorted(found) or dns.rcode.to_text(reply.rcode())


@pytest.fixture
def case() -> Iterator[Case]:
    made = Case()
    made.upstream.add("api.example.org", f"A {PUBLIC}", f"AAAA {PUBLIC6}")
    yield made
    made.close()


# -- listed and not -------------------------------------------------------------------------------


def test_a_listed_name_is_answered_and_allowed_before(case: Case) -> None:
    order: list[object] = []

    async def before_allow() -> None:
        await asyncio.sleep(0.05)
        order.append("allowed")

    case.around.before_allow = before_allow
    order.append(case.told("Api.example.ORG"))
    assert order == ["allowed", [PUBLIC]]
    assert [(each.name, str(each.address)) for each in case.around.allowed] == [
        ("api.example.org", PUBLIC)
    ]
    assert case.around.allowed[0].permission.ports() == {6: ((443, 443),)}
    recorded = case.around.recorded[0]
    assert (recorded.session, recorded.name, recorded.kind) == ("s-1", "Api.example.ORG", "A")
    assert (recorded.cause, recorded.rules, recorded.ttl) == (None, ((0, 0),), 60)
    assert case.told("api.example.org", "AAAA") == [PUBLIC6]


def test_other_names_do_not_leave_the_host(case: Case) -> None:
    case.upstream.add("evil.example", f"A {PUBLIC}")
    assert case.told("evil.example") == "NXDOMAIN"
    assert case.told("secret.api.example.org.evil.example") == "NXDOMAIN"
    assert case.told("example.org") == "NXDOMAIN"
    assert case.told("a\\000.example.org") == "REFUSED"
    assert (case.upstream.asked, case.around.allowed) == ([], [])
    assert case.around.causes == [*[Cause.UNLISTED] * 3, Cause.MALFORMED]
    # The same with the control off.
    case.govern("any:443")
    assert case.told("evil.example") == [PUBLIC]


def test_refusing_is_a_setting(case: Case) -> None:
    case.make(unlisted=REFUSED)
    assert case.told("evil.example") == "REFUSED"


@pytest.mark.parametrize("kind", ["TXT", "MX", "PTR", "ANY", "CNAME", "NS", "SOA", "SVCB", "NULL"])
def test_types_that_carry_anything_are_refused(case: Case, kind: str) -> None:
    assert case.told("api.example.org", kind) == "REFUSED"
    assert (case.upstream.asked, case.around.causes) == ([], [Cause.TYPE])


def test_who_is_unknown_gets_no_answer(case: Case) -> None:
    case.around.session = None
    peer = Peer(socket.IPPROTO_UDP, "127.0.0.1", 4)
    assert asyncio.run(case.resolver.answer(question("api.example.org"), peer, True)) is None
    assert (case.upstream.asked, case.around.recorded[0].session) == ([], None)


def test_an_ended_session_is_told_nothing(case: Case) -> None:
    assert case.told("api.example.org") == [PUBLIC]
    case.resolver.release("s-1")
    assert case.told("api.example.org") == "REFUSED"
    assert len(case.around.allowed) == 1
    assert case.resolver.sessions() == ()


def test_a_session_that_ends_while_upstream_thinks_is_told_nothing(case: Case) -> None:
    asked, answer = threading.Event(), threading.Event()

    def slow(query: dns.message.Message, tcp: bool) -> list[bytes]:
        asked.set()
        answer.wait(3)
        return [case.upstream.honest(query, tcp)]

    case.upstream.behaviours["api.example.org"] = slow

    async def both(change: Callable[[], None]) -> list[str] | str:
        asked.clear()
        answer.clear()
        asking = asyncio.create_task(case.ask("api.example.org"))
        while not asked.is_set():
            await asyncio.sleep(0.01)
        change()
        answer.set()
        return told(await asking)

    assert asyncio.run(both(lambda: case.govern("b.example.org:443"))) == "NXDOMAIN"
    case.make()
    assert asyncio.run(both(lambda: case.resolver.release("s-1"))) == "REFUSED"
    assert case.around.allowed == []
    case.make()
    assert asyncio.run(both(lambda: None)) == [PUBLIC]


def test_what_cannot_be_allowed_is_not_told(case: Case) -> None:
    async def full() -> None:
        raise OSError("map full")

    case.around.before_allow = full
    assert case.told("api.example.org") == "SERVFAIL"
    assert case.around.causes == [Cause.TABLES]


def test_search_domains_are_tried_and_told_apart(case: Case) -> None:
    case.make(search=("corp.example",))
    assert case.told("api.example.org.corp.example") == "NXDOMAIN"
    assert case.around.causes == [Cause.SEARCH]


# -- what upstream does ---------------------------------------------------------------------------


def test_chains_are_followed_to_their_end(case: Case) -> None:
    case.upstream.add("www.example.org", "CNAME edge.cdn.example.", ttl=7)
    case.upstream.add("edge.cdn.example", "CNAME pop.cdn.example.", ttl=99)
    case.upstream.add("pop.cdn.example", f"A {OTHER}", ttl=99)
    reply = asyncio.run(case.ask("www.example.org"))
    assert told(reply) == [OTHER]
    assert reply.answer[0].name.to_text() == "www.example.org."
    assert reply.answer[0].ttl == 7
    assert case.around.recorded[0].aliases == ("edge.cdn.example", "pop.cdn.example")
    assert case.around.allowed[0].name == "www.example.org"
    # Not a way to look up the names of the chain, or to connect by their rules.
    assert case.told("pop.cdn.example") == "NXDOMAIN"


def test_chains_without_end_are_given_up(case: Case) -> None:
    case.upstream.add("a.example.org", "CNAME b.example.org.")
    case.upstream.add("b.example.org", "CNAME a.example.org.")
    assert case.told("a.example.org") == "SERVFAIL"
    for number in range(30):
        case.upstream.add(f"n{number}.example.org", f"CNAME n{number + 1}.example.org.")
    assert case.told("n0.example.org") == "SERVFAIL"
    assert len(case.upstream.asked) < 20
    assert case.around.allowed == []


def test_a_no_is_given_on_and_kept(case: Case) -> None:
    assert case.told("nothing.example.org") == "NXDOMAIN"
    assert case.told("nothing.example.org") == "NXDOMAIN"
    case.upstream.add("empty.example.org", f"A {PUBLIC}")
    assert case.told("empty.example.org", "AAAA") == "NOERROR"
    assert case.told("empty.example.org", "AAAA") == "NOERROR"
    assert [each.cached for each in case.around.recorded] == [False, True, False, True]
    assert len(case.upstream.asked) == 2
    assert case.around.causes == [None] * 4


def test_an_answer_is_kept_for_its_ttl_and_never_given_stale(case: Case) -> None:
    case.now = 1000.0
    case.make(Patience(one=0.5, all=0.5, rounds=1))
    assert case.told("api.example.org") == [PUBLIC]
    case.now = 1050.0
    reply = asyncio.run(case.ask("api.example.org"))
    assert (told(reply), reply.answer[0].ttl) == ([PUBLIC], 10)
    assert case.around.allowed[-1].ttl == Lifetimes().shortest
    assert len(case.upstream.asked) == 1
    case.now = 1061.0
    case.upstream.behaviours["api.example.org"] = lambda _query, _tcp: []
    assert case.told("api.example.org") == "SERVFAIL"
    assert len(case.around.allowed) == 2


def test_ttl_0_is_asked_each_time_and_can_be_connected_to(case: Case) -> None:
    case.upstream.add("zero.example.org", f"A {PUBLIC}", ttl=0)
    assert case.told("zero.example.org") == [PUBLIC]
    assert case.told("zero.example.org") == [PUBLIC]
    assert case.upstream.count("zero.example.org") == 2
    assert {each.ttl for each in case.around.allowed} == {Lifetimes().shortest}


def test_the_same_question_of_many_is_asked_once(case: Case) -> None:
    def slow(query: dns.message.Message, tcp: bool) -> list[bytes]:
        time.sleep(0.3)
        return [case.upstream.honest(query, tcp)]

    case.upstream.add("zero.example.org", f"A {PUBLIC}", ttl=0)
    case.upstream.behaviours["zero.example.org"] = slow

    async def many() -> list[object]:
        asking = [asyncio.create_task(case.ask("zero.example.org")) for _number in range(100)]
        await asyncio.sleep(0.02)
        asking[0].cancel()  # the one that asked; the others wait on
        return list(await asyncio.gather(*asking, return_exceptions=True))

    found = asyncio.run(many())
    assert isinstance(found[0], asyncio.CancelledError)
    assert [told(each) for each in found[1:] if isinstance(each, dns.message.Message)] == [
        [PUBLIC]
    ] * 99
    assert case.upstream.count("zero.example.org") == 1
    assert len(case.around.allowed) == 99


def test_long_answers_come_over_tcp(case: Case) -> None:
    many = [f"A 93.184.{number}.1" for number in range(90)]
    case.upstream.add("many.example.org", *many)
    reply = asyncio.run(case.ask("many.example.org"))
    assert reply.flags & dns.flags.TC
    assert not reply.answer
    assert [tcp for _name, _kind, tcp in case.upstream.asked] == [False, True]
    assert len(case.told("many.example.org", datagram=False)) == 90
    assert len(case.told("many.example.org", use_edns=0, payload=4096)) == 90
    assert len({each.address for each in case.around.allowed}) == 90


def test_a_server_that_is_silent_or_broken_is_not_the_last(case: Case) -> None:
    silent, failing, garbage = NameServer(), NameServer(), NameServer()
    case.more = [silent, failing, garbage]
    silent.behaviours["api.example.org"] = lambda _query, _tcp: []
    failing.behaviours["api.example.org"] = lambda query, _tcp: [answered(query, rcode=2)]
    garbage.behaviours["api.example.org"] = lambda query, _tcp: [
        answered(query, rrset("api.example.org.", ("A", OTHER, 9)))[:-2]
    ]
    case.make(Patience(one=0.5, all=5, rounds=1))
    assert case.told("api.example.org") == [PUBLIC]
    assert [len(each.asked) for each in case.more] == [1, 1, 1]


def test_a_datagram_that_is_lost_is_asked_again(case: Case) -> None:
    lost = [True]

    def loses_one(query: dns.message.Message, tcp: bool) -> list[bytes]:
        return [] if lost and lost.pop() else [case.upstream.honest(query, tcp)]

    case.upstream.behaviours["api.example.org"] = loses_one
    case.make(Patience(one=0.5, all=5, rounds=3))
    assert case.told("api.example.org") == [PUBLIC]


def test_nothing_to_ask_is_known_at_once(case: Case) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    case.resolver.asker.upstreams = (Upstream("127.0.0.1", port),)
    began = time.monotonic()
    assert case.told("api.example.org") == "SERVFAIL"
    assert time.monotonic() - began < QUICK.one
    assert case.around.causes == [Cause.UPSTREAM]


def test_upstream_has_so_much_time_and_no_more(case: Case) -> None:
    case.upstream.behaviours["api.example.org"] = lambda _query, _tcp: []
    case.make(Patience(one=0.2, all=0.3, rounds=9))
    began = time.monotonic()
    assert case.told("api.example.org") == "SERVFAIL"
    assert 0.25 < time.monotonic() - began < 3


def test_a_server_that_does_not_know_edns_is_asked_without(case: Case) -> None:
    def old(query: dns.message.Message, tcp: bool) -> list[bytes]:
        if query.edns >= 0:
            return [struct.pack(">HHHHHH", query.id, 0x8001, 0, 0, 0, 0)]
        return [case.upstream.honest(query, tcp)]

    case.upstream.behaviours["api.example.org"] = old
    assert case.told("api.example.org") == [PUBLIC]


def test_a_server_that_writes_names_in_its_own_way_is_asked_over_tcp(case: Case) -> None:
    case.upstream.add("abcdefghijklmnop.example.org", f"A {PUBLIC}")

    def lower(query: dns.message.Message, tcp: bool) -> list[bytes]:
        whole = case.upstream.honest(query, tcp)
        end = 12 + len(query.question[0].name.to_wire() or b"")
        return [whole[:12] + whole[12:end].lower() + whole[end:]]

    case.upstream.behaviours["abcdefghijklmnop.example.org"] = lower
    assert case.told("abcdefghijklmnop.example.org") == [PUBLIC]
    assert [tcp for _name, _kind, tcp in case.upstream.asked] == [False, True]


def test_a_server_that_does_so_and_has_no_tcp_is_believed(case: Case) -> None:
    case.upstream.add("abcdefghijklmnop.example.org", f"A {PUBLIC}", ttl=0)

    def lower(query: dns.message.Message, tcp: bool) -> list[bytes]:
        if tcp:
            return []
        whole = case.upstream.honest(query, tcp)
        end = 12 + len(query.question[0].name.to_wire() or b"")
        return [whole[:12] + whole[12:end].lower() + whole[end:]]

    case.upstream.behaviours["abcdefghijklmnop.example.org"] = lower
    assert case.told("abcdefghijklmnop.example.org") == [PUBLIC]
    assert case.told("abcdefghijklmnop.example.org") == [PUBLIC]
    assert [tcp for _name, _kind, tcp in case.upstream.asked] == [False, True, False, False]


def forged(query: dns.message.Message, **more: object) -> bytes:
    """An answer that somebody guesses: not to this question."""
    response = dns.message.make_response(query)
    response.answer.append(rrset(query.question[0].name.to_text(), ("A", OTHER, 9999)))
    for name, value in more.items():
        setattr(response, name, value)
    return bytes(response.to_wire())


def test_guessed_answers_are_waited_past(case: Case) -> None:
    def beside(query: dns.message.Message, tcp: bool) -> list[bytes]:
        other = dns.message.make_query("bank.example.org", "A").question
        return [
            forged(query, id=query.id ^ 1),
            forged(query, question=other),
            forged(query, question=[]),
            b"\0" * 5,
            case.upstream.honest(query, tcp),
        ]

    case.upstream.behaviours["api.example.org"] = beside
    assert case.told("api.example.org") == [PUBLIC]
    assert case.resolver.asker.foreign == 4


def test_many_guesses_mean_tcp(case: Case) -> None:
    def guesses(query: dns.message.Message, tcp: bool) -> list[bytes]:
        if tcp:
            return [case.upstream.honest(query, tcp)]
        return [forged(query, id=query.id ^ (1 + number)) for number in range(MOST_FOREIGN + 9)]

    case.upstream.behaviours["api.example.org"] = guesses
    assert case.told("api.example.org") == [PUBLIC]


def test_what_another_address_sends_is_not_even_received(case: Case) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:

        def beside(query: dns.message.Message, tcp: bool) -> list[bytes]:
            return [case.upstream.honest(query, tcp)]

        case.upstream.behaviours["api.example.org"] = beside
        stranger.bind(("127.0.0.2", 0))
        assert case.told("api.example.org") == [PUBLIC]
    assert case.resolver.asker.foreign == 0


def test_other_names_in_an_answer_are_neither_told_nor_kept(case: Case) -> None:
    case.upstream.behaviours["a.example.org"] = lambda query, _tcp: [
        answered(
            query,
            rrset("a.example.org.", ("A", PUBLIC, 60)),
            rrset("api.example.org.", ("A", OTHER, 9999)),
        )
    ]
    assert case.told("a.example.org") == [PUBLIC]
    assert case.told("api.example.org") == [PUBLIC]
    assert OTHER not in {str(each.address) for each in case.around.allowed}


def test_letters_of_the_session_do_not_reach_upstream(case: Case) -> None:
    """Upper and lower case would carry a bit in each letter."""
    name = "abcdefghijklmnopqrstuvwxyz.example.org"
    case.upstream.add(name, f"A {PUBLIC}", ttl=0)
    for _number in range(3):
        case.told(name.upper())
    sent = {asked for asked, _kind, _tcp in case.upstream.asked}
    assert len(sent) == 3
    assert name.upper() not in sent


def test_private_answers_of_public_names_are_left_out(case: Case) -> None:
    case.upstream.add("inside.example.org", "A 10.0.0.5", "A 127.0.0.1", "AAAA ::1")
    assert case.told("inside.example.org") == "NOERROR"
    assert case.told("inside.example.org", "AAAA") == "NOERROR"
    assert case.around.causes == [Cause.PRIVATE] * 2
    assert len(case.around.recorded[0].private) == 2
    assert case.around.allowed == []
    case.govern("inside.example.org:443", private=True)
    assert case.told("inside.example.org") == ["10.0.0.5", "127.0.0.1"]


# -- limits ---------------------------------------------------------------------------------------


def test_questions_a_second_are_limited_for_each_session(case: Case) -> None:
    case.now = 5.0
    case.make(limits=Limits(per_second=1, at_once=3))
    assert [case.told("api.example.org") for _number in range(6)] == [[PUBLIC]] * 3 + [
        "REFUSED"
    ] * 3
    assert case.around.causes == [None, None, None, Cause.RATE]
    case.now = 6.0
    assert [case.told("api.example.org") for _number in range(2)] == [[PUBLIC], "REFUSED"]
    assert [each.times for each in case.around.recorded] == [1, 1, 1, 1, 1, 3]
    case.around.session = "s-2"
    case.resolver.govern("s-2", [[case.rule("api.example.org:443")]])
    assert case.told("api.example.org") == [PUBLIC]


def test_a_connection_that_asks_too_much_waits(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolving, "RATE_SECONDS", 0.2)
    case.now = 5.0
    case.make(limits=Limits(per_second=1, at_once=1))
    assert case.told("api.example.org", datagram=False) == [PUBLIC]
    began = time.monotonic()
    assert case.told("api.example.org", datagram=False) == "REFUSED"
    assert time.monotonic() - began >= 0.2


def test_broken_questions_count_too(case: Case) -> None:
    case.now = 5.0
    case.make(limits=Limits(per_second=1, at_once=2))
    peer = Peer(socket.IPPROTO_UDP, "127.0.0.1", 4)
    for _number in range(9):
        assert asyncio.run(case.resolver.answer(question("a.b") + b"!", peer, True)) is not None
    assert case.around.causes == [Cause.MALFORMED, Cause.MALFORMED, Cause.RATE]


def test_bytes_that_wildcards_let_choose_are_limited(case: Case) -> None:
    case.make(limits=Limits(label_bytes=64))
    names = [f"{number:032x}.example.org" for number in range(3)]
    assert [case.told(name) for name in names] == ["NXDOMAIN", "NXDOMAIN", "REFUSED"]
    assert case.told(names[0]) == "NXDOMAIN"
    assert case.told("api.example.org") == [PUBLIC]
    assert case.upstream.count(names[2]) == 0
    # What it used stays when its rules change.
    case.govern("**.example.org:443")
    assert case.told(names[2]) == "REFUSED"


def test_questions_that_wait_are_limited(case: Case) -> None:
    case.make(Patience(0.5, 0.5, 1), limits=Limits(waiting=4))

    async def many() -> list[list[str] | str]:
        names = [f"n{number}.example.org" for number in range(8)]
        for name in names:
            case.upstream.behaviours[name] = lambda _query, _tcp: []
        return [told(each) for each in await asyncio.gather(*map(case.ask, names))]

    assert asyncio.run(many()) == ["SERVFAIL"] * 8
    assert sorted(each.value for each in case.around.causes if each) == [
        *["upstream"] * 4,
        *["waiting"] * 4,
    ]


# -- sockets --------------------------------------------------------------------------------------


async def over_tcp(address: str, port: int, *messages: bytes) -> list[bytes]:
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(b"".join(struct.pack(">H", len(each)) + each for each in messages))
        return [
            await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            for _message in messages
        ]
    finally:
        writer.close()


async def over_udp(address: str, port: int, message: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect((address, port))
        sock.send(message)
        return await asyncio.wait_for(loop.sock_recv(sock, 4096), 5)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_it_listens(case: Case, address: str) -> None:
    async def serve() -> None:
        with ExitStack() as stack:
            sockets = [stack.enter_context(each) for each in listen(address)]
            port = sockets[0].getsockname()[1]
            running = Server(case.resolver, case.around, sockets)
            await running.start()
            message = question("api.example.org")
            assert told(dns.message.from_wire(await over_udp(address, port, message))) == [PUBLIC]
            two = await over_tcp(address, port, message, question("evil.example"))
            assert [told(dns.message.from_wire(each)) for each in two] == [[PUBLIC], "NXDOMAIN"]
            await running.stop()

    asyncio.run(serve())
    assert {each.peer.protocol for each in case.around.recorded} == {6, 17}
    assert {each.peer.address for each in case.around.recorded} == {address}


def test_nobody_holds_all_connections(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(serving, "IDLE_SECONDS", 1.0)

    async def serve() -> None:
        with ExitStack() as stack:
            sockets = [stack.enter_context(each) for each in listen("127.0.0.1")]
            port = sockets[0].getsockname()[1]
            running = Server(case.resolver, case.around, sockets)
            await running.start()
            held = [await asyncio.open_connection("127.0.0.1", port) for _number in range(5)]
            ended = await asyncio.wait_for(
                asyncio.gather(*(reader.read(1) for reader, _writer in held)), 5
            )
            assert ended == [b""] * 5
            assert running.dropped == 2
            assert len(await over_tcp("127.0.0.1", port, question("api.example.org"))) == 1
            for _reader, writer in held:
                writer.close()
            await running.stop()

    asyncio.run(serve())


def test_a_fault_of_the_surroundings_does_not_end_the_service(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fault() -> None:
        case.around.before_allow = None
        raise RuntimeError("a fault")

    case.around.before_allow = fault

    async def serve() -> None:
        with ExitStack() as stack:
            sockets = [stack.enter_context(each) for each in listen("127.0.0.1")]
            port = sockets[0].getsockname()[1]
            running = Server(case.resolver, case.around, sockets)
            await running.start()
            with pytest.raises(EOFError):
                await over_tcp("127.0.0.1", port, question("api.example.org"))
            assert await over_udp("127.0.0.1", port, question("api.example.org"))
            await running.stop()

    asyncio.run(serve())
    assert "a fault" in capsys.readouterr().err


def test_no_bytes_end_the_service(case: Case) -> None:
    """Broken questions over both, connections that break off, and then one that is answered."""
    chance = random.Random(SEED)
    whole = question("api.example.org", use_edns=0)

    def broken() -> bytes:
        data = bytearray(whole)
        for _change in range(chance.randint(0, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data[: chance.randint(0, len(data))])

    async def serve() -> None:
        with ExitStack() as stack:
            sockets = [stack.enter_context(each) for each in listen("127.0.0.1")]
            port = sockets[0].getsockname()[1]
            running = Server(case.resolver, case.around, sockets)
            await running.start()
            sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for number in range(2000):
                sender.sendto(broken(), ("127.0.0.1", port))
                if number % 50 == 0:
                    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    data = broken()
                    claimed = chance.choice((len(data), 65535, 0))
                    writer.write(struct.pack(">H", claimed) + data)
                    await writer.drain()
                    writer.close()
            assert await over_tcp("127.0.0.1", port, question("api.example.org"))
            assert await over_udp("127.0.0.1", port, question("api.example.org"))
            await running.stop()

    case.make(limits=Limits(per_second=1e6, at_once=10**6))
    asyncio.run(serve())
    assert {str(each.address) for each in case.around.allowed} == {PUBLIC}


# -- which servers --------------------------------------------------------------------------------


def test_resolv_conf_is_read(tmp_path: pytest.TempPathFactory) -> None:
    path = tmp_path / "resolv.conf"  # type: ignore[operator]
    path.write_text(
        "# nameserver 1.1.1.1\nnameserver 10.0.0.1\nnameserver nonsense\nnameserver\n"
        "nameserver fe80::1%eth0\ndomain old.example\nsearch Corp.Example. b%d lab.example\n"
        "options ndots:5\n\xff\n"
    )
    assert read_resolv_conf(path) == ResolvConf(
        (Upstream("10.0.0.1"), Upstream("fe80::1%eth0")), ("corp.example", "lab.example")
    )
    path.unlink()
    assert read_resolv_conf(path) == ResolvConf((Upstream("127.0.0.1"),), ())


def test_servers_are_named_by_address() -> None:
    assert parse_upstream("10.0.0.1") == Upstream("10.0.0.1")
    assert parse_upstream("10.0.0.1:5353") == Upstream("10.0.0.1", 5353)
    assert parse_upstream("fd00::1") == Upstream("fd00::1")
    assert str(parse_upstream("[fd00::1]:5353")) == "[fd00::1]:5353"
    for text in ("", "dns.example", "10.0.0.1:0", "10.0.0.1:x", "[fd00::1]5", "[fd00::1", "1:2:3"):
        with pytest.raises(ValueError, match="names no server|is not"):
            parse_upstream(text)


def test_rcodes_have_names() -> None:
    assert [dns.rcode.to_text(dns.rcode.Rcode(each)) for each in (SERVFAIL, NXDOMAIN, REFUSED)] == [
        *("SERVFAIL", "NXDOMAIN", "REFUSED")
    ]

# SPDX-License-Identifier: Apache-2.0
"""Questions of sessions, messages of upstream, and the replies made of them, as bytes."""

from __future__ import annotations

import ipaddress
import random
import struct
import time

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monitor.resolver.addresses import is_own, is_public
from monitor.resolver.answers import (
    LONGEST_CHAIN,
    MOST_KEPT,
    Answer,
    Asked,
    Lifetimes,
    Unusable,
    continued,
    read,
)
from monitor.resolver.cache import Cache
from monitor.resolver.decision import NameTable, Permission, judge
from monitor.resolver.limits import Limits, Meter, Repeats
from monitor.resolver.names import parse, to_labels
from monitor.resolver.replies import Reply, reply
from monitor.resolver.wire import (
    BADVERS,
    FORMERR,
    LARGEST,
    NOERROR,
    NOTIMP,
    NXDOMAIN,
    REFUSED,
    SMALLEST,
    Data,
    Query,
    read_query,
    write_name,
    write_query,
    write_reply,
)
from tests.support.dns import answered, question, rrset

A, AAAA, SRV, HTTPS = 1, 28, 33, 65
LIFETIMES = Lifetimes()
PUBLIC, OTHER = "93.184.216.34", "151.101.1.69"


def query(name: str = "api.example.org", kind: str = "A", **more: object) -> Query:
    found = read_query(question(name, kind, **more))
    assert found is not None
    return found


# -- questions ------------------------------------------------------------------------------------


def test_a_question_is_read() -> None:
    found = query("Api.Example.ORG", "AAAA")
    assert (found.labels, found.kind, found.error) == ((b"Api", b"Example", b"ORG"), AAAA, NOERROR)
    assert (found.edns, found.room) == (False, SMALLEST)
    assert query(use_edns=0, payload=1400).room == 1400
    assert query(use_edns=0, payload=65535).room == LARGEST
    assert query(use_edns=0, payload=1).room == SMALLEST


def test_options_and_wishes_are_passed_over() -> None:
    options = [
        dns.edns.ECSOption("198.51.100.0", 24),
        dns.edns.GenericOption("COOKIE", b"8 bytes!"),
    ]
    found = query(use_edns=0, options=options, want_dnssec=True)
    assert (found.error, found.edns) == (NOERROR, True)
    written = dns.message.from_wire(write_reply(found, NOERROR))
    assert written.options == ()
    assert not written.ednsflags


HEADER = struct.Struct(">HHHHHH")
NAME = b"\1a\1b\0"
ASKED = NAME + b"\0\1\0\1"
OPT = b"\0\0\x29\x10\0\0\0\0\0\0\0"


def message(rest: bytes, counts: tuple[int, int, int, int] = (1, 0, 0, 0), flags: int = 0) -> bytes:
    return HEADER.pack(7, flags, *counts) + rest


WRONG = {
    "two questions": (message(ASKED + ASKED, (2, 0, 0, 0)), FORMERR),
    "no question": (message(b"", (0, 0, 0, 0)), FORMERR),
    "an answer beside it": (message(ASKED, (1, 1, 0, 0)), FORMERR),
    "authority beside it": (message(ASKED, (1, 0, 1, 0)), FORMERR),
    "bytes behind it": (message(ASKED + b"!"), FORMERR),
    "a pointer": (message(b"\xc0\x0c\0\1\0\1"), FORMERR),
    "a label of 64": (message(b"\x40" + b"a" * 64 + b"\0\0\1\0\1"), FORMERR),
    "a name of 256": (message((b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1"), FORMERR),
    "a name without end": (message(b"\1a"), FORMERR),
    "a label without end": (message(b"\5a"), FORMERR),
    "no class": (message(NAME + b"\0\1"), FORMERR),
    "another class": (message(NAME + b"\0\1\0\3"), REFUSED),
    "a signature": (message(ASKED + b"\0\0\xfa" + OPT[3:], (1, 0, 0, 1)), FORMERR),
    "half an OPT": (message(ASKED + OPT[:-1], (1, 0, 0, 1)), FORMERR),
    "an OPT that ends late": (message(ASKED + OPT[:-1] + b"\1", (1, 0, 0, 1)), FORMERR),
    "no OPT where one is said": (message(ASKED, (1, 0, 0, 1)), FORMERR),
    "a later EDNS": (message(ASKED + OPT[:6] + b"\1" + OPT[7:], (1, 0, 0, 1)), BADVERS),
    "an update": (message(ASKED, flags=5 << 11), NOTIMP),
    "a status": (message(ASKED, flags=2 << 11), NOTIMP),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_single_question_is_answered_with_an_error(what: str) -> None:
    data, error = WRONG[what]
    found = read_query(data)
    assert found is not None
    assert found.error == error
    written = write_reply(found, error)
    assert written[:2] == data[:2]
    assert dns.message.from_wire(written).rcode() == error


@pytest.mark.parametrize("data", [b"", b"\0" * 11, message(ASKED, flags=0x8000)], ids=repr)
def test_what_deserves_no_answer(data: bytes) -> None:
    """Answers to answers would go on forever."""
    assert read_query(data) is None


def test_the_reply_repeats_the_question_in_its_own_letters() -> None:
    asked = query("aPi.eXample.org", use_edns=0)
    written = write_reply(asked, NOERROR, [Data(A, b"\1\2\3\4"), Data(A, b"\5\6\7\x08")], 30)
    parsed = dns.message.from_wire(written)
    assert parsed.id == asked.identity
    assert parsed.question[0].name.to_text() == "aPi.eXample.org."
    assert sorted(each.to_text() for each in parsed.answer[0]) == ["1.2.3.4", "5.6.7.8"]
    assert parsed.answer[0].ttl == 30
    assert parsed.flags & dns.flags.RA
    assert not parsed.flags & dns.flags.AA


def test_a_reply_that_does_not_fit_says_so() -> None:
    asked = query()
    records = [Data(A, bytes(4))] * 40
    small = dns.message.from_wire(write_reply(asked, NOERROR, records, 9, asked.room))
    assert small.flags & dns.flags.TC
    assert not small.answer
    assert not dns.message.from_wire(write_reply(asked, NOERROR, records, 9)).flags & dns.flags.TC


@given(st.binary(max_size=600))
@example(message(ASKED + OPT, (1, 0, 0, 1)))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    found = read_query(data)
    if found is not None:
        dns.message.from_wire(write_reply(found, found.error))


def test_nothing_but_the_name_goes_upstream() -> None:
    sent = dns.message.from_wire(write_query(5, to_labels("a.b"), AAAA, 1232))
    assert (sent.id, sent.flags, sent.options) == (5, dns.flags.RD, ())
    assert sent.question[0].to_text() == "a.b. IN AAAA"
    assert dns.message.from_wire(write_query(5, to_labels("a.b"), A, None)).edns == -1


# -- what upstream says ---------------------------------------------------------------------------


def asked(name: str = "api.example.org", kind: int = A) -> tuple[Asked, dns.message.Message]:
    sent = Asked(7, to_labels(name), kind)
    return sent, dns.message.from_wire(write_query(7, sent.labels, kind, 1232))


def answer(*sets: dns.rrset.RRset, kind: int = A, rcode: int = 0) -> Answer | Unusable:
    sent, sent_message = asked(kind=kind)
    return read(answered(sent_message, *sets, rcode=rcode), sent, LIFETIMES)


def addresses(found: object) -> list[str]:
    assert isinstance(found, Answer), found
    return [str(each) for each in found.addresses]


ME = "api.example.org."


def test_an_answer_is_read() -> None:
    found = answer(rrset(ME, ("A", PUBLIC, 60), ("A", OTHER, 60)))
    assert sorted(addresses(found)) == sorted([PUBLIC, OTHER])
    assert isinstance(found, Answer)
    assert found.ttl == 60


def test_the_whole_chain_counts_for_the_asked_name() -> None:
    found = answer(
        rrset("edge.cdn.example.", ("A", PUBLIC, 500)),
        rrset("www.cdn.example.", ("CNAME", "edge.cdn.example.", 5)),
        rrset(ME, ("CNAME", "WWW.cdn.example.", 300)),
    )
    assert addresses(found) == [PUBLIC]
    assert isinstance(found, Answer)
    assert found.ttl == 5
    assert found.aliases == ((b"www", b"cdn", b"example"), (b"edge", b"cdn", b"example"))


def test_names_that_nobody_asked_for_are_dropped() -> None:
    found = answer(
        rrset(ME, ("A", PUBLIC, 60)),
        rrset("bank.example.", ("A", OTHER, 60)),
        rrset(ME, ("TXT", "x", 60)),
        rrset(ME, ("AAAA", "2606:4700::1", 60)),
    )
    assert addresses(found) == [PUBLIC]


def chain(length: int, end: str | None = PUBLIC) -> list[dns.rrset.RRset]:
    names = [ME, *(f"n{number}.example." for number in range(length))]
    sets = [rrset(one, ("CNAME", other, 60)) for one, other in zip(names, names[1:], strict=False)]
    return sets + ([rrset(names[-1], ("A", end, 60))] if end else [])


def test_chains_have_an_end() -> None:
    assert addresses(answer(*chain(LONGEST_CHAIN))) == [PUBLIC]
    assert answer(*chain(LONGEST_CHAIN + 1)) is Unusable.BROKEN
    loop = (
        rrset("a.example.", ("CNAME", "b.example.", 1)),
        rrset("b.example.", ("CNAME", "a.example.", 1)),
    )
    assert answer(rrset(ME, ("CNAME", "a.example.", 1)), *loop) is Unusable.BROKEN
    assert answer(rrset(ME, ("CNAME", ME, 1))) is Unusable.BROKEN
    two = rrset(ME, ("CNAME", "a.example.", 1), ("CNAME", "b.example.", 1))
    assert addresses(answer(two, rrset("b.example.", ("A", PUBLIC, 1)))) == [PUBLIC]


def test_a_chain_that_leads_out_of_the_message_is_followed() -> None:
    first = answer(*chain(2, end=None))
    assert isinstance(first, Answer)
    assert first.follow == (b"n1", b"example")
    second = Answer(NOERROR, (ipaddress.ip_address(PUBLIC),), ttl=9)
    both = continued(first, second)
    assert both is not None
    assert (both.ttl, len(both.aliases), addresses(both)) == (9, 2, [PUBLIC])
    back = Answer(NOERROR, aliases=((b"n0", b"example"),), ttl=9, follow=(b"n0", b"example"))
    assert continued(first, back) is None


def test_an_alias_whose_end_does_not_exist_is_a_no() -> None:
    found = answer(*chain(1, end=None), rcode=NXDOMAIN)
    assert isinstance(found, Answer)
    assert (found.rcode, found.follow, found.negative) == (NXDOMAIN, None, True)


def changed(**more: object) -> Answer | Unusable:
    """An answer with something of its header or question changed."""
    sent, sent_message = asked()
    response = dns.message.make_response(sent_message)
    response.answer.append(rrset(ME, ("A", PUBLIC, 60)))
    for name, value in more.items():
        setattr(response, name, value)
    return read(response.to_wire(), sent, LIFETIMES)


def other_question(name: str, kind: str = "A", of_class: str = "IN") -> list[dns.rrset.RRset]:
    return [dns.message.make_query(name, kind, of_class).question[0]]


def test_only_the_answer_to_this_very_question_counts() -> None:
    assert addresses(changed()) == [PUBLIC]
    assert changed(id=8) is Unusable.FOREIGN
    assert changed(flags=dns.flags.RD) is Unusable.FOREIGN
    assert changed(flags=dns.flags.QR | 4 << 11) is Unusable.FOREIGN
    assert changed(question=other_question("b.example.org")) is Unusable.FOREIGN
    assert changed(question=other_question(ME, "AAAA")) is Unusable.FOREIGN
    assert changed(question=other_question(ME, "A", "CH")) is Unusable.FOREIGN
    assert changed(question=[]) is Unusable.FOREIGN
    assert changed(question=other_question(ME) * 2) is Unusable.FOREIGN
    assert changed(question=other_question("API.example.org.")) is Unusable.CASE
    assert changed(flags=dns.flags.QR | dns.flags.TC) is Unusable.TRUNCATED


@pytest.mark.parametrize("rcode", [2, 4, 5, 9, 16, 23])
def test_a_failure_is_not_a_no(rcode: int) -> None:
    assert answer(rcode=rcode) is Unusable.FAILED


def test_a_server_without_edns_is_known() -> None:
    assert answer(rcode=FORMERR) is Unusable.PLAIN
    sent, _message = asked()
    assert read(HEADER.pack(7, 0x8001, 0, 0, 0, 0), sent, LIFETIMES) is Unusable.PLAIN


def test_messages_too_large_to_read_are_not() -> None:
    sent, _message = asked()
    head = HEADER.pack(7, 0x8000, 1, 65535, 0, 0) + sent.question
    began = time.process_time()
    assert (
        read(head + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4abcd" * 3000, sent, LIFETIMES) is Unusable.BROKEN
    )
    assert time.process_time() - began < 0.5


def test_many_addresses_are_cut() -> None:
    many = [("A", f"93.184.{number // 200}.{number % 200 + 1}", 60) for number in range(300)]
    assert len(addresses(answer(rrset(ME, *many)))) == MOST_KEPT


def no(ttl: int | None, minimum: int = 60, rcode: int = NXDOMAIN) -> Answer:
    sent, sent_message = asked()
    response = dns.message.make_response(sent_message)
    response.set_rcode(dns.rcode.Rcode(rcode))
    if ttl is not None:
        response.authority.append(rrset("org.", ("SOA", f"a. b. 1 2 3 4 {minimum}", ttl)))
    found = read(response.to_wire(), sent, LIFETIMES)
    assert isinstance(found, Answer)
    return found


def test_how_long_a_no_counts() -> None:
    assert no(3600, 60).ttl == 60
    assert no(20, 60, NOERROR).ttl == 20
    assert no(99999, 99999).ttl == LIFETIMES.negative
    assert no(None).ttl == 0


@pytest.mark.parametrize("ttl", [2**31 - 1, 2**31, 2**32 - 1])
def test_no_answer_counts_for_longer_than_the_longest(ttl: int) -> None:
    sent, _message = asked()
    record = b"\xc0\x0c\0\1\0\1" + ttl.to_bytes(4, "big") + b"\0\4\x5d\xb8\xd8\x22"
    data = HEADER.pack(7, 0x8000, 1, 1, 0, 0) + sent.question + record
    found = read(data, sent, LIFETIMES)
    assert addresses(found) == [PUBLIC]
    assert isinstance(found, Answer)
    assert 0 <= found.ttl <= LIFETIMES.longest


SEED = 20261125


def mutations(data: bytes, count: int) -> list[bytes]:
    """The message with bytes changed, cut out, doubled, and its end missing."""
    chance = random.Random(SEED)
    made = []
    for _number in range(count):
        changed = bytearray(data)
        for _change in range(chance.randint(1, 6)):
            at = chance.randrange(2, len(changed))
            how = chance.randrange(5)
            if how == 0:
                changed[at] = chance.randrange(256)
            elif how == 1:
                changed[at] = chance.choice((0, 0xC0, 0xFF, 0x3F, 0x40, 12))
            elif how == 2:
                del changed[at : at + chance.randint(1, 8)]
            elif how == 3:
                changed[at:at] = changed[at : at + chance.randint(1, 16)]
            else:
                changed = changed[:at]
            if len(changed) < 3:
                break
        made.append(bytes(changed))
    return made


RICH = [
    rrset(ME, ("CNAME", "n0.example.", 60)),
    rrset("n0.example.", ("A", PUBLIC, 60), ("A", OTHER, 60)),
    rrset("n0.example.", ("AAAA", "2606:4700::1", 60)),
    rrset("n0.example.", ("HTTPS", "1 . alpn=h2,h3 port=443 ipv4hint=10.0.0.1 ech=AARhYmNk", 60)),
    rrset("n0.example.", ("SRV", "1 2 443 api.example.org.", 60)),
    rrset("n0.example.", ("NAPTR", '1 2 "u" "x" "!a!b!" .', 60)),
    rrset("n0.example.", ("SOA", "a. b. 1 2 3 4 5", 60)),
    rrset("n0.example.", ("LOC", "1 0 0 N 1 0 0 E 1m", 60)),
]


@pytest.mark.parametrize("kind", [A, AAAA, HTTPS, SRV])
def test_no_message_breaks_the_reader(kind: int) -> None:
    """Thousands of broken messages in seconds: each is an answer or is not, and none takes long."""
    sent, sent_message = asked(kind=kind)
    whole = answered(sent_message, *RICH)
    assert isinstance(read(whole, sent, LIFETIMES), Answer)
    listed = [NameTable([parse("api.example.org:443")])]
    permission = judge("api.example.org", kind, listed)
    assert isinstance(permission, Permission)
    again = query("api.example.org", dns.rdatatype.to_text(dns.rdatatype.RdataType(kind)))
    kept = 0
    for data in mutations(whole, 4000):
        began = time.process_time()
        found = read(data, sent, LIFETIMES)
        if isinstance(found, Answer):
            kept += 1
            made = reply(found, kind, permission, listed, LIFETIMES)
            written = dns.message.from_wire(write_reply(again, made.rcode, made.records, made.ttl))
            assert {each.name.to_text() for each in written.answer} <= {ME}
            told = {each.to_text() for part in written.answer for each in part}
            if kind in {A, AAAA}:
                assert told == {str(each.address) for each in made.admissions}
        assert time.process_time() - began < 1
    assert kept > 50


@given(st.binary(max_size=400))
def test_no_bytes_break_it_either(data: bytes) -> None:
    sent, _message = asked()
    head = HEADER.pack(7, 0x8000, 1, 3, 1, 1) + sent.question
    assert isinstance(read(data, sent, LIFETIMES), Unusable)
    assert isinstance(read(head + data, sent, LIFETIMES), Unusable | Answer)


# -- what a session is told -----------------------------------------------------------------------


def told(found: Answer | Unusable, kind: int = A, *rules: str, private: bool = False,
         lifetimes: Lifetimes = LIFETIMES, own: str = "") -> Reply:  # fmt: skip
    assert isinstance(found, Answer)
    tables = [NameTable([parse(rule, 0, private) for rule in rules or ("api.example.org:443",)])]
    permission = judge("api.example.org", kind, tables)
    assert isinstance(permission, Permission)
    networks = [ipaddress.ip_network(own)] if own else []
    return reply(found, kind, permission, tables, lifetimes, networks)


def test_what_is_told_is_allowed() -> None:
    made = told(answer(rrset(ME, ("A", PUBLIC, 600))))
    assert [(str(each.address), each.ttl, each.name) for each in made.admissions] == [
        (PUBLIC, 600, "api.example.org")
    ]
    assert (made.ttl, [each.data for each in made.records]) == (
        600,
        [ipaddress.ip_address(PUBLIC).packed],
    )


@given(st.integers(0, 2**31 - 1), st.integers(1, 5000), st.integers(0, 200))
def test_what_is_shown_never_outlives_what_is_allowed(
    ttl: int, longest: int, shortest: int
) -> None:
    lifetimes = Lifetimes(shortest=shortest, longest=longest)
    found = Answer(NOERROR, (ipaddress.ip_address(PUBLIC),), ttl=ttl)
    made = told(found, lifetimes=lifetimes)
    assert made.ttl <= made.admissions[0].ttl <= max(longest, shortest)
    assert made.admissions[0].ttl >= min(shortest, max(longest, shortest))


def test_an_address_with_ttl_0_can_be_connected_to() -> None:
    made = told(answer(rrset(ME, ("A", PUBLIC, 0))))
    assert (made.ttl, made.admissions[0].ttl) == (0, LIFETIMES.shortest)


NOT_PUBLIC = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),
    *("100.64.0.1", "192.0.0.192", "198.18.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1"),
    *("::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001::1"),
    *("2001:db8::1", "::127.0.0.1", "::10.0.0.1", "fec0::1", "100::1", "5f00::1"),
]


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_public_names_do_not_have_private_addresses(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert not is_public(address)
    kind = A if address.version == 4 else AAAA
    found = Answer(NOERROR, (address, address), ttl=9)
    made = told(found, kind)
    assert (made.rcode, made.records, made.admissions, made.private) == (0, (), (), (address,) * 2)
    assert told(found, kind, private=True).admissions[0].address == address


@pytest.mark.parametrize(
    "text", [PUBLIC, "1.1.1.1", "172.32.0.1", "2606:4700::1", "64:ff9b::101:101", "::ffff:1.1.1.1"]
)
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


def test_of_several_addresses_the_private_ones_are_left_out() -> None:
    made = told(answer(rrset(ME, ("A", PUBLIC, 60), ("A", "10.0.0.1", 60))))
    assert [str(each.address) for each in made.admissions] == [PUBLIC]
    assert [str(each) for each in made.private] == ["10.0.0.1"]
    own = told(answer(rrset(ME, ("A", PUBLIC, 60))), own=f"{PUBLIC}/31")
    assert (own.records, [str(each) for each in own.private]) == ((), [PUBLIC])
    assert not is_own(ipaddress.ip_address("::1"), [ipaddress.ip_network("0.0.0.0/0")])


def services(text: str, *rules: str, kind: str = "HTTPS") -> list[str]:
    number = int(dns.rdatatype.from_text(kind))
    made = told(answer(rrset(ME, (kind, text, 60)), kind=number), number, *rules)
    assert not made.admissions
    parsed = dns.message.from_wire(write_reply(query(kind=kind), NOERROR, made.records, made.ttl))
    return [each.to_text() for part in parsed.answer for each in part]


BOTH = ("api.example.org:443", "*.svc.example.org:8443")


def test_https_records_lose_addresses_and_keys() -> None:
    full = "1 . alpn=h2,h3 ipv4hint=10.0.0.1 ipv6hint=fd00::1 ech=AARhYmNk key667=x"
    assert services(full) == ['1 . alpn="h2,h3"']
    assert services("1 . no-default-alpn alpn=h2") == ['1 . alpn="h2" no-default-alpn']
    assert services("1 . port=443") == ['1 . port="443"']
    assert services("1 . port=25") == []
    assert services("1 . mandatory=alpn alpn=h2") == ['1 . alpn="h2"']
    assert services("1 . mandatory=ech ech=AARhYmNk") == []


def test_https_records_lead_to_listed_names_only() -> None:
    assert services("1 x.svc.example.org. alpn=h2", *BOTH) == ['1 x.svc.example.org. alpn="h2"']
    assert services("0 x.svc.example.org.", *BOTH) == ["0 x.svc.example.org."]
    assert services("0 other.example.", *BOTH) == []
    assert services("1 x.svc.example.org. port=443", *BOTH) == []
    assert services("1 x.svc.example.org. port=8443", *BOTH) == ['1 x.svc.example.org. port="8443"']


def test_srv_records_lead_to_listed_names_and_ports_only() -> None:
    assert services("1 2 8443 X.svc.example.org.", *BOTH, kind="SRV") == [
        "1 2 8443 x.svc.example.org."
    ]
    assert services("1 2 443 x.svc.example.org.", *BOTH, kind="SRV") == []
    assert services("1 2 8443 other.example.", *BOTH, kind="SRV") == []
    assert services("0 0 0 .", *BOTH, kind="SRV") == []


def test_the_name_on_the_wire() -> None:
    assert write_name(to_labels("a.bc")) == b"\1a\2bc\0"


# -- cache and limits -----------------------------------------------------------------------------


def test_an_answer_counts_as_long_as_its_ttl_and_no_longer() -> None:
    cache = Cache()
    found = Answer(NOERROR, ttl=10)
    cache.put(("a.b", A), found, 100.0)
    assert cache.get(("a.b", AAAA), 100.0) is None
    left = [cache.get(("a.b", A), now) for now in (50.0, 100.5, 109.0)]
    assert [each.ttl for each in left if each] == [10, 9, 1]
    assert cache.get(("a.b", A), 109.5) is None
    assert len(cache) == 0
    cache.put(("a.b", A), found, 100.0)
    cache.put(("a.b", A), Answer(NOERROR, ttl=0), 100.0)
    assert cache.get(("a.b", A), 100.0) is None


def test_the_cache_has_an_end() -> None:
    cache = Cache(3)
    for number in range(5):
        cache.put((f"n{number}", A), Answer(NOERROR, ttl=9), 0.0)
        cache.get(("n0", A), 0.0)
    assert [cache.get((f"n{number}", A), 0.0) is not None for number in range(5)] == [
        *(True, False, False, True, True)
    ]


def test_questions_a_second() -> None:
    meter = Meter(Limits(per_second=10, at_once=5))
    assert [meter.question(1.0) for _number in range(6)] == [True] * 5 + [False]
    assert [meter.question(1.25) for _number in range(3)] == [True, True, False]
    assert [meter.question(0.5) for _number in range(2)] == [False, False]
    assert sum(meter.question(100.0) for _number in range(20)) == 5


def test_chosen_bytes_are_counted_once_for_each_name() -> None:
    meter = Meter(Limits(label_bytes=10))
    assert meter.say("exact.example", 0)
    assert meter.say("abcdef.example", 6)
    assert meter.say("abcdef.example", 6)
    assert not meter.say("ghijk.example", 5)
    assert meter.say("klmn.example", 4)
    assert meter.spent == 10


def test_a_flood_is_recorded_once_a_second_with_its_number() -> None:
    repeats = Repeats(most=2)
    assert [repeats.times("a", now) for now in (0.0, 0.1, 0.9, 1.0, 1.5)] == [1, 0, 0, 3, 0]
    assert repeats.times("b", 1.5) == 1
    assert repeats.left("a") == 1
    assert repeats.left("a") == 0
    assert repeats.times("a", 0.5) == 1  # the clock went back
    assert [repeats.times(key, 9.0) for key in ("c", "d", "c", "d")] == [1, 1, 0, 0]


def test_one_long_name_a_thousand_times_is_not_read() -> None:
    """All owners point to a name of 120 labels that stands once."""
    sent, _message = asked()
    long_name = b"".join(b"\1a" for _number in range(120)) + b"\0"
    at = (12 + len(sent.question)).to_bytes(2, "big")
    first = long_name + b"\0\1\0\1\0\0\0\1\0\4abcd"
    rest = bytes((0xC0 | at[0], at[1])) + b"\0\1\0\1\0\0\0\1\0\4abcd"
    data = HEADER.pack(7, 0x8000, 1, 500, 0, 0) + sent.question + first + rest * 499
    began = time.process_time()
    assert read(data, sent, LIFETIMES) is Unusable.BROKEN
    assert time.process_time() - began < 0.05

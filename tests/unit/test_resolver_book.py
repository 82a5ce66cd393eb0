# SPDX-License-Identifier: Apache-2.0
"""The addresses of a session: against a model that looks at each port by itself."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.resolver.addresses import Address, is_public
from monitor.resolver.book import Book, Row
from monitor.resolver.decision import Admission, NameTable, Permission, judge
from monitor.resolver.hosts import admitted, parse_hosts
from monitor.resolver.names import parse

A = 1
SHARED, OTHER = ipaddress.ip_address("93.184.216.34"), ipaddress.ip_address("151.101.1.69")
PRIVATE = ipaddress.ip_address("10.0.0.1")


def tables(*links: list[str], private: bool = False) -> list[NameTable]:
    return [
        NameTable([parse(text, number, private) for number, text in enumerate(link)])
        for link in links
    ]


def permission(name: str, *links: list[str], private: bool = False) -> Permission:
    found = judge(name, A, tables(*links, private=private))
    assert isinstance(found, Permission)
    return found


def admission(name: str, address: Address, ttl: int, *links: list[str]) -> Admission:
    return Admission(name, address, ttl, permission(name, *links))


def shown(rows: list[Row]) -> dict[str, list[tuple[int, int, float, str, tuple[int, ...]]]]:
    return {
        str(row.address): [
            (span.first, span.last, span.until, span.name, span.rules) for span in row.spans
        ]
        for row in rows
    }


def test_an_address_is_allowed_for_the_names_ports() -> None:
    book = Book()
    rows = book.admit([admission("a.b", SHARED, 60, ["a.b:443"], ["*.b:80", "any:400-500"])], 100.0)
    assert shown(rows) == {str(SHARED): [(443, 443, 160.0, "a.b", (0, 1))]}
    assert book.names(SHARED) == ("a.b",)
    assert book.next_end() == 160.0


def test_names_that_share_an_address_do_not_share_ports() -> None:
    """Each link's ports of both names together have 80 in common, which neither name allows."""
    book = Book()
    book.admit([admission("a.b", SHARED, 60, ["a.b:80,443"], ["a.b:443"])], 0.0)
    book.admit([admission("c.d", SHARED, 90, ["c.d:443"], ["c.d:80,443"])], 0.0)
    assert shown(book.rows()) == {str(SHARED): [(443, 443, 90.0, "c.d", (0, 0))]}
    assert book.names(SHARED) == ("c.d", "a.b")


def test_the_same_answer_again_changes_nothing() -> None:
    book = Book()
    first = admission("a.b", SHARED, 60, ["a.b:443"])
    assert len(book.admit([first], 100.0)) == 1
    assert book.admit([admission("a.b", SHARED, 30, ["a.b:443"])], 130.0) == []
    assert len(book.admit([admission("a.b", SHARED, 31, ["a.b:443"])], 130.0)) == 1


def test_what_has_ended_goes_unless_it_is_open() -> None:
    book = Book()
    book.admit([admission("a.b", SHARED, 60, ["a.b:443"])], 0.0)
    book.admit([admission("c.d", SHARED, 90, ["c.d:80"])], 0.0)
    assert book.expire(59.9) == []
    assert book.expire(60.0, lambda address: address == SHARED) == []
    assert shown(book.expire(60.0)) == {str(SHARED): [(80, 80, 90.0, "c.d", (0,))]}
    assert shown(book.expire(90.0)) == {str(SHARED): []}
    assert len(book) == 0
    assert book.next_end() is None
    assert book.names(SHARED) == ()


def test_rules_that_change_are_judged_again() -> None:
    book = Book()
    book.admit([admission("a.b", SHARED, 60, ["a.b:443"])], 0.0)
    book.admit([admission("c.d", OTHER, 60, ["c.d:80-90"])], 0.0)
    inside = Admission("in.b", PRIVATE, 60, permission("in.b", ["in.b:1"], private=True))
    book.admit([inside], 0.0)
    same = tables(["c.d:80-90", "in.b:1", "a.b:443"], private=True)
    assert len(book.judge_again(same, is_public)) == 2  # the rules' numbers
    rows = book.judge_again(tables(["c.d:85", "in.b:1"]), is_public)
    assert shown(rows) == {
        str(SHARED): [],
        str(OTHER): [(85, 85, 60.0, "c.d", (0,))],
        str(PRIVATE): [],
    }
    assert [row.address for row in book.rows()] == [OTHER]


def test_there_is_an_end_to_addresses() -> None:
    book = Book(most=2)
    one, two = (admission("a.b", address, 60, ["a.b:443"]) for address in (SHARED, OTHER))
    three = admission("a.b", ipaddress.ip_address("1.1.1.1"), 60, ["a.b:443"])
    book.admit([one], 0.0)
    with pytest.raises(OSError, match="2 addresses"):
        book.admit([two, three], 0.0)
    assert len(book) == 1
    book.admit([one, two], 0.0)


HOSTS = """
127.0.0.1 localhost  # the host itself
10.0.0.5	DB.corp.example db bad_name
fd00::5 db
10.0.0.6 db
nonsense db
10.0.0.7
"""


def test_the_hosts_own_names_are_admitted_where_they_are_listed() -> None:
    hosts = parse_hosts(HOSTS)
    assert {name: [str(each) for each in found] for name, found in hosts.items()} == {
        "localhost": ["127.0.0.1"],
        "db.corp.example": ["10.0.0.5"],
        "db": ["10.0.0.5", "fd00::5", "10.0.0.6"],
    }
    found = admitted(hosts, tables(["db:5432", "localhost:80"], ["db:*", "*.corp.example:1"]), 9)
    assert [(each.name, str(each.address), each.ttl) for each in found] == [
        ("db", "10.0.0.5", 9),
        ("db", "fd00::5", 9),
        ("db", "10.0.0.6", 9),
    ]
    assert found[0].permission.ports() == {6: ((5432, 5432),)}


@dataclass(frozen=True)
class Told:
    name: str
    links: tuple[tuple[str, ...], ...]
    ttl: int
    now: int


ports = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 4)).map(lambda pair: f"{pair[0]}-{sum(pair)}"),
    min_size=1, max_size=2,
).map(",".join)  # fmt: skip
protocol = st.sampled_from(["tcp", "udp"])


@st.composite
def telling(draw: st.DrawFn) -> Told:
    name = draw(st.sampled_from(["a.b", "c.d", "e.f"]))
    rule = st.builds(lambda part, kind: f"{name}:{part}/{kind}", ports, protocol)
    link = st.lists(rule, min_size=1, max_size=3).map(tuple)
    links = tuple(draw(st.lists(link, min_size=1, max_size=3)))
    return Told(name, links, draw(st.integers(1, 9)), draw(st.integers(0, 9)))


@given(st.lists(telling(), max_size=6), st.integers(0, 20))
def test_rows_say_what_the_names_do(every: list[Told], now: int) -> None:
    book = Book()
    said: dict[str, tuple[Permission, int]] = {}
    written: dict[Address, Row] = {}
    for each in sorted(every, key=lambda told: told.now):
        found = judge(each.name, A, tables(*map(list, each.links)))
        if not isinstance(found, Permission):
            continue  # no port in common
        until = max(each.now + each.ttl, said.get(each.name, (found, 0))[1])
        said[each.name] = found, until
        for row in book.admit([Admission(each.name, SHARED, each.ttl, found)], each.now):
            written[row.address] = row
    for row in book.expire(now):
        written[row.address] = row
    spans = written[SHARED].spans if SHARED in written else ()
    assert list(spans) == sorted(spans, key=lambda span: (span.protocol, span.first))
    live = {name: each for name, each in said.items() if each[1] > now}
    for number in (6, 17):
        for port in range(18):
            there = [span for span in spans
                     if span.protocol == number and span.first <= port <= span.last]  # fmt: skip
            allowing = {
                name: until
                for name, (allows, until) in live.items()
                if any(first <= port <= last for first, last in allows.ports().get(number, ()))
            }
            assert len(there) == bool(allowing)
            for span in there:
                assert span.until == max(allowing.values()) == allowing[span.name]
                for rules, rule in zip(live[span.name][0].links, span.rules, strict=True):
                    used = next(each for each in rules if each.rule == rule)
                    assert used.protocol == number
                    assert any(first <= port <= last for first, last in used.ports)

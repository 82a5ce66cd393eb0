# SPDX-License-Identifier: Apache-2.0
"""Host names and the rules that name them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.profile import network
from monitor.resolver.decision import Cause, NameTable, Permission, judge, match
from monitor.resolver.names import Depth, NameRule, canonical, from_labels, parse, shown, to_labels
from monitor.resolver.ports import common, covers, merge

A, TXT, PTR = 1, 16, 12

RULES = {
    "api.openai.com:443": NameRule("api.openai.com", Depth.EXACT, ((443, 443),), 6),
    "API.OpenAI.com.:443": NameRule("api.openai.com", Depth.EXACT, ((443, 443),), 6),
    "*.example.org:80,443": NameRule("example.org", Depth.ONE, ((80, 80), (443, 443)), 6),
    "**.amazonaws.com:443/udp": NameRule("amazonaws.com", Depth.BELOW, ((443, 443),), 17),
    "any:*": NameRule("", Depth.ANY, ((0, 65535),), 6),
    "bücher.example:443": NameRule("xn--bcher-kva.example", Depth.EXACT, ((443, 443),), 6),
    "xn--bcher-kva.example:443": NameRule("xn--bcher-kva.example", Depth.EXACT, ((443, 443),), 6),
    "_imaps._tcp.example.org:993": NameRule(
        "_imaps._tcp.example.org", Depth.EXACT, ((993, 993),), 6
    ),
    "db:5432": NameRule("db", Depth.EXACT, ((5432, 5432),), 6),
    "a.b:9-12,11-20": NameRule("a.b", Depth.EXACT, ((9, 20),), 6),
}


@pytest.mark.parametrize("text", RULES)
def test_a_rule_is_read(text: str) -> None:
    assert parse(text) == RULES[text]


BROKEN = {
    "": "has the form",
    "api.openai.com": "has the form",
    ":443": "name is missing",
    "*:443": "`any`",
    "**:443": "`any`",
    "*.:443": "`any`",
    ".:443": "`any`",
    "a..b:443": "not a host name",
    ".a:443": "not a host name",
    "a..:443": "not a host name",
    "-a.example:443": "not a host name",
    "a-.example:443": "not a host name",
    "a_b.example:443": "not a host name",
    "example._tcp:443": "not a host name",
    "_tcp:443": "not a host name",
    "a*.example.org:443": "at the beginning",
    "x.*.example.org:443": "at the beginning",
    "*.*.example.org:443": "at the beginning",
    "***.example.org:443": "at the beginning",
    "*._tcp.example.org:443": "no wildcard",
    "exa mple.org:443": "not a host name",
    "example.org%00.evil.example:443": "not a host name",
    "example.org\0.evil.example:443": "not a host name",
    "example.org\n:443": "not a host name",
    "example.org\r\n.evil:443": "not a host name",
    "ex%61mple.org:443": "not a host name",
    "user@example.org:443": "not a host name",
    "1.2.3.4:443": "not a host name",
    "0x7f.1:443": "not a host name",
    "a.0x7f000001:443": "not a host name",
    "example.org\N{FULLWIDTH PERCENT SIGN}41:443": "not a host name",
    "example\N{ZERO WIDTH SPACE} .org:443": "not a host name",
    "xn--a.example:443": "not a host name",
    f"{'a' * 64}.example:443": "not a host name",
    f"{'a.' * 127}a:443": "longer than 253",
    "a.b:65536": "not a port",
    "a.b:\N{ARABIC-INDIC DIGIT ONE}": "not a port",
    "a.b:": "ports are missing",
    "a.b:2-1": "ends before",
    "a.b:443/sctp": "neither tcp nor udp",
    "[::1]:443": "has the form",
}


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_wrong_with_a_rule_is_said_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=BROKEN[text]) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_the_longest_names() -> None:
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert len(longest) == 253
    assert canonical(longest + ".") == longest
    with pytest.raises(ValueError, match="longer than 253"):
        canonical("e" + longest)


MEANT = {
    "api.openai.com": ["api.openai.com"],
    "*.example.org": ["a.example.org", "xn--bcher-kva.example.org"],
    "**.example.org": ["a.example.org", "b.a.example.org", "example.org.example.org"],
    "any": ["a", "b.example", "c.d.e.f"],
}
NOT_MEANT = {
    "api.openai.com": [
        "openai.com",
        "x.api.openai.com",
        "api.openai.com.evil.example",
        "apixopenai.com",
    ],
    "*.example.org": ["example.org", "b.a.example.org", "aexample.org", "_x.example.org"],
    "**.example.org": ["example.org", "aexample.org", "a.example.org.evil", "_x._tcp.example.org"],
    "any": ["_imaps._tcp.example.org"],
}


@pytest.mark.parametrize("pattern", MEANT)
def test_which_names_a_rule_means(pattern: str) -> None:
    rule = parse(f"{pattern}:443")
    assert all(rule.matches(name) for name in MEANT[pattern])
    assert not any(rule.matches(name) for name in NOT_MEANT[pattern])


label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,3}[a-z0-9])?", fullmatch=True)
host = (
    st.lists(label, min_size=1, max_size=4)
    .map(".".join)
    .filter(lambda name: from_labels(to_labels(name)) is not None)
)
plain = host.filter(lambda name: "xn--" not in name)
port_text = st.sampled_from(["443", "80,443", "1-1000", "*", "8000-8999"])
rule_text = st.tuples(
    st.sampled_from(["", "*.", "**."]), plain, port_text, st.sampled_from(["", "/tcp", "/udp"])
).map(lambda parts: f"{parts[0]}{parts[1]}:{parts[2]}{parts[3]}")


@given(st.lists(rule_text, max_size=8), st.lists(label, max_size=2), plain)
def test_the_table_agrees_with_the_rules_one_by_one(
    texts: list[str], front: list[str], name: str
) -> None:
    rules = [parse(text, number) for number, text in enumerate(texts)]
    names = [name, *(".".join([*front, rule.name]) for rule in rules)]
    for each in names:
        assert set(NameTable(rules).match(each)) == set(match(each, rules))


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(text: str) -> None:
    for each in (text, f"{text}:443", f"*.{text}:443"):
        try:
            rule = parse(each)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        assert canonical(rule.name) == rule.name if rule.name else rule.depth is Depth.ANY
        assert from_labels(to_labels(rule.name)) == rule.name if rule.name else True


@given(plain)
def test_a_name_has_one_spelling(name: str) -> None:
    assert canonical(name.upper()) == canonical(name) == canonical(f"{name}.") == name
    assert from_labels(to_labels(name.upper())) == name
    assert shown(to_labels(name)) == name


@pytest.mark.parametrize(
    "labels",
    [
        (),
        (b"a\0",),
        (b"a.b", b"example"),
        (b"\xff",),
        (b"a\r\n",),
        (b"a%41",),
        (b"A" * 64,),
        (b"",),
    ],
    ids=repr,
)
def test_what_is_no_name_on_the_wire(labels: tuple[bytes, ...]) -> None:
    assert from_labels(labels) is None
    assert shown(labels).isascii()
    assert shown(labels).isprintable()


def test_two_names_are_never_shown_alike() -> None:
    assert shown((b"a.b", b"c")) == r"a\046b.c" != shown((b"a", b"b", b"c"))
    assert shown((b"a\\046b",)) != shown((b"a.b",))


@given(port_text)
def test_ports_are_read_as_in_rules_with_addresses(text: str) -> None:
    assert parse(f"a.b:{text}/udp").ports == network.parse(f"any:{text}/udp").ports


ranges = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: (min(pair), max(pair)))
)


@given(ranges, ranges)
def test_ports_in_common(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    both = common(merge(one), merge(other))
    assert both == merge(both)
    for port in range(32):
        assert covers(both, port) == (covers(one, port) and covers(other, port))


# -- several links --------------------------------------------------------------------------------


def tables(*links: list[str]) -> list[NameTable]:
    return [NameTable([parse(text, number) for number, text in enumerate(link)]) for link in links]


def test_every_link_must_list_the_name() -> None:
    both = tables(["any:443"], ["**.example.org:*", "api.example.org:443"])
    found = judge("api.example.org", A, both)
    assert isinstance(found, Permission)
    assert [[rule.rule for rule in rules] for rules in found.links] == [[0], [1, 0]]
    assert found.ports() == {6: ((443, 443),)}
    assert judge("example.org", A, both) is Cause.UNLISTED
    assert judge("example.org", A, both[:1]) != Cause.UNLISTED
    assert judge("api.example.org", A, tables(["any:443"], [])) is Cause.UNLISTED
    assert judge("api.example.org", A, []) is Cause.UNLISTED
    assert judge(None, A, both) is Cause.MALFORMED


def test_links_without_a_port_in_common_list_nothing() -> None:
    assert judge("a.b", A, tables(["a.b:443"], ["a.b:80"])) is Cause.PORTS
    assert judge("a.b", A, tables(["a.b:443"], ["a.b:443/udp"])) is Cause.PORTS
    found = judge("a.b", A, tables(["a.b:443", "a.b:53/udp"], ["a.b:53/udp"]))
    assert isinstance(found, Permission)
    assert found.ports() == {17: ((53, 53),)}


@pytest.mark.parametrize("kind", [PTR, TXT, 255, 5, 43, 64, 0, 65535])
def test_other_types_are_not_answered(kind: int) -> None:
    assert judge("a.b", kind, tables(["a.b:443"])) is Cause.TYPE
    assert judge("b.b", kind, tables(["a.b:443"])) is Cause.UNLISTED


def test_search_domains_are_told_apart() -> None:
    listed = tables(["a.b:443"])
    assert judge("a.b.corp.example", A, listed, ["corp.example"]) is Cause.SEARCH
    assert judge("c.b.corp.example", A, listed, ["corp.example"]) is Cause.UNLISTED


def test_what_was_free_to_choose_is_what_the_strictest_link_left_open() -> None:
    free = {
        "a.b": (["a.b:443"], ["any:443"]),
        "xyz.b": (["*.b:443"], ["any:443"]),
        "x.y.b": (["**.b:443"], ["**.y.b:443"]),
    }
    found = [judge(name, A, tables(*links)) for name, links in free.items()]
    assert [each.free for each in found if isinstance(each, Permission)] == [0, 3, 1]


def test_private_addresses_need_every_links_word() -> None:
    rule, private = parse("a.b:443"), parse("a.b:443", private=True)
    assert Permission("a.b", ((private,), (rule,))).for_private() is None
    both = Permission("a.b", ((private, rule), (private,))).for_private()
    assert both is not None
    assert both.links == ((private,), (private,))

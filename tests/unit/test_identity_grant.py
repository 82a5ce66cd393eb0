# SPDX-License-Identifier: Apache-2.0
"""Grants: what is signed comes back, what is appended only narrows, what is changed is refused."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from biscuit_auth import Biscuit, BlockBuilder, KeyPair
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.identity import grant, grant_block
from monitor.identity.chain import Link, Principal
from monitor.identity.grant import Facts, Grant
from monitor.identity.grant_block import Origin, Step
from monitor.identity.grant_error import (
    BadSignature,
    CheckFailed,
    Expired,
    GrantError,
    Malformed,
    NotYetValid,
    Revoked,
    TooDeep,
    UnknownKey,
    WrongBearer,
    WrongHost,
)

PAIR = KeyPair()
PRIVATE = bytes(PAIR.private_key.to_bytes()).hex()
KEY = bytes(PAIR.public_key.to_bytes()).hex()
NOW = 1_800_000_000
CODER, TESTER = "spiffe://example.org/agent/coder", "spiffe://example.org/agent/demo/tester"
DIGEST, OTHER_DIGEST = "0123456789abcdef" * 2, "f" * 32
ALICE = Principal("alice", 1000)
ORIGIN = Origin("a" * 32, ALICE, ALICE, NOW, ("builder",))
STEP = Step(CODER, "coding-agent", DIGEST, 'fix "issue"\n12; ü', NOW + 3600, 2, 5)
HERE = Facts(NOW + 10, "builder", (), ALICE)


def never(_identity: str) -> bool:
    return False


def verify(text: str, facts: Facts = HERE, **more: Any) -> Grant:
    return grant.verify(text, more.get("keys", {KEY}), facts, more.get("revoked", never))


def token(text: str) -> Biscuit:
    return Biscuit.from_bytes(base64.urlsafe_b64decode(text.rpartition(".")[2]), PAIR.public_key)


def written(made: Biscuit) -> str:
    return f"ri1.{KEY}.{base64.urlsafe_b64encode(bytes(made.to_bytes())).decode()}"


def appended(text: str, source: str) -> str:
    """`text` with a block that other software wrote."""
    return written(token(text).append(BlockBuilder(source)))


SIGNED = grant.sign(ORIGIN, STEP, PRIVATE)
NARROWED = grant.narrow(SIGNED, Step(TESTER, "ci-agent", OTHER_DIGEST, "test it", NOW + 60, 0, 1))


def test_what_was_signed_comes_back() -> None:
    found = verify(SIGNED + "\n")
    assert found.origin == ORIGIN
    assert found.steps == (STEP,)
    assert found == grant.read(SIGNED)
    assert (found.agent, found.expires, found.depth) == (CODER, NOW + 3600, 2)
    assert found.uses == ((found.revocation_ids[0], 5),)


def test_a_chain_has_a_link_for_each_block() -> None:
    found = verify(NARROWED)
    chain = found.chain()
    assert chain.names() == ("user:alice", CODER, TESTER)
    assert chain.links == (
        Link("user:alice", CODER, "coding-agent", DIGEST, STEP.purpose, NOW + 3600),
        Link(CODER, TESTER, "ci-agent", OTHER_DIGEST, "test it", NOW + 60),
    )
    assert found.profiles == (("coding-agent", DIGEST), ("ci-agent", OTHER_DIGEST))
    assert [uses for _, uses in found.uses] == [5, 1]
    assert found.revocation_ids[:1] == verify(SIGNED).revocation_ids


def test_a_link_without_words_of_its_own_has_those_before() -> None:
    link = verify(grant.narrow(SIGNED, Step(TESTER))).chain().links[1]
    assert link == Link(CODER, TESTER, "coding-agent", DIGEST, STEP.purpose, NOW + 3600)


STEPS = st.builds(
    Step,
    agent=st.sampled_from([CODER, TESTER]),
    purpose=st.text(max_size=20),
    expires=st.none() | st.integers(NOW - 100, NOW + 10**6),
    depth=st.none() | st.integers(0, 9),
    uses=st.none() | st.integers(1, 9),
) | st.builds(
    Step,
    agent=st.just(TESTER),
    profile=st.sampled_from(["coding-agent", "ci-agent", "other"]),
    digest=st.just(OTHER_DIGEST),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(STEPS, min_size=1, max_size=4))
def test_an_appended_block_never_widens(steps: list[Step]) -> None:
    text, before = SIGNED, grant.read(SIGNED)
    for step in steps:
        # Around `narrow`, as somebody would who does not mind what it refuses.
        text = appended(text, grant_block.write(step, None))
        after = grant.read(text)
        assert after.expires <= before.expires
        assert after.depth < before.depth
        assert after.profiles[: len(before.profiles)] == before.profiles
        assert after.uses[: len(before.uses)] == before.uses
        assert after.revocation_ids[: len(before.revocation_ids)] == before.revocation_ids
        assert after.origin == before.origin
        before = after
    stands = before.depth >= 0 and before.expires > HERE.now
    if stands:
        assert verify(text) == before
    else:
        with pytest.raises((TooDeep, Expired)):
            verify(text)


@given(st.integers(0, len(NARROWED) - 1), st.integers(1, 255))
@settings(deadline=None, max_examples=400)
def test_any_character_changed_is_refused(place: int, change: int) -> None:
    changed = NARROWED[:place] + chr(ord(NARROWED[place]) ^ change) + NARROWED[place + 1 :]
    with pytest.raises((Malformed, BadSignature, UnknownKey)) as caught:
        verify(changed)
    assert "\n" not in str(caught.value)


def test_any_bit_of_the_token_changed_is_refused() -> None:
    data = bytes(token(NARROWED).to_bytes())
    for place in range(len(data)):
        for bit in (0, 3, 5, 7):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            with pytest.raises((Malformed, BadSignature)):
                verify(f"ri1.{KEY}.{base64.urlsafe_b64encode(changed).decode()}")


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_anything_else_is_refused(data: bytes) -> None:
    for text in (
        data.decode("latin-1"),
        f"ri1.{KEY}.{base64.urlsafe_b64encode(data).decode()}",
        f"ri1.{'0' * 64}.{base64.urlsafe_b64encode(data).decode()}",
    ):
        with pytest.raises((Malformed, BadSignature, UnknownKey)):
            verify(text)
        with pytest.raises((Malformed, BadSignature)):
            grant.read(text)


def test_something_added_beside_the_signature_is_refused() -> None:
    """An unknown field of the outermost message, which nobody signs."""
    data = bytes(token(SIGNED).to_bytes()) + b"\x78\x01"
    Biscuit.from_bytes(data, PAIR.public_key)
    with pytest.raises(BadSignature, match="something was added"):
        verify(f"ri1.{KEY}.{base64.urlsafe_b64encode(data).decode()}")


def test_each_fault_has_its_own_error() -> None:
    cases: list[tuple[type[GrantError], str, Any]] = [
        (Malformed, "longer than", lambda: verify("ri1." + "a" * grant.LARGEST)),
        (Malformed, "no grant", lambda: verify("")),
        (Malformed, "cut off", lambda: verify(SIGNED[:-3])),
        (BadSignature, "cut off", lambda: verify(SIGNED[:-8])),
        (UnknownKey, KEY, lambda: verify(SIGNED, keys={"0" * 64})),
        (NotYetValid, "holds from 2027-01-15", lambda: at(NOW - 61)),
        (Expired, CODER, lambda: at(NOW + 3600)),
        (Expired, TESTER, lambda: verify(NARROWED, replace(HERE, now=NOW + 60.0))),
        (WrongHost, "for builder, and this host is other", lambda: elsewhere("other")),
        (WrongBearer, "not for bob", lambda: by(Principal("bob", 1001))),
        (WrongBearer, "not for alice", lambda: by(Principal("alice", 1001))),
        (WrongBearer, "not for bob", lambda: by(Principal("bob", 1000))),
    ]
    for kind, words, action in cases:
        with pytest.raises(GrantError, match=words) as caught:
            action()
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)


def at(now: float) -> Grant:
    return verify(SIGNED, replace(HERE, now=now))


def elsewhere(host: str) -> Grant:
    return verify(SIGNED, replace(HERE, host=host))


def by(bearer: Principal) -> Grant:
    return verify(SIGNED, replace(HERE, bearer=bearer))


def test_clocks_differ_a_little() -> None:
    assert at(NOW - grant.LEEWAY_SECONDS)
    assert at(NOW + 3599.9)


def test_a_signature_of_another_key_is_no_signature() -> None:
    other = KeyPair()
    made = grant.sign(ORIGIN, STEP, bytes(other.private_key.to_bytes()).hex())
    with pytest.raises(UnknownKey):
        verify(made)
    # Under the name of a key that is trusted.
    with pytest.raises(BadSignature):
        verify(f"ri1.{KEY}.{made.rpartition('.')[2]}")


def test_a_block_of_another_grant_does_not_fit() -> None:
    """The later block of one grant behind the first of another."""
    ends = [bytes(token(grant.narrow(SIGNED, Step(agent))).to_bytes()) for agent in (CODER, TESTER)]
    assert len(ends[0]) != len(ends[1])
    first = bytes(token(SIGNED).to_bytes())
    mixed = first[: first.rindex(b"\x22")] + ends[0][first.rindex(b"\x22") :]
    with pytest.raises((BadSignature, Malformed)):
        verify(f"ri1.{KEY}.{base64.urlsafe_b64encode(mixed).decode()}")


def test_revoking_a_link_revokes_what_follows() -> None:
    first, second = verify(NARROWED).revocation_ids
    sibling = grant.narrow(SIGNED, Step(TESTER))
    for gone, texts in ((first, (SIGNED, NARROWED, sibling)), (second, (NARROWED,))):
        for text in texts:
            with pytest.raises(Revoked):
                verify(text, revoked=gone.__eq__)
    assert verify(SIGNED, revoked=second.__eq__)
    assert verify(sibling, revoked=second.__eq__)


def test_it_is_passed_on_as_often_as_every_link_allows() -> None:
    once = grant.narrow(SIGNED, Step(TESTER))
    twice = grant.narrow(once, Step(CODER, depth=5))
    assert [verify(each).depth for each in (SIGNED, once, twice)] == [2, 1, 0]
    with pytest.raises(TooDeep, match="may not be passed on"):
        grant.narrow(twice, Step(TESTER))
    with pytest.raises(TooDeep, match="may not be passed on"):
        grant.narrow(NARROWED, Step(CODER))
    with pytest.raises(TooDeep, match=r"more often \(3\) than one of its links allows \(2\)"):
        verify(appended(twice, f'agent("{CODER}")'))


def test_a_grant_for_a_group_of_hosts() -> None:
    made = grant.sign(replace(ORIGIN, hosts=(), host_groups=("ci", "lab")), STEP, PRIVATE)
    assert verify(made, replace(HERE, host="x", host_groups=("web", "lab")))
    with pytest.raises(WrongHost, match="for group ci, group lab"):
        # A host does not become a group by its name.
        verify(made, replace(HERE, host="ci", host_groups=("web",)))


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        ('check if host("builder")', True),
        ('check if host("other")', False),
        ('check if bearer("alice", 1000)', True),
        ("check if time($now), $now < 2026-01-01T00:00:00Z", False),
        ('check if agent($a), $a.ends_with("tester")', True),
        ('check all agent($a), $a.ends_with("tester")', False),
        ('reject if agent($a), $a.ends_with("tester")', False),
        ('check if principal("alice", $uid), $uid > 999', True),
        ('check if workspace("/")', False),
        ('check if extern::call("x")', False),
    ],
)
def test_checks_of_others_are_evaluated(check: str, holds: bool) -> None:
    made = appended(SIGNED, f'agent("{TESTER}"); {check};')
    assert grant.read(made).steps[1].checks == (f"{check};",)
    if holds:
        assert verify(made)
    else:
        with pytest.raises(CheckFailed, match="does not hold"):
            verify(made)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('delegate("x")', "does not know"),
        ("", "does not say agent"),
        ('agent("coder")', "form that is not known"),
        ('agent("spiffe://example.org/agent/a//b")', "cannot be"),
        ('agent("spiffe://example.org/agent/../b")', "cannot be"),
        ("AGENT; expires(5)", "form that is not known"),
        ("AGENT; depth(-1)", "form that is not known"),
        ("AGENT; depth(1); depth(2)", "twice"),
        ("AGENT; uses(0)", "form that is not known"),
        ("AGENT; uses(9223372036854775807)", "form that is not known"),
        ('AGENT; profile("ci-agent")', "form that is not known"),
        ('AGENT; profile("../../x", "DIGEST")', "form that is not known"),
        ('AGENT; purpose("words")', "form that is not known"),
        ("AGENT; purpose(hex:ff)", "UTF-8"),
        ('AGENT; principal("root", 0)', "only the first"),
        ('AGENT; bearer("bob", 1001)', "only the first"),
        ('AGENT; host("other")', "only the first"),
        ('AGENT; host_group("all")', "only the first"),
        ("AGENT; issued(2020-01-01T00:00:00Z)", "only the first"),
        ("AGENT; uses($x) <- depth($x)", "does not know"),
        ('AGENT; host("other") <- agent($x)', "does not know"),
        (f"AGENT; {'check if true; ' * 9}", "more than 8 checks"),
        (f"AGENT; check if {'agent($a), ' * 5} true", "predicates"),
        (f'AGENT; check if "{"x" * 300}" == "y"', "too long"),
        ('AGENT; check if "a <- b" == "c"', "rule"),
        ('AGENT; check if agent("x\nhost(1);\n")', "does not know|predicates|rule"),
    ],
)
def test_what_is_not_known_in_a_later_block_is_refused(source: str, words: str) -> None:
    text = source.replace("AGENT", f'agent("{TESTER}")').replace("DIGEST", DIGEST)
    made = appended(SIGNED, text)
    for action in (verify, grant.read):
        with pytest.raises(Malformed, match=words):
            action(made)


def test_a_block_of_a_third_party_is_refused() -> None:
    other, before = KeyPair(), token(SIGNED)
    block = before.third_party_request().create_block(
        other.private_key, BlockBuilder(f'agent("{TESTER}")')
    )
    with pytest.raises(Malformed, match="third party"):
        verify(written(before.append_third_party(other.public_key, block)))


def test_there_are_not_endlessly_many_links() -> None:
    text = grant.sign(ORIGIN, replace(STEP, depth=99), PRIVATE)
    for _ in range(grant.MOST_LINKS - 1):
        text = grant.narrow(text, Step(TESTER))
    assert len(verify(text).chain().links) == grant.MOST_LINKS
    with pytest.raises(TooDeep, match="as many as there may be"):
        grant.narrow(text, Step(TESTER))
    with pytest.raises(Malformed, match="17 links"):
        verify(appended(text, f'agent("{TESTER}")'))


@pytest.mark.parametrize(
    "step",
    [
        replace(STEP, agent="coder"),
        replace(STEP, agent='spiffe://example.org/agent/x"); uses(9'),
        replace(STEP, profile="a b"),
        replace(STEP, digest="0"),
        replace(STEP, purpose="x" * 1025),
        replace(STEP, expires=-5),
        replace(STEP, expires=10**15),
        replace(STEP, depth=-1),
        replace(STEP, uses=0),
        replace(STEP, profile=None),
        replace(STEP, expires=None),
        replace(STEP, depth=None),
        replace(STEP, checks=("agent(1);",)),
    ],
)
def test_what_cannot_be_said_is_not_signed(step: Step) -> None:
    with pytest.raises(ValueError, match="grant"):
        grant.sign(ORIGIN, step, PRIVATE)


@pytest.mark.parametrize(
    "origin",
    [
        replace(ORIGIN, hosts=()),
        replace(ORIGIN, hosts=tuple("abcdefghi")),
        replace(ORIGIN, hosts=('x"); host("y',)),
        replace(ORIGIN, id="1"),
        replace(ORIGIN, principal=Principal('a"b', 1)),
        replace(ORIGIN, bearer=Principal("bob", -1)),
    ],
)
def test_an_origin_that_cannot_be_said_is_not_signed(origin: Origin) -> None:
    with pytest.raises(ValueError, match="grant"):
        grant.sign(origin, STEP, PRIVATE)


def test_other_software_reads_it_as_a_biscuit() -> None:
    data = base64.urlsafe_b64decode(SIGNED.split(".")[2])
    source = Biscuit.from_bytes(data, PAIR.public_key).block_source(0)
    assert 'principal("alice", 1000);' in source
    assert "check if time($time), $time < 2027-01-15T09:00:00Z;" in source

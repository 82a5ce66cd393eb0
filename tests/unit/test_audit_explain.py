# SPDX-License-Identifier: Apache-2.0
"""Explanations: what is told of a decision, what is marked as claimed, and the text of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings

from monitor.audit import canonical
from monitor.audit.explain import MECHANISMS, WIDTH, Fact, explain, text
from monitor.audit.record import Draft, Record
from monitor.policy.action import Mechanism, Verb, Verdict
from tests.support.audit import AGENT, draft, drafts, plan, policy, session


def stored(given: Draft) -> Record:
    return canonical.decode(canonical.encode(42, given), bytes(32))


def refusal(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "object": "/etc/shadow",
        "verdict": Verdict.DENY,
        "reason": "the profile does not list it",
        "rule": "",
        "details": {
            "errno": "EACCES", "claimed": True, "comm": "cat", "link": 0,
            "remedy": "add /etc/shadow to files.read",
        },
    }  # fmt: skip
    return stored(draft(**(fields | changes)))


def test_the_chain_is_told_link_by_link() -> None:
    (link,) = explain(refusal(), session()).chain
    assert (link.delegator, link.delegate, link.profile) == ("user:alice", AGENT, "coder")
    assert (link.purpose, link.expires) == ("fix the build", "2026-09-21T15:13:20.000000Z")


def test_without_the_session_the_names_are_left() -> None:
    (link,) = explain(refusal(), None).chain
    assert (link.delegator, link.delegate, link.profile) == ("user:alice", AGENT, "")
    assert explain(stored(draft(chain=())), None).chain == ()


def test_facts_say_who_vouches_for_them() -> None:
    facts = {fact.name: fact for fact in explain(refusal(), session()).facts}
    assert facts["object"] == Fact("object", "/etc/shadow", "claimed")
    assert facts["comm"].source == "claimed"
    assert facts["exe"] == Fact("exe", "/usr/bin/cat", "kernel")
    assert facts["pid"].source == facts["errno"].source == "kernel"
    assert {"remedy", "link", "claimed"}.isdisjoint(facts)
    opened = explain(stored(draft(details={"inode": 5})), session()).facts
    assert all(fact.source == "kernel" for fact in opened)
    launch = draft(verb=Verb.SESSION_LAUNCH, mechanism=Mechanism.DAEMON, pid=0, exe="",
                   details={"no_new_privs": True})  # fmt: skip
    assert explain(stored(launch), session()).facts[-1] == Fact("no_new_privs", "yes", "daemon")


def test_the_profile_that_refused_is_named() -> None:
    two = session(plan=plan(policies=(policy(), policy(profile="inner"))), policies=(5, 6))
    assert explain(refusal(), two).refused_by == "coder"
    assert explain(refusal(details={"link": 1}), two).refused_by == "inner"
    for wrong in (2, -1, True, "0", None):
        assert explain(refusal(details={"link": wrong}), two).refused_by == ""
    assert explain(refusal(), None).refused_by == ""


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({}, "add /etc/shadow to files.read"),
        ({"details": {}}, "none is known"),
        ({"details": {}, "mechanism": Mechanism.HOST}, "none in a profile: an agent never has"),
        ({"details": {}, "mechanism": Mechanism.SECCOMP}, "none: the floor refuses this"),
        ({"details": {}, "verb": Verb.PROC_SIGNAL}, "none: no profile lets an agent signal"),
        ({"details": {}, "mechanism": Mechanism.CGROUP_BPF}, "none in a profile: start a new"),
        ({"verdict": Verdict.ALLOW}, ""),
    ],
)
def test_the_remedy(changes: dict[str, Any], remedy: str) -> None:
    assert explain(refusal(**changes), session()).remedy.startswith(remedy)
    assert bool(explain(refusal(**changes), session()).remedy) is bool(remedy)


def test_every_mechanism_is_explained() -> None:
    assert set(MECHANISMS) == set(Mechanism)


def test_the_text() -> None:
    assert (
        text(explain(refusal(), session()))
        == f"""\
record 42  2026-09-21T14:13:20.250000Z  0197f0a0-1111-7222-8333-444455556666
action     file.open /etc/shadow
verdict    deny: refused
reason     the profile does not list it
rule       none
profile    coder
by         landlock: Landlock, which CMD took before it started and cannot lift;
           it decides on the object itself
remedy     add /etc/shadow to files.read

who delegated what to whom:
  user:alice -> {AGENT}
      profile coder, until 2026-09-21T15:13:20.000000Z
      purpose (as stated): fix the build

facts (! = claimed by the program, not checked):
! object  /etc/shadow
  pid     4711
  exe     /usr/bin/cat
! comm    cat
  errno   EACCES
"""
    )


def test_facts_of_the_daemon_are_readable() -> None:
    details = {
        "no_new_privs": True, "limits": {"files": None, "processes": 64}, "groups": [4, 24],
        "steps": [{"name": "freeze", "ms": 1.5}, {"name": "kill", "ms": 2}], "missing": [],
        "pid": 4711,
    }  # fmt: skip
    launch = draft(verb=Verb.SESSION_LAUNCH, mechanism=Mechanism.DAEMON, exe="", reason="",
                   rule="", object="coder", details=details)  # fmt: skip
    shown = text(explain(stored(launch), session()))
    assert "reason" not in shown
    assert shown.endswith("""\
  object        coder
  pid           4711
  groups        4 24
  limits        files none, processes 64
  missing       -
  no new privs  yes
  steps         ms 1.5, name freeze; ms 2, name kill
""")


def test_arguments_are_shown_as_a_shell_takes_them() -> None:
    details = {"argv": ["git", "commit", "-m", "two words", ""]}
    shown = text(explain(stored(draft(verb=Verb.PROC_EXEC, details=details)), session()))
    assert "git commit -m 'two words' ''" in shown
    long = text(explain(stored(draft(details={"argv": ["x " * 2000]})), session()))
    assert "… (4002 characters)" in long
    assert len(long) < 2000


def test_a_record_of_nobody() -> None:
    shown = text(explain(stored(draft(session="", agent="", chain=(), pid=0, exe="")), None))
    assert "nobody: no session" in shown


def test_lines_have_eighty_columns_and_long_names_stay_whole() -> None:
    path = "/" + "long" * 40
    shown = text(explain(refusal(object=path, reason="because " * 40), session()))
    assert path in shown
    assert all(len(line) <= WIDTH or path in line for line in shown.splitlines())


@settings(deadline=None)
@given(drafts)
def test_any_record_can_be_explained_and_printed(given: Draft) -> None:
    explanation = explain(stored(given), session())
    json.dumps(explanation.to_dict())
    shown = text(explanation)
    shown.encode("utf-8")
    assert all(line.isprintable() for line in shown.split("\n"))

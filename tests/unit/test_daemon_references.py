# SPDX-License-Identifier: Apache-2.0
"""What a word means to `rictl revoke`: never a guess."""

from __future__ import annotations

import time

import pytest

from monitor.daemon.references import Ambiguous, Kind, sessions_of
from monitor.identity.chain import Chain, Link, Principal
from monitor.policy.plan import EnvironmentPlan, Limits, Plan, SyscallPlan
from monitor.session.registry import UnknownSession
from monitor.session.session import Session

PLAN = Plan(
    policies=(),
    syscalls=SyscallPlan((), 500),
    view=None,
    environment=EnvironmentPlan((), ()),
    limits=Limits(),
    workspace="/work",
    home="/home/alice",
)
IDS = ("0199aaaa-0000-7000-8000-000000000001", "0199bbbb-0000-7000-8000-000000000002")


def session(identity: str, *agents: str, user: str = "alice") -> Session:
    links = tuple(Link("", agent, "base", "0" * 32, "", None) for agent in agents)
    return Session(
        id=identity,
        agent=agents[-1],
        chain=Chain(Principal(user, 1000), links),
        user=user,
        uid=1000,
        gid=1000,
        profile="base",
        digest="0" * 32,
        purpose="",
        workspace="/work",
        created=time.time(),
        expires=None,
        expires_boottime=0,
        cgroup=f"/sys/fs/cgroup/ri/{identity}",
        cgroup_id=1,
        policies=(1,),
        plan=PLAN,
        launcher=1,
        launcher_start=2,
    )


def agent(name: str, domain: str = "here.example") -> str:
    return f"spiffe://{domain}/agent/{name}"


CODER = session(IDS[0], agent("coder"))
TESTER = session(IDS[1], agent("coder"), agent("demo/tester"))
BOB = session("0199cccc-0000-7000-8000-000000000003", agent("coder", "there.example"), user="bob")
LIVE = (CODER, TESTER)


@pytest.mark.parametrize(
    ("word", "kind", "name", "found"),
    [
        ("user:alice", Kind.PRINCIPAL, "user:alice", LIVE),
        (agent("coder"), Kind.AGENT, agent("coder"), LIVE),
        (agent("demo/tester"), Kind.AGENT, agent("demo/tester"), (TESTER,)),
        ("coder", Kind.AGENT, agent("coder"), LIVE),
        ("demo/tester", Kind.AGENT, agent("demo/tester"), (TESTER,)),
        (IDS[0], Kind.SESSION, IDS[0], (CODER,)),
        (IDS[1][-4:], Kind.SESSION, IDS[1], (TESTER,)),
        ("0199a", Kind.SESSION, IDS[0], (CODER,)),
    ],
)
def test_words_are_understood(word: str, kind: Kind, name: str, found: tuple[Session, ...]) -> None:
    named = sessions_of(word, LIVE)
    assert (named.kind, named.name, named.sessions) == (kind, name, found)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("user:bob", "user:bob has no live session"),
        ("user:", "user: has no live session"),
        (agent("other"), "has no live session"),
        ("spiffe://", "has no live session"),
        ("tester", "tester is no live session, and no agent has one by this name"),
        ("002", "is no live session"),  # an end of an id that is too short
        ("0199", "2 sessions answer to 0199: give more of the id"),
        ("", "is no live session"),
    ],
)
def test_what_means_nothing_is_said(word: str, message: str) -> None:
    with pytest.raises(UnknownSession, match=message):
        sessions_of(word, LIVE)


def test_a_name_in_two_trust_domains_is_ambiguous() -> None:
    with pytest.raises(Ambiguous, match=r"2 agents are called coder: give the whole id \("):
        sessions_of("coder", (*LIVE, BOB))
    assert sessions_of(agent("coder", "there.example"), (*LIVE, BOB)).sessions == (BOB,)


def test_an_agent_called_like_a_session_is_ambiguous() -> None:
    other = session("0199dddd-0000-7000-8000-000000000004", agent(IDS[0][:8]))
    with pytest.raises(Ambiguous, match="names an agent .* and a session"):
        sessions_of(IDS[0][:8], (*LIVE, other))
    assert sessions_of(agent(IDS[0][:8]), (*LIVE, other)).sessions == (other,)

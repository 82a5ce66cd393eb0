# SPDX-License-Identifier: Apache-2.0
"""Drafts, sessions and plans for tests of the audit log."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import strategies as st

from monitor.audit.record import Draft
from monitor.identity.chain import Chain, Link, Principal
from monitor.policy.action import Mechanism, Origin, Verb, Verdict
from monitor.policy.plan import EnvironmentPlan, Limits, Plan, Policy, SyscallPlan
from monitor.session.session import Session

AGENT = "spiffe://test.example/agent/coder"
RULE = Origin("coder", "files.read", "/usr/**", "coder.yaml", 7)


def draft(**changes: Any) -> Draft:
    """A draft of an ordinary open."""
    fields: dict[str, Any] = {
        "time": 1_790_000_000.25,
        "session": "0197f0a0-1111-7222-8333-444455556666",
        "agent": AGENT,
        "chain": ("user:alice", AGENT),
        "pid": 4711,
        "exe": "/usr/bin/cat",
        "verb": Verb.FILE_OPEN,
        "object": "/usr/lib/os-release",
        "verdict": Verdict.ALLOW,
        "reason": "files.read lists it",
        "rule": str(RULE),
        "mechanism": Mechanism.LANDLOCK,
        "count": 1,
        "details": {},
    }
    return Draft(**(fields | changes))


# Names as the kernel gives them: any bytes, as Python holds them.
names = st.binary(max_size=40).map(os.fsdecode) | st.text(max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | names,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
drafts = st.builds(
    Draft,
    time=st.floats(min_value=0, max_value=4e9),
    session=st.sampled_from(["", "0197f0a0-1111-7222-8333-444455556666", "another"]),
    agent=st.sampled_from(["", AGENT]),
    chain=st.lists(names, max_size=3).map(tuple),
    pid=st.integers(0, 2**22),
    exe=names,
    verb=st.sampled_from(Verb),
    object=names,
    verdict=st.sampled_from(Verdict),
    reason=names,
    rule=names,
    mechanism=st.sampled_from(Mechanism),
    count=st.integers(1, 2**40),
    details=st.dictionaries(st.text(max_size=8), json_values, max_size=4),
)


def policy(**changes: Any) -> Policy:
    fields: dict[str, Any] = {
        "profile": "coder",
        "digest": "0" * 32,
        "files": (),
        "masks": (),
        "connect": (),
        "bind": (),
        "unix": (),
        "sockets": (),
        "rules": (RULE, Origin("coder", "network.deny", "any:25", "coder.yaml", 20)),
    }
    return Policy(**(fields | changes))


def plan(**changes: Any) -> Plan:
    fields: dict[str, Any] = {
        "policies": (policy(),),
        "syscalls": SyscallPlan((), 470),
        "view": None,
        "environment": EnvironmentPlan((), ()),
        "limits": Limits(),
        "workspace": "/home/alice/project",
        "home": "/home/alice",
    }
    return Plan(**(fields | changes))


def session(**changes: Any) -> Session:
    """A session of one link, in cgroup 77, whose policy the kernel knows as 5."""
    link = Link("user:alice", AGENT, "coder", "0" * 32, "fix the build", 1_790_003_600.0)
    fields: dict[str, Any] = {
        "id": "0197f0a0-1111-7222-8333-444455556666",
        "agent": AGENT,
        "chain": Chain(Principal("alice", 1000), (link,)),
        "user": "alice",
        "uid": 1000,
        "gid": 1000,
        "profile": "coder",
        "digest": "0" * 32,
        "purpose": "fix the build",
        "workspace": "/home/alice/project",
        "created": 1_790_000_000.0,
        "expires": 1_790_003_600.0,
        "expires_boottime": 0,
        "cgroup": "/sys/fs/cgroup/ri/x",
        "cgroup_id": 77,
        "policies": (5,),
        "plan": plan(),
        "launcher": 1,
        "launcher_start": 1,
    }
    return Session(**(fields | changes))

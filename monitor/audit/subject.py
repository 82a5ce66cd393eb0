# SPDX-License-Identifier: Apache-2.0
"""The session behind events: what its records share, its processes' programs, its decisions."""

from __future__ import annotations

import fnmatch
import ipaddress
import posixpath
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from monitor.policy.action import (
    Action,
    Decision,
    ExecAction,
    FileAction,
    Mechanism,
    NetAction,
    Origin,
    UnixAction,
    Verb,
    Verdict,
)
from monitor.policy.patterns import pattern
from monitor.policy.plan import Label, Plan, Policy
from monitor.session.session import Session

# Decisions remembered over all sessions; programs of processes in each, and of those that ended.
_DECISIONS = 4096
_PROCESSES = 16384
_ENDED = 1024
# Stands for the names that no rule means itself; no file can have it.
_ANY_NAME = "\0"


class Finding(NamedTuple):
    """What an event comes to: the part of a record that its kind decides."""

    verb: Verb
    object: str
    verdict: Verdict
    reason: str
    rule: str
    mechanism: Mechanism
    details: dict[str, Any]


class Subject:
    """One session, or (`session` None) a cgroup that none is known for."""

    def __init__(
        self,
        cgroup: int,
        session: Session | None,
        resolve: Callable[[str], str],
        name: Callable[[int, str], str] | None = None,
    ) -> None:
        self.cgroup = cgroup
        self._name = name
        self.id = session.id if session else ""
        self.agent = session.agent if session else ""
        self.chain = session.chain.names() if session else ()
        self.plan: Plan | None = session.plan if session else None
        self.observe = self.plan is not None and self.plan.observe
        self._links = {
            number: link for link, number in enumerate(session.policies if session else ())
        }
        every = (
            (link, label)
            for link, policy in enumerate(self.plan.policies if self.plan else ())
            for label in policy.labels
        )
        self._labels = dict(zip(session.labels if session else (), every, strict=False))
        self._plan_is = _numbers(session) if session else ()
        self._programs: dict[int, str] = {}
        self._ended: dict[int, str] = {}
        self._resolve = resolve
        self._special = _special(self.plan.policies if self.plan else ())

    def is_of(self, session: Session) -> bool:
        """Whether this is `session` under the plan that it has now."""
        return self.id == session.id and self._plan_is == _numbers(session)

    def go_on_from(self, before: Subject) -> None:
        """Take over the processes that were known before a change of plan."""
        self._programs, self._ended = before._programs, before._ended

    def name(self, address: str) -> str:
        """The name that the session looked `address` up by; "": none that is known."""
        return self._name(self.cgroup, address) if self._name else ""

    @property
    def stranger(self) -> str:
        """The reason in records of a cgroup without a session."""
        return f"no session is known for cgroup {self.cgroup}"

    # -- processes -----------------------------------------------------------------------------

    def program(self, pid: int) -> str:
        """The file that process `pid` runs or ran at its end, "" where it is not known."""
        return self._programs.get(pid) or self._ended.get(pid, "")

    def runs(self, pid: int, program: str) -> None:
        self._ended.pop(pid, None)
        _put(self._programs, pid, program, _PROCESSES)

    def gone(self, pid: int) -> None:
        """It has ended; counts of what it did may still come."""
        program = self._programs.pop(pid, "")
        if program:
            _put(self._ended, pid, program, _ENDED)

    def has(self, pid: int) -> bool:
        """Whether process `pid` was seen in this session and has not ended."""
        return pid in self._programs

    # -- decisions -----------------------------------------------------------------------------

    def link_of(self, policy: int) -> int | None:
        """The link of the chain that the kernel knows as `policy`."""
        return self._links.get(policy)

    def label_of(self, policy: int) -> tuple[int | None, Label | None]:
        """The label that the kernel knows as `policy`, and the link that it is of."""
        return self._labels.get(policy, (None, None))

    def rule_of(self, link: int | None, index: int, label: Label | None = None) -> Origin | None:
        """The rule that the kernel names by an index, and by a link or a label of it."""
        if self.plan is None or link is None or link >= len(self.plan.policies):
            return None
        policy = self.plan.policies[link] if label is None else label.policy
        rules = policy.rules if policy is not None else ()
        return rules[index] if 0 <= index < len(rules) else None

    def is_special(self, path: str, name: str) -> bool:
        """Whether a rule may mean this very name, and not only a folder above it."""
        paths, names = self._special
        return path in paths or names(name) is not None

    def normal(self, path: str) -> str:
        """A path that a program passed, without `..` and links, as far as that can be known."""
        path = posixpath.normpath(path)
        # POSIX lets two leading slashes mean something else; Linux does not.
        path = path[1:] if path.startswith("//") else path
        try:
            return self._resolve(path)
        except (ValueError, OSError):
            return path


def _numbers(session: Session) -> tuple[int, ...]:
    """The kernel's numbers of its plan: another plan has others."""
    return session.policies + session.labels


def _put(programs: dict[int, str], pid: int, program: str, most: int) -> None:
    if len(programs) >= most:
        del programs[next(iter(programs))]
    programs[pid] = program


def _special(
    policies: Sequence[Policy],
) -> tuple[frozenset[str], Callable[[str], re.Match[str] | None]]:
    """The paths of all rules, and what matches every last name of a mask."""
    paths = frozenset(rule.path for policy in policies for rule in policy.files)
    masks = [pattern(mask.pattern).names for policy in policies for mask in policy.masks]
    last = {fnmatch.translate(names[-1] if names else "*") for names in masks}
    return paths, re.compile("|".join(last) if last else "(?!)").match


def on_open(subject: Subject, verb: Verb, path: str) -> Decision | None:
    """`on_file` of an open that succeeded, quick for one of many files in a folder.

    What allows a name that no rule means itself allows all such names in its folder.
    """
    folder, _slash, name = path.rpartition("/")
    if folder and not subject.is_special(path, name):
        decision = on_file(subject, verb, f"{folder}/{_ANY_NAME}", "")
        if decision is not None and decision.verdict is Verdict.ALLOW:
            return decision
    return on_file(subject, verb, path, "")


@lru_cache(_DECISIONS)
def on_file(subject: Subject, verb: Verb, path: str, target: str) -> Decision | None:
    """The reference decision on a path; None: nobody can say, since the path is not whole."""
    if subject.plan is None or not path.startswith("/"):
        return None
    if verb is Verb.PROC_EXEC:
        return _decide(subject.plan, ExecAction(path))
    return _decide(subject.plan, FileAction(verb, path, target or None))


@lru_cache(_DECISIONS)
def on_address(
    subject: Subject, verb: Verb, address: str, port: int, protocol: int
) -> Decision | None:
    if subject.plan is None:
        return None
    where = ipaddress.ip_address(address)
    return _decide(subject.plan, NetAction(verb, where, port, protocol))


@lru_cache(_DECISIONS)
def on_unix(subject: Subject, name: str) -> Decision | None:
    return None if subject.plan is None else _decide(subject.plan, UnixAction(name))


def on(subject: Subject, action: Action) -> Decision | None:
    """The same for rarer actions, not remembered."""
    return None if subject.plan is None else _decide(subject.plan, action)


def _decide(plan: Plan, action: Action) -> Decision:
    # Here: pydantic comes with it, and a restarted daemon must be ready sooner than that.
    from monitor.policy.decide import decide

    return decide(plan, action)


def because(decision: Decision) -> dict[str, Any]:
    """The details that tell of a refusal where to look and what would change it."""
    details: dict[str, Any] = {}
    if decision.link is not None:
        details["link"] = decision.link
    if decision.remedy:
        details["remedy"] = decision.remedy
    return details


def text_of(rule: Origin | None) -> str:
    return "" if rule is None else str(rule)

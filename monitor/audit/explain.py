# SPDX-License-Identifier: Apache-2.0
"""Why a record says what it says: the chain, the rule, the facts, the mechanism, the remedy."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monitor.audit.record import Record, printable, timestamp
from monitor.policy.action import Mechanism, Verb, Verdict
from monitor.session.session import Session

WIDTH = 80
# What is longer is cut in the text; it is whole in the record.
LONGEST_VALUE = 600
MECHANISMS = {
    Mechanism.SECCOMP: "the seccomp filter, which CMD took before it started and cannot lift",
    Mechanism.LANDLOCK: "Landlock, which CMD took before it started and cannot lift; it decides on"
    " the object itself",
    Mechanism.VIEW: "the session's private mount namespace, in which this object is masked",
    Mechanism.CGROUP_BPF: "a BPF program on the session's cgroup, which decides in the kernel on"
    " the address as the kernel holds it",
    Mechanism.LSM: "a BPF program on a security hook, which decides in the kernel on the object"
    " itself, whatever it is called",
    Mechanism.NFTABLES: "the session's packet rules in the kernel's nftables",
    Mechanism.PIDS: "the pids controller of the session's cgroup",
    Mechanism.GATE: "the gate: the call did not return before ri-monitord had decided on it",
    Mechanism.FANOTIFY: "a permission event on the file: the open did not return before it was"
    " decided on",
    Mechanism.TICKET: "a BPF program at the program's start: it was not the one that was decided"
    " on, and was killed before its first instruction",
    Mechanism.BUDGET: "a count of what was used, kept in the kernel where the kernel refuses it",
    Mechanism.RESOLVER: "the daemon's resolver, which what a session asks name servers is led to",
    Mechanism.DAEMON: "ri-monitord itself",
    Mechanism.HOST: "the host's own permissions or state, and nothing of ours",
    Mechanism.NONE: "nothing stood in the way",
}
_OUTCOMES = {
    Verdict.ALLOW: "allowed",
    Verdict.DENY: "refused",
    Verdict.ASK: "held until a person answers",
    Verdict.KILL: "ended with the process",
    Verdict.WOULD_DENY: "let pass, since the session is only observed; it would be refused",
}
# Details that are told elsewhere than among the facts.
_TOLD = frozenset({"remedy", "link", "claimed", "number", "arguments"})
# Those that a program chooses itself.
_SAID_BY_THE_PROGRAM = frozenset({"comm"})
_OF_THE_DAEMON = (Verb.SESSION_LAUNCH, Verb.SESSION_END, Verb.SESSION_STATE, Verb.SESSION_LOST)


@dataclass(frozen=True, slots=True)
class Delegation:
    """One link; `profile` and what follows are "" or None where the session is not known."""

    delegator: str
    delegate: str
    profile: str
    purpose: str
    expires: str | None  # RFC 3339; None: with the session


@dataclass(frozen=True, slots=True)
class Fact:
    """`source`: "kernel", "claimed" by the program, or "daemon"."""

    name: str
    value: str
    source: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that is known of a decision. `refused_by` is the profile of the link that decided."""

    id: int
    time: str
    session: str
    action: str
    verdict: str
    outcome: str
    reason: str
    rule: str
    refused_by: str
    mechanism: str
    mechanism_is: str
    remedy: str
    chain: tuple[Delegation, ...]
    facts: tuple[Fact, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, in this order."""
        data = asdict(self)
        data["chain"] = list(data["chain"])
        data["facts"] = list(data["facts"])
        return data


def explain(record: Record, session: Session | None) -> Explanation:
    """The explanation of `record`; `session` None: it is not kept any more, or there was none."""
    return Explanation(
        id=record.id,
        time=timestamp(record.time),
        session=record.session,
        action=f"{record.verb.value} {record.object}",
        verdict=record.verdict.value,
        outcome=_OUTCOMES[record.verdict],
        reason=record.reason,
        rule=record.rule,
        refused_by=_refused_by(record, session),
        mechanism=record.mechanism.value,
        mechanism_is=MECHANISMS[record.mechanism],
        remedy=_remedy(record),
        chain=tuple(_chain(record, session)),
        facts=tuple(_facts(record)),
    )


def _refused_by(record: Record, session: Session | None) -> str:
    link = record.details.get("link")
    if session is None or type(link) is not int or not 0 <= link < len(session.plan.policies):
        return ""
    return session.plan.policies[link].profile


def _remedy(record: Record) -> str:
    if record.verdict is Verdict.ALLOW:
        return ""
    if remedy := record.details.get("remedy"):
        return str(remedy)
    match record.mechanism:
        case Mechanism.HOST:
            return "none in a profile: an agent never has more than the user it runs as"
        case Mechanism.SECCOMP:
            return "none: the floor refuses this to every agent"
        case Mechanism.LANDLOCK if record.verb is Verb.PROC_SIGNAL:
            return "none: no profile lets an agent signal processes outside its session"
        case Mechanism.CGROUP_BPF if not record.rule:
            return "none in a profile: start a new session"
        case _:
            return "none is known"


def _chain(record: Record, session: Session | None) -> Iterator[Delegation]:
    if session is not None and session.chain.names() == record.chain:
        for link in session.chain.links:
            expires = None if link.expires is None else timestamp(link.expires)
            yield Delegation(link.delegator, link.delegate, link.profile, link.purpose, expires)
        return
    for delegator, delegate in zip(record.chain, record.chain[1:], strict=False):
        yield Delegation(delegator, delegate, "", "", None)


def _facts(record: Record) -> Iterator[Fact]:
    ours = "daemon" if record.mechanism is Mechanism.DAEMON else "kernel"
    claimed = bool(record.details.get("claimed"))
    yield Fact("object", record.object, "claimed" if claimed else ours)
    if record.pid:
        yield Fact("pid", str(record.pid), "kernel")
    if record.exe:
        yield Fact("exe", record.exe, "kernel")
    if record.count > 1:
        yield Fact("count", str(record.count), "kernel")
    for name, value in record.details.items():
        if name not in _TOLD and not (name == "pid" and value == record.pid):
            source = "claimed" if name in _SAID_BY_THE_PROGRAM else ours
            shown = shlex.join(map(str, value)) if name == "argv" else _value(value)
            yield Fact(name, shown, source)


def _value(value: Any) -> str:
    match value:
        case list():
            return ("; " if any(isinstance(each, dict) for each in value) else " ").join(
                map(_value, value)
            )
        case dict():
            return ", ".join(f"{name} {_value(each)}" for name, each in value.items())
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
    return str(value)


def text(explanation: Explanation) -> str:
    """For a person: plain lines of at most 80 columns, where words are not longer than that."""
    by = explanation.mechanism_is
    if explanation.mechanism != Mechanism.NONE.value:
        by = f"{explanation.mechanism}: {by}"
    told = (
        (f"record {explanation.id}", f"{explanation.time}  {explanation.session}"),
        ("action", explanation.action),
        ("verdict", f"{explanation.verdict}: {explanation.outcome}"),
        ("reason", explanation.reason),
        ("rule", explanation.rule or "none"),
        ("profile", explanation.refused_by),
        ("by", by),
        ("remedy", explanation.remedy),
    )
    lines = list(_table([(name, value) for name, value in told if value]))
    lines += ["", "who delegated what to whom:"]
    lines += [line for link in explanation.chain for line in _link(link)] or [
        "  nobody: no session"
    ]
    lines += ["", "facts (! = claimed by the program, not checked):"]
    lines += _table(
        [
            (
                f"{'!' if fact.source == 'claimed' else ' '} {fact.name.replace('_', ' ')}",
                fact.value,
            )
            for fact in explanation.facts
        ]
    )
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Names on the left, as wide as the widest, and values on the right."""
    width = max(len(name) for name, _value in rows) + 2
    for name, value in rows:
        yield from _wrapped(f"{name:<{width}}{_cut(value) or '-'}", " " * width)


def _cut(value: str) -> str:
    if len(value) <= LONGEST_VALUE:
        return value
    return f"{value[:LONGEST_VALUE]} … ({len(value)} characters)"


def _link(link: Delegation) -> Iterator[str]:
    yield from _wrapped(f"  {link.delegator} -> {link.delegate}", "      ")
    if link.profile:
        expires = f"until {link.expires}" if link.expires else "until the session ends"
        yield from _wrapped(f"      profile {link.profile}, {expires}", "      ")
    if link.purpose:
        yield from _wrapped(f"      purpose (as stated): {link.purpose}", "      ")


def _wrapped(line: str, indent: str) -> list[str]:
    """Long words, paths above all, stay whole so that they can be copied."""
    return textwrap.wrap(
        printable(line),
        WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [line]

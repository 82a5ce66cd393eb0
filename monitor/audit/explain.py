# SPDX-License-Identifier: Apache-2.0
"""Why a record says what it says: the chain, the rule, the facts, the mechanism, the remedy."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from monitor.audit.record import Record, printable, timestamp
from monitor.policy.action import Mechanism, Verb, Verdict
from monitor.session.session import Session

WIDTH = 80
MECHANISMS = {
    Mechanism.SECCOMP: "the seccomp filter, which CMD took before it started and cannot lift",
    Mechanism.LANDLOCK: "Landlock, which CMD took before it started and cannot lift; it decides on"
    " the object itself, whatever name is used",
    Mechanism.VIEW: "the session's private mount namespace, in which this object is masked",
    Mechanism.CGROUP_BPF: "a BPF program on the session's cgroup, which decides in the kernel on"
    " the address as the kernel holds it",
    Mechanism.PIDS: "the pids controller of the session's cgroup",
    Mechanism.DAEMON: "ri-monitord itself",
    Mechanism.HOST: "none of ours: the host's own permissions or state",
    Mechanism.NONE: "none: nothing stood in the way",
}
_OUTCOMES = {
    Verdict.ALLOW: "allowed",
    Verdict.DENY: "refused",
    Verdict.ASK: "held until a person answers",
    Verdict.KILL: "ended with the process",
    Verdict.WOULD_DENY: "let pass, since the session is only observed; it would be refused",
}
# Details that are told elsewhere than among the facts.
_TOLD = frozenset({"remedy", "link", "claimed"})
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
        if name not in _TOLD:
            source = "claimed" if name in _SAID_BY_THE_PROGRAM else ours
            yield Fact(name, _value(value), source)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_value, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def text(explanation: Explanation) -> str:
    """For a person: plain lines of at most 80 columns, where words are not longer than that."""
    lines = [
        *_paragraph(f"record {explanation.id}", explanation.time, explanation.session),
        *_paragraph("action", explanation.action),
        *_paragraph("verdict", f"{explanation.verdict}: {explanation.outcome}"),
        *_paragraph("reason", explanation.reason),
        *_paragraph("rule", explanation.rule or "none"),
    ]
    if explanation.refused_by:
        lines += _paragraph("profile", explanation.refused_by)
    lines += _paragraph("by", f"{explanation.mechanism}: {explanation.mechanism_is}")
    if explanation.remedy:
        lines += _paragraph("remedy", explanation.remedy)
    lines += ["", "who delegated what to whom:"]
    lines += [line for link in explanation.chain for line in _link(link)] or [
        "  nobody: no session"
    ]
    lines += ["", "facts (! = claimed by the program, not checked):"]
    for fact in explanation.facts:
        mark = "!" if fact.source == "claimed" else " "
        lines += _paragraph(f"{mark} {fact.name}", fact.value)
    return "\n".join(lines) + "\n"


def _link(link: Delegation) -> Iterator[str]:
    yield from _wrapped(f"  {link.delegator} -> {link.delegate}", "      ")
    if link.profile:
        expires = f"until {link.expires}" if link.expires else "until the session ends"
        yield from _wrapped(f"      profile {link.profile}, {expires}", "      ")
    if link.purpose:
        yield from _wrapped(f"      purpose (as stated): {link.purpose}", "      ")


def _paragraph(name: str, *values: str) -> list[str]:
    return _wrapped(f"{name:<10}  {'  '.join(filter(None, values))}", " " * 12)


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

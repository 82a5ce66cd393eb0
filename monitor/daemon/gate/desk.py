# SPDX-License-Identifier: Apache-2.0
"""The gate's way to the worker: asks that are to be answered, records, labels.

The worker may be dead at any moment; then this process ends with it, and the next gate decides
again on what still waits. A socket that is full makes nobody wait: messages queue up here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from monitor.daemon.gate.channel import Channel
from monitor.policy.action import Mechanism, Verb, Verdict


@dataclass(frozen=True, slots=True)
class Question:
    """What one link of a session asks about; the fields are those of session.asks.Wanted."""

    link: int
    verb: Verb
    object: str
    argv: tuple[str, ...]
    cwd: str
    rule: str
    why: str
    pid: int
    exe: str
    key: str

    def to_json(self) -> dict[str, Any]:
        names = ("link", "object", "cwd", "rule", "why", "pid", "exe", "key")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        return fields | {"verb": self.verb.value, "argv": list(self.argv)}


# Called once: whether every link was answered yes, and the reason in one line.
Answered = Callable[[bool, str], None]


@dataclass(slots=True)
class Held:
    """One action that waits; each of its links is asked, and one no is enough."""

    number: int
    answered: Answered
    open: set[int] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)


class Desk:
    """Asks, and takes answers; one for each gate."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._numbers = itertools.count(1)
        self._held: dict[int, Held] = {}

    # -- asks ----------------------------------------------------------------------------------

    def ask(
        self,
        session: str,
        questions: list[Question],
        answered: Answered,
        details: dict[str, Any] | None = None,
    ) -> int:
        """Hold an action of `session` until all questions are answered; a number for `gone`.

        `details` go with the first message, for what the worker has to do before the answer.
        """
        held = Held(next(self._numbers), answered, set(range(len(questions))))
        self._held[held.number] = held
        for index, question in enumerate(questions):
            self.channel.send(
                {
                    "say": "ask",
                    "number": held.number,
                    "index": index,
                    "session": session,
                    "wanted": question.to_json(),
                    "details": details or {},
                }
            )
        return held.number

    def gone(self, number: int) -> None:
        """Nothing waits for these answers any more; after an answer nothing happens."""
        if self._held.pop(number, None) is not None:
            self.channel.send({"say": "gone", "number": number})

    def take_answer(self, message: dict[str, Any]) -> None:
        """`{"do": "answer", "number", "index", "allow", "reason"}`."""
        held = self._held.get(message["number"])
        if held is None:
            return
        held.open.discard(message["index"])
        held.reasons.append(message["reason"])
        if message["allow"] and held.open:
            return
        del self._held[held.number]
        if held.open:  # the other links need not be asked any more
            self.channel.send({"say": "gone", "number": held.number})
        held.answered(message["allow"], "; ".join(held.reasons))

    @property
    def waiting(self) -> int:
        return len(self._held)

    # -- what is only told ---------------------------------------------------------------------

    def record(
        self,
        session: str,
        verb: Verb,
        object_: str,
        verdict: Verdict,
        reason: str,
        *,
        link: int | None = None,
        rule: str = "",
        mechanism: Mechanism = Mechanism.GATE,
        pid: int = 0,
        exe: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        """An entry for the audit log; a denial is told to the agent's user too."""
        self.channel.send(
            {
                "say": "record",
                "session": session,
                "verb": verb.value,
                "object": object_,
                "verdict": verdict.value,
                "reason": reason,
                "link": link,
                "rule": rule,
                "mechanism": mechanism.value,
                "pid": pid,
                "exe": exe,
                "details": details or {},
            }
        )

    def label(self, session: str, name: str, why: str, pid: int) -> None:
        """The session has earned a label; the kernel's row was written before."""
        self.channel.send(
            {"say": "label", "session": session, "name": name, "why": why, "pid": pid}
        )

    def over_budget(self, session: str, link: int, kind: str, reaction: str, why: str) -> None:
        """A budget is used up, and the profile says what follows ("freeze", "kill")."""
        self.channel.send(
            {
                "say": "budget",
                "session": session,
                "link": link,
                "kind": kind,
                "reaction": reaction,
                "why": why,
            }
        )

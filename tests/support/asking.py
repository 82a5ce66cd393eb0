# SPDX-License-Identifier: Apache-2.0
"""Asks without a daemon: what they have around them, and a gate that holds actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from monitor.audit.record import Draft
from monitor.daemon.asks.asks import Asks
from monitor.daemon.asks.reply import Reply
from monitor.daemon.config import Approver, Config
from monitor.policy.action import Verb, Verdict
from monitor.policy.plan import Approval
from monitor.session.asks import ONCE, Answer, Ask, How, Scope, Wanted
from monitor.session.registry import UnknownSession
from monitor.session.session import Session
from tests.support.audit import plan, session

SECOND = 1_000_000_000


def wanted(**changes: Any) -> Wanted:
    """`git push` that the profile's outermost link asks about."""
    given = Wanted(
        session="s1",
        link=0,
        verb=Verb.PROC_EXEC,
        object="/usr/bin/git",
        argv=("git", "push", "origin", "main"),
        cwd="/work",
        rule="exec.ask: git push (coder.yaml:7)",
        why="pushes are reviewed",
        pid=4711,
        exe="/usr/bin/bash",
        key="8:1:1234 git push origin main",
    )
    return replace(given, **changes)


class Gate:
    """One held action: what it was answered."""

    def __init__(self, want: Wanted | None = None) -> None:
        self.wanted = want or wanted()
        self.answers: list[Answer] = []
        self.ask: Ask | None = None

    def __call__(self, answer: Answer) -> None:
        self.answers.append(answer)

    @property
    def answer(self) -> Answer:
        (found,) = self.answers
        return found

    @property
    def held(self) -> bool:
        return not self.answers


class World:
    """Sessions, a clock, and what was recorded and told, around the Asks of one worker."""

    def __init__(self, state: Path, *approvers: Approver) -> None:
        self.sessions: dict[str, Session] = {}
        self.ended: dict[str, Session] = {}
        self.records: list[Draft] = []
        self.told: list[tuple[str, str]] = []
        self.config = Config(state=state, approvers=approvers, socket=state / "ri.sock")
        self.start("s1")
        self.context = SimpleNamespace(
            config=self.config,
            registry=SimpleNamespace(
                get=self._get,
                whole=lambda session: session,
                live=lambda: tuple(self.sessions.values()),
                ended=lambda reference="": tuple(
                    each for each in self.ended.values() if reference in each.id
                ),
            ),
            recording=SimpleNamespace(record=self.records.extend, faults=0),
            sessions=SimpleNamespace(notices=SimpleNamespace(asked=self._told)),
        )
        self.restart()

    def restart(self) -> None:
        """The worker was killed: nothing was closed, and the next one begins."""
        context: Any = self.context
        self.asks = self.context.asks = Asks(context)

    def start(self, identity: str, approval: Approval | None = None, **changes: Any) -> Session:
        """A session with these terms for asks."""
        held_to = replace(plan(), approval=approval or Approval())
        self.sessions[identity] = session(id=identity, plan=held_to, **changes)
        return self.sessions[identity]

    def end(self, identity: str) -> None:
        self.ended[identity] = self.sessions.pop(identity)

    def hold(self, **changes: Any) -> Gate:
        """An action that is held, or was answered at once."""
        gate = Gate(wanted(**changes))
        gate.ask = self.asks.raise_(gate.wanted, gate)
        return gate

    def approve(self, ask: Ask | None, scope: Scope = ONCE, why: str = "") -> Any:
        assert ask is not None
        return self.asks.answer(ask.id, Reply(True, scope, why), How.PERSON, "user:alice")

    def deny(self, ask: Ask | None, scope: Scope = ONCE, why: str = "") -> Any:
        assert ask is not None
        return self.asks.answer(ask.id, Reply(False, scope, why), How.PERSON, "user:bob")

    def recorded(self, verb: Verb, verdict: Verdict | None = None) -> list[Draft]:
        self.asks.telling.flush()
        return [
            each for each in self.records if each.verb is verb and verdict in (None, each.verdict)
        ]

    def _get(self, identity: str) -> Session:
        try:
            return self.sessions[identity]
        except KeyError:
            raise UnknownSession(identity) from None

    def _told(self, identity: str, text: str) -> None:
        self.told.append((identity, text))


class Clock:
    """CLOCK_BOOTTIME that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000 * SECOND

    def __call__(self) -> int:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

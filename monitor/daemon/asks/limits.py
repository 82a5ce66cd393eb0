# SPDX-License-Identifier: Apache-2.0
"""How many asks a session may raise within a minute, and how many were refused for it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from monitor.daemon.asks.outcomes import SECOND
from monitor.session.asks import Answer, Ask

MINUTE = 60 * SECOND


@dataclass(slots=True)
class _Refused:
    """What was refused since `since` and is not told yet; `ask` and `answer` are the first's."""

    since: int
    ask: Ask
    answer: Answer
    count: int = 0


class Limits:
    """The last minute of each session."""

    def __init__(self) -> None:
        self._raised: dict[str, deque[int]] = {}
        self._refused: dict[str, _Refused] = {}

    def problem(self, session: str, most: int, now: int) -> str:
        """Why a session may not ask once more; "": it may, and has."""
        recent = self._raised.setdefault(session, deque())
        while recent and now - recent[0] >= MINUTE:
            recent.popleft()
        if len(recent) >= most:
            return f"more than {most} asks within a minute"
        recent.append(now)
        return ""

    def refused(self, ask: Ask, answer: Answer, now: int) -> bool:
        """Count a refusal; whether it is the first, which is told at once."""
        found = self._refused.get(ask.wanted.session)
        if found is None:
            self._refused[ask.wanted.session] = _Refused(now, ask, answer)
            return True
        found.count += 1
        return False

    def forget(self, live: Collection[str], now: int) -> list[tuple[Ask, Answer, int]]:
        """Drop what is past; refusals that were counted and are to be told now."""
        for session in [each for each in self._raised if each not in live]:
            del self._raised[session]
        told = []
        for session, found in list(self._refused.items()):
            if session not in live or now - found.since >= MINUTE:
                del self._refused[session]
                if found.count:
                    told.append((found.ask, found.answer, found.count))
        return told

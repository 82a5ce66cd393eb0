# SPDX-License-Identifier: Apache-2.0
"""Answers that still count. The caller says what time it is. Nothing is given past its time."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from monitor.resolver.answers import Answer

MOST = 10_000

Key = tuple[str, int]  # canonical name, type


class Cache:
    """Up to `most` answers; the one that was not used for longest goes first."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: Key, answer: Answer, now: float) -> None:
        """Keep `answer` for its TTL; one of 0 is not kept, and takes away what was."""
        self._kept.pop(key, None)
        if answer.ttl <= 0 or self._most <= 0:
            return
        while len(self._kept) >= self._most:
            self._kept.popitem(last=False)
        self._kept[key] = (now + answer.ttl, answer)

    def get(self, key: Key, now: float) -> Answer | None:
        """The answer with what is left of its TTL, whole seconds; None: ask."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        end, answer = entry
        left = int(end - now)
        if left <= 0:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        # A clock that went back must not make it longer.
        return replace(answer, ttl=min(left, answer.ttl))

    def clear(self) -> None:
        self._kept.clear()

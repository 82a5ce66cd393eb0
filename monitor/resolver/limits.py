# SPDX-License-Identifier: Apache-2.0
"""How much a session may ask, so that questions do not become a way out. The caller has the clock.

What leaves the host in a question is its name. A name that a link spells out says nothing that the
link's author did not; in one that wildcards match, the asking program chooses bytes. Those are
counted, once for each different name.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one session: questions a second (on average, and at once), and chosen bytes in all."""

    per_second: float = 200.0
    at_once: int = 400
    label_bytes: int = 65536
    waiting: int = 128  # questions that wait for upstream


@dataclass(slots=True)
class Meter:
    """What one session used of its limits."""

    limits: Limits
    spent: int = 0
    waiting: int = 0
    _left: float = field(init=False)
    _at: float | None = None
    _said: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._left = float(self.limits.at_once)

    def question(self, now: float) -> bool:
        """One more question; False: too many."""
        if self._at is not None:
            refill = max(0.0, now - self._at) * self.limits.per_second
            self._left = min(float(self.limits.at_once), self._left + refill)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def say(self, name: str, free: int) -> bool:
        """`name` is to leave the host, `free` bytes of it chosen; False: that would be too much."""
        if free == 0 or name in self._said:
            return True
        if self.spent + free > self.limits.label_bytes:
            return False
        self.spent += free
        self._said.add(name)
        return True


class Repeats:
    """What floods is recorded once a second, with how many times it happened."""

    def __init__(self, seconds: float = 1.0, most: int = 4096) -> None:
        self._seconds = seconds
        self._most = most
        self._kept: dict[object, tuple[float, int]] = {}

    def times(self, key: object, now: float) -> int:
        """How many times to record; 0: it was recorded just now, and is counted."""
        begin, more = self._kept.get(key, (None, 0))
        if begin is not None and begin <= now < begin + self._seconds:
            self._kept[key] = (begin, more + 1)
            return 0
        self._kept.pop(key, None)
        if len(self._kept) >= self._most:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (now, 0)
        return 1 + more

    def left(self, key: object) -> int:
        """What was counted and not recorded; forgets `key`."""
        return self._kept.pop(key, (0.0, 0))[1]

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

# SPDX-License-Identifier: Apache-2.0
"""Changes between two plans: what each does to what may be done, and how people read them.

A rule that allows adds; one that denies, holds or limits takes away. What may do both (a connection
that is asked about is more than one denied, and less than one allowed) changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Effect(Enum):
    """What a change does to what may be done."""

    ADDS = "adds"
    TAKES = "takes away"
    CHANGES = "changes"


SIGNS = {Effect.ADDS: "+", Effect.TAKES: "-", Effect.CHANGES: "~"}


@dataclass(frozen=True, slots=True)
class Change:
    """One rule that is another. `live` False: it counts for sessions that start from now on only.

    `profile` is "" for what is no single profile's. `came`: the rule is new, False: it is gone;
    None: it has another value.
    """

    effect: Effect
    profile: str
    section: str
    rule: str
    live: bool = True
    came: bool | None = None

    def __str__(self) -> str:
        notes = []
        plain = Effect.ADDS if self.came else Effect.TAKES
        if self.came is not None and self.effect is not plain:
            notes.append("a new rule" if self.came else "the rule is gone")
        if not self.live:
            notes.append("new sessions only")
        more = f" ({', '.join(notes)})" if notes else ""
        return f"{SIGNS[self.effect]} {self.section}: {self.rule}{more}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "effect": self.effect.value,
            "profile": self.profile,
            "section": self.section,
            "rule": self.rule,
            "live": self.live,
            "came": self.came,
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """All changes from one plan to another, policies first, in the order of the new one."""

    changes: tuple[Change, ...] = ()

    @property
    def widens(self) -> bool:
        """Whether anything may be more than before."""
        return any(each.effect is not Effect.TAKES for each in self.changes)

    def lines(self) -> Iterator[str]:
        """What a person reads; a line for each profile, and one for each change."""
        profile = None
        for change in self.changes:
            if change.profile != profile:
                profile = change.profile
                yield f"profile {profile}" if profile else "session"
            yield f"  {change}"

    def to_dict(self) -> list[dict[str, Any]]:
        return [each.to_dict() for each in self.changes]


# Rules by section and meaning: what a person reads of each.
Rules = Mapping[tuple[str, str], str]
Live = Callable[[Effect, str], bool]


def sets(
    profile: str, old: Rules, new: Rules, more: Effect, live: Live = lambda _effect, _text: True
) -> Iterator[Change]:
    """Changes between rules by (section, what they mean); a rule more has the effect `more`."""
    less = {Effect.ADDS: Effect.TAKES, Effect.TAKES: Effect.ADDS}.get(more, more)
    for effect, here, there in ((more, new, old), (less, old, new)):
        for (section, meaning), text in here.items():
            if (section, meaning) not in there:
                yield Change(effect, profile, section, text, live(effect, meaning), here is new)


def number(
    profile: str, section: str, old: float | None, new: float | None, *, narrows_only: bool = False
) -> Iterator[Change]:
    """A limit, lower is narrower; None is no limit."""
    if old == new:
        return
    lower = new is not None and (old is None or new < old)
    effect = Effect.TAKES if lower else Effect.ADDS
    yield Change(
        effect, profile, section, f"{limit(old)} -> {limit(new)}", lower or not narrows_only
    )


def limit(value: float | None) -> str:
    if value is None:
        return "not limited"
    return f"{value:g}" if isinstance(value, float) else str(value)


def ordered(section: str, old: Enum, new: Enum, order: Sequence[Any]) -> Iterator[Change]:
    """A choice; those later in `order` are stricter."""
    if old is not new:
        effect = Effect.TAKES if order.index(new) > order.index(old) else Effect.ADDS
        yield Change(effect, "", section, f"{old.value} -> {new.value}")


def named(section: str, texts: Iterable[str]) -> Rules:
    return {(section, text): text for text in texts}

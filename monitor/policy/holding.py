# SPDX-License-Identifier: Apache-2.0
"""Whether a plan's conditions hold, given the time and the host's figures; and until when."""

from __future__ import annotations

from dataclasses import dataclass

from monitor.policy import windows
from monitor.policy.plan import Conditions, Reaction, Reactions
from monitor.policy.windows import UnknownZone


@dataclass(frozen=True, slots=True)
class Figures:
    """The host at one moment: its load average over a minute, and bytes that are available."""

    load: float
    memory: int


@dataclass(frozen=True, slots=True)
class Holding:
    """`reason` is "" while all hold; `until` the moment (Unix seconds) when a window closes.

    `host`: the reason is one of the host's figures, which go up and down.
    """

    reason: str = ""
    until: float | None = None
    host: bool = False


def holding(conditions: Conditions, now: float, figures: Figures) -> Holding:
    """Whether all that is required holds at `now`. What cannot be told does not."""
    try:
        opening = windows.all_open(conditions.windows, now)
        closed = [group for group in conditions.windows if not windows.opening(group, now).open]
    except (UnknownZone, OverflowError, ValueError, OSError) as error:
        return Holding(f"conditions.time: {error}")
    if not opening.open:
        allowed = " and ".join(" or ".join(map(windows.text, group)) for group in closed)
        return Holding(f"conditions.time: it may act {allowed or 'never'}")
    if conditions.load is not None and figures.load >= conditions.load:
        return Holding(
            f"conditions.load_below: {conditions.load:g}, and the host's load is"
            f" {figures.load:.2f}",
            opening.until,
            host=True,
        )
    if conditions.memory is not None and figures.memory < conditions.memory:
        return Holding(
            f"conditions.memory_available: {conditions.memory} bytes, and the host has"
            f" {figures.memory}",
            opening.until,
            host=True,
        )
    return Holding(until=opening.until)


def risk_reaction(reactions: Reactions, score: int) -> Reaction:
    """What follows from a risk score: the strictest of the steps up to it."""
    reached = [step.then for step in reactions.risk if step.least <= score]
    return max(reached, key=list(Reaction).index, default=Reaction.NOTHING)

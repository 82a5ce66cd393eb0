# SPDX-License-Identifier: Apache-2.0
"""From `conditions`, `signals` and what is said of asks to a Plan: the strictest counts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from monitor.policy.action import Verdict
from monitor.policy.plan import (
    Approval,
    Conditions,
    Reaction,
    Reactions,
    RiskStep,
    TimeWindow,
)
from monitor.profile import durations
from monitor.profile.model import (
    LimitsSection,
    NetworkSection,
    Profile,
    SignalsSection,
)
from monitor.profile.model import TimeWindow as WrittenWindow

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ORDER = list(Reaction)
HOUR_MINUTES = 60


def conditions(profiles: Iterable[Profile]) -> Conditions:
    """What must hold: everything that any of the profiles asks for."""
    sections = [profile.conditions for profile in profiles if profile.conditions is not None]
    return Conditions(
        windows=tuple(
            tuple(_window(each) for each in section.time) for section in sections if section.time
        ),
        load=_least(float(each.load_below) for each in sections if each.load_below is not None),
        memory=max(
            (
                durations.octets(each.memory_available)
                for each in sections
                if each.memory_available is not None
            ),
            default=None,
        ),
        otherwise=_strictest([Reaction(each.otherwise) for each in sections], Reaction.DENY),
    )


def _window(written: WrittenWindow) -> TimeWindow:
    return TimeWindow(
        days=tuple(sorted({_DAYS.index(day) for day in written.days})),
        start=_minutes(written.start),
        until=_minutes(written.until),
        zone=written.zone,
    )


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * HOUR_MINUTES + int(minutes)


def reactions(profiles: Iterable[Profile]) -> Reactions:
    """What signals do: for each the strictest answer of any profile."""
    sections = [profile.signals or SignalsSection() for profile in profiles]
    # A profile that says nothing of a score leaves it to the others.
    steps: dict[int, Reaction] = {}
    for section in sections:
        for rule in section.risk_score:
            then = Reaction(rule.then)
            steps[rule.at] = _strictest([then], steps.get(rule.at, then))
    return Reactions(
        revoked=_strictest([Reaction(each.session_revoked) for each in sections], Reaction.NOTHING),
        assurance=_strictest(
            [Reaction(each.assurance_level_change) for each in sections], Reaction.NOTHING
        ),
        risk=_rising(steps),
    )


def _rising(steps: dict[int, Reaction]) -> tuple[RiskStep, ...]:
    """By score; a higher one is never answered more mildly."""
    found: list[RiskStep] = []
    strictest = Reaction.NOTHING
    for least in sorted(steps):
        strictest = _strictest([steps[least]], strictest)
        found.append(RiskStep(least, strictest))
    return tuple(found)


def approval(profiles: Sequence[Profile]) -> Approval:
    """How asks are treated; nobody to ask means no, unless every profile that asks says yes.

    One that asks and does not say how long or how often means the usual.
    """
    asking = [profile for profile in profiles if asks(profile)]
    yes = bool(asking) and all(profile.ask_fallback == "allow" for profile in asking)
    standard = Approval()
    timeouts: list[int] = []
    rates: list[int] = []
    for profile in profiles:
        limits = profile.limits or LimitsSection()
        if limits.ask_timeout is not None:
            timeouts.append(durations.seconds(limits.ask_timeout))
        elif asks(profile):
            timeouts.append(standard.timeout)
        if limits.asks_per_minute is not None:
            rates.append(limits.asks_per_minute)
        elif asks(profile):
            rates.append(standard.per_minute)
    return Approval(
        timeout=min(timeouts, default=standard.timeout),
        fallback=Verdict.ALLOW if yes else Verdict.DENY,
        per_minute=min(rates, default=standard.per_minute),
    )


def asks(profile: Profile) -> bool:
    """Whether anything in this profile may be asked about."""
    network = profile.network or NetworkSection()
    return bool(
        network.ask
        or (profile.files and profile.files.ask)
        or (profile.exec and profile.exec.ask)
        or any(
            label.then.ask or (label.then.exec and label.then.exec.ask)
            for label in profile.labels.values()
        )
        or (profile.limits and profile.limits.on_budget == "ask")
    )


def on_budget(profiles: Iterable[Profile]) -> Reaction:
    """What follows when any budget of any profile is used up."""
    limits = [profile.limits for profile in profiles if profile.limits is not None]
    counting = [
        each
        for each in limits
        if any(
            value is not None
            for value in (
                each.connects_per_minute,
                each.destinations,
                each.egress_bytes,
                each.execs_per_minute,
                each.deletes_per_minute,
            )
        )
    ]
    found = [Reaction(each.on_budget or "deny") for each in counting]
    return max(found, key=_ORDER.index, default=Reaction.DENY)


def _strictest(found: Iterable[Reaction], least: Reaction) -> Reaction:
    return max((*found, least), key=_ORDER.index)


def _least(values: Iterable[float]) -> float | None:
    return min(values, default=None)

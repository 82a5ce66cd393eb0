# SPDX-License-Identifier: Apache-2.0
"""Which variables of the caller's environment CMD keeps, and what the profiles set."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from monitor.policy.plan import EnvironmentPlan, NameFilter
from monitor.profile.model import EnvironmentSection, Profile
from monitor.profile.variables import Variables, expand


def environment_plan(profiles: Sequence[Profile], variables: Variables) -> EnvironmentPlan:
    """The plan of a conjunction, outermost first: a name stays where every profile keeps it.

    Of values that several set, the outermost counts; what an outer profile scrubs stays away.
    """
    filters: list[NameFilter] = []
    values: dict[str, str] = {}
    for profile in profiles:
        section = profile.environment or EnvironmentSection()
        for name, text in section.set.items():
            if name not in values and not any(_scrubs(each, name) for each in filters):
                position = profile.places.get(f"environment.set.{name}")
                values[name] = expand(text, variables, position)
        filters.append(NameFilter(section.keep, section.scrub))
    return EnvironmentPlan(tuple(filters), tuple(sorted(values.items())))


def kept(plan: EnvironmentPlan, names: Iterable[str]) -> list[str]:
    """Those of `names` that every profile lets through, in their order."""
    return [name for name in names if all(_keeps(each, name) for each in plan.filters)]


def _keeps(profile: NameFilter, name: str) -> bool:
    return _matches(name, profile.keep) and not _scrubs(profile, name)


def _scrubs(profile: NameFilter, name: str) -> bool:
    """Whether `scrub` takes `name` away: a pattern yields to a `keep` that spells it out."""
    if name in profile.keep:
        return name in profile.scrub
    return _matches(name, profile.scrub)


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)

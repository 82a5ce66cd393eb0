# SPDX-License-Identifier: Apache-2.0
"""Which variables of the caller's environment CMD keeps, and what the profiles set."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence

from monitor.policy.plan import EnvironmentPlan
from monitor.profile.model import EnvironmentSection, Profile
from monitor.profile.variables import Variables, expand


def environment_plan(profiles: Sequence[Profile], variables: Variables) -> EnvironmentPlan:
    """The plan of a conjunction, outermost first: a name stays where every profile keeps it.

    Of values that several set, the outermost counts; what an outer profile scrubs stays away.
    """
    sections = [profile.environment or EnvironmentSection() for profile in profiles]
    scrub: list[str] = []
    values: dict[str, str] = {}
    for profile, section in zip(profiles, sections, strict=True):
        for name, text in section.set.items():
            if name not in values and not _matches(name, scrub):
                position = profile.places.get(f"environment.set.{name}")
                values[name] = expand(text, variables, position)
        scrub += [glob for glob in section.scrub if glob not in scrub]
    return EnvironmentPlan(
        keep=sections[-1].keep,
        scrub=tuple(scrub),
        set=tuple(sorted(values.items())),
        also_kept_by=tuple(section.keep for section in sections[:-1]),
    )


def kept(plan: EnvironmentPlan, names: Iterable[str]) -> list[str]:
    """Those of `names` that stay, in their order; `scrub` beats `keep`."""
    lists = (plan.keep, *plan.also_kept_by)
    return [
        name
        for name in names
        if all(_matches(name, globs) for globs in lists) and not _matches(name, plan.scrub)
    ]


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)

# SPDX-License-Identifier: Apache-2.0
"""Compiled plans, kept for the next session that is the same: compiling is most of a launch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from monitor.policy import plan_json
from monitor.policy.plan import HostFeatures, Plan

if TYPE_CHECKING:  # pydantic is not needed until the first session
    from monitor.policy.compile import Context
    from monitor.profile.model import Profile

KEPT = 64


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A plan, and what each name in it was resolved to."""

    plan: Plan
    names: tuple[tuple[str, str], ...]

    def holds(self, resolve: Callable[[str], str]) -> bool:
        """Whether no link that a rule's name goes through leads elsewhere by now."""
        return all(resolve(name) == found for name, found in self.names)


class Plans:
    """Compiles for one host. A plan that holds the session's own id is made anew each time."""

    def __init__(self, host: HostFeatures) -> None:
        self.host = host
        self._kept: OrderedDict[tuple[object, ...], _Compiled] = OrderedDict()

    def compile(self, profiles: tuple[Profile, ...], digest: str, context: Context) -> Plan:
        """The plan of `profiles`, whose digest is `digest`; raises what compile_plan raises."""
        key = (digest, _places(profiles), *_asked(context))
        known = self._kept.get(key)
        if known is not None and known.holds(context.resolve):
            self._kept.move_to_end(key)
            return known.plan
        compiled = self._compile(profiles, context)
        if context.session not in plan_json.to_json(compiled.plan):
            self._kept[key] = compiled
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return compiled.plan

    def _compile(self, profiles: tuple[Profile, ...], context: Context) -> _Compiled:
        from monitor.policy.compile import compile_plan

        names: dict[str, str] = {}

        def resolve(name: str) -> str:
            names[name] = context.resolve(name)
            return names[name]

        plan = compile_plan(profiles, replace(context, resolve=resolve), self.host)
        return _Compiled(plan, tuple(names.items()))


def _places(profiles: tuple[Profile, ...]) -> tuple[object, ...]:
    """Where the rules stand, which plans name and digests leave out."""
    return tuple(
        (key, place.source, place.line) for each in profiles for key, place in each.places.items()
    )


def _asked(context: Context) -> tuple[object, ...]:
    return (
        *(context.workspace, context.home, context.uid),
        *(context.ttl, context.observe, context.launcher, context.gated),
    )

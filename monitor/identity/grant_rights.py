# SPDX-License-Identifier: Apache-2.0
"""Who may make grants: the `delegate` of an entry in the delegations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

DEFAULT_TTL = 8 * 3600
LARGEST_DEPTH = 99


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """A grant that somebody asks for, or presents.

    `user`, `uid`, `groups` are the principal's. `ttl` in seconds; None: not said, or the grant is
    there already. `depth`: how many links may follow. `bearer` is the name of the user who may
    start sessions under it.
    """

    user: str
    uid: int
    groups: tuple[str, ...]
    profile: str
    agent: str
    ttl: int | None
    depth: int
    bearer: str


@dataclass(frozen=True, slots=True)
class GrantRight:
    """How long a grant may hold, in seconds, and how often it may be passed on."""

    max_ttl: int = DEFAULT_TTL
    max_depth: int = 0


def judge(
    right: GrantRight | None,
    profiles: Iterable[str],
    agents: Iterable[str],
    run_as: Iterable[str],
    request: GrantRequest,
) -> int | tuple[int, str]:
    """The seconds it may hold; or how many of the checks passed, and the right that is missing.

    `profiles` and `agents` are globs, `run_as` names of users.
    """
    if right is None:
        return 0, "may not make grants: delegate is missing"
    checks = (
        (
            any(fnmatchcase(request.profile, glob) for glob in profiles),
            f"may not delegate the profile {request.profile}: it is missing in profiles",
        ),
        (
            any(fnmatchcase(request.agent, glob) for glob in agents),
            f"may not delegate to the agent {request.agent}: it is missing in agents",
        ),
        (
            request.bearer == request.user or request.bearer in run_as,
            f"may not make grants for {request.bearer}: that user is missing in run_as",
        ),
        (
            request.depth <= right.max_depth,
            f"may not let a grant be passed on {request.depth} times:"
            f" max_depth is {right.max_depth}",
        ),
        (
            request.ttl is None or request.ttl <= right.max_ttl,
            f"may not make a grant for {request.ttl} s: max_ttl is {right.max_ttl} s",
        ),
    )
    for passed, (holds, missing) in enumerate(checks, 1):
        if not holds:
            return passed, missing
    return min(right.max_ttl, DEFAULT_TTL) if request.ttl is None else request.ttl

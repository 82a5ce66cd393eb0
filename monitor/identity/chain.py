# SPDX-License-Identifier: Apache-2.0
"""Who acts for whom: a principal, the agents it delegated to, and their names."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

TRUST_DOMAIN_PATTERN = re.compile(r"[a-z0-9][a-z0-9.-]{0,254}")
# SPIFFE-ID section 2.2: letters, digits, dot, dash, underscore; no segment is empty or relative.
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Principal:
    """The user on whose behalf an agent acts: the login name, without `user:`, and its uid."""

    name: str
    uid: int

    @property
    def id(self) -> str:
        return f"user:{self.name}"


@dataclass(frozen=True, slots=True)
class Link:
    """One delegation: `delegator` lets `delegate` act under a profile.

    Both are names as in `Chain.names`. `digest` is the resolved profile's (profile/resolve).
    `expires` is in Unix seconds; None: with the session.
    """

    delegator: str
    delegate: str
    profile: str
    digest: str
    purpose: str
    expires: float | None


@dataclass(frozen=True, slots=True)
class Chain:
    """From a principal to the running agent, outermost link first; a chain has at least one."""

    principal: Principal
    links: tuple[Link, ...]

    def names(self) -> tuple[str, ...]:
        """`("user:alice", "spiffe://example.org/agent/coder", …)`."""
        return (self.principal.id, *(link.delegate for link in self.links))


def to_json(chain: Chain) -> Any:
    """The chain as a JSON value."""
    return asdict(chain)


def from_json(value: Any) -> Chain:
    """The reverse of `to_json`; KeyError or TypeError where `value` is something else."""
    return Chain(
        principal=Principal(**value["principal"]),
        links=tuple(Link(**link) for link in value["links"]),
    )


def agent_id(trust_domain: str, name: str) -> str:
    """The SPIFFE-shaped id of an agent: `spiffe://TRUST-DOMAIN/agent/NAME`.

    A name may have several segments (`demo/coder`). ValueError says what is wrong with it.
    """
    if not TRUST_DOMAIN_PATTERN.fullmatch(trust_domain):
        raise ValueError(f"{trust_domain!r} is not a trust domain")
    if not name or len(name) > LONGEST_NAME:
        raise ValueError(f"an agent's name has from 1 to {LONGEST_NAME} characters")
    for segment in name.split("/"):
        if segment in {"", ".", ".."} or not _SEGMENT.fullmatch(segment):
            raise ValueError(
                f"{name!r} is not an agent's name: letters, digits, '.', '_' and '-',"
                " in segments separated by '/'"
            )
    return f"spiffe://{trust_domain}/agent/{name}"

# SPDX-License-Identifier: Apache-2.0
"""What a person means by a word: a session, an agent, a user, a link of a grant. Pure.

A word that may mean several things is refused rather than guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from monitor.session.registry import SHORTEST_REFERENCE, UnknownSession
from monitor.session.session import Session

PRINCIPAL = "user:"
AGENT = "spiffe://"
# Of an Ed25519 signature, in hexadecimal.
REVOCATION_ID = re.compile(r"[0-9a-f]{128}")


class Ambiguous(UnknownSession):
    """The word may mean more than one thing; the message says which."""


class Kind(Enum):
    """What was named."""

    SESSION = "session"
    GRANT = "grant"
    AGENT = "agent"
    PRINCIPAL = "principal"


@dataclass(frozen=True, slots=True)
class Named:
    """What a word means, and the live sessions that it stands for."""

    kind: Kind
    name: str
    sessions: tuple[Session, ...]


def sessions_of(word: str, live: Sequence[Session]) -> Named:
    """What `word` means among `live`, when it names no grant. UnknownSession, Ambiguous."""
    if word.startswith(PRINCIPAL):
        found = [each for each in live if each.chain.principal.id == word]
        return _some(Named(Kind.PRINCIPAL, word, tuple(found)))
    if word.startswith(AGENT):
        found = [each for each in live if word in each.chain.names()]
        return _some(Named(Kind.AGENT, word, tuple(found)))
    agents = {
        name
        for each in live
        for name in each.chain.names()[1:]
        if name.partition("/agent/")[2] == word
    }
    by_id = [each for each in live if _is(word, each.id)]
    if agents and by_id:
        raise Ambiguous(
            f"{word} names an agent ({_listed(agents)}) and a session ({by_id[0].id}):"
            " give the whole id of one"
        )
    if len(agents) > 1:
        raise Ambiguous(
            f"{len(agents)} agents are called {word}: give the whole id ({_listed(agents)})"
        )
    if agents:
        return sessions_of(agents.pop(), live)
    if len(by_id) > 1:
        raise Ambiguous(f"{len(by_id)} sessions answer to {word}: give more of the id")
    if by_id:
        return Named(Kind.SESSION, by_id[0].id, tuple(by_id))
    raise UnknownSession(f"{word} is no live session, and no agent has one by this name")


def _some(named: Named) -> Named:
    if not named.sessions:
        raise UnknownSession(f"{named.name} has no live session")
    return named


def _is(word: str, identity: str) -> bool:
    return word == identity or (
        len(word) >= SHORTEST_REFERENCE and (identity.startswith(word) or identity.endswith(word))
    )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))

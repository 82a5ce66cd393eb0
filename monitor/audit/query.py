# SPDX-License-Identifier: Apache-2.0
"""Which records are wanted, as SQL."""

from __future__ import annotations

import json
from dataclasses import dataclass

from monitor.policy.action import Verb, Verdict

# The verb of nearly all records: the store has no index for it.
COMMON_VERB = Verb.FILE_OPEN


@dataclass(frozen=True, slots=True)
class Query:
    """Filters, all of which a record must pass; None and 0 let everything pass.

    `session` is the whole id, `sessions` those that the asker may see, `agent` a shell glob on the
    agent's id or on its name in it, `since` Unix seconds, `after` the id of the last record that is
    known already. Of what passes, the oldest `limit` records are given, or the newest (`newest`);
    in both cases oldest first.
    """

    session: str | None = None
    verdict: Verdict | None = None
    verb: Verb | None = None
    agent: str | None = None
    since: float | None = None
    after: int = 0
    limit: int = 1000
    newest: bool = False
    sessions: frozenset[str] | None = None


def select(query: Query) -> tuple[str, list[str | float | int]]:
    """The statement that yields (body, hash), and its parameters."""
    conditions: list[str] = []
    parameters: list[str | float | int] = []

    def where(condition: str, value: str | float) -> None:
        conditions.append(condition)
        parameters.append(value)

    if query.session is not None:
        where("actor IN (SELECT id FROM actors WHERE session = ?)", query.session)
    if query.sessions is not None:
        # As one JSON parameter: their number is not bounded as that of parameters is.
        where(
            "actor IN (SELECT id FROM actors WHERE session IN (SELECT value FROM json_each(?)))",
            json.dumps(sorted(query.sessions)),
        )
    if query.agent is not None:
        where(
            "actor IN (SELECT id FROM actors, (SELECT ? AS wanted)"
            " WHERE agent GLOB wanted OR agent GLOB 'spiffe://*/agent/' || wanted)",
            query.agent,
        )
    if query.verdict is not None:
        where("verdict = ?", query.verdict.value)
        if query.verdict is not Verdict.ALLOW:
            # Literally, so that SQLite sees that the partial index covers it.
            conditions.append("verdict <> 'allow'")
    if query.verb is not None:
        where("verb = ?", query.verb.value)
        if query.verb is not COMMON_VERB:
            conditions.append(f"verb <> '{COMMON_VERB.value}'")
    if query.since is not None:
        # By the index: ids follow the time, but for a clock that was set back in between.
        where("id IN (SELECT id FROM records WHERE time >= ?)", query.since)
    if query.after:
        where("id > ?", query.after)
    parameters.append(query.limit)
    order = "DESC" if query.newest else "ASC"
    filters = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT body, hash FROM records{filters} ORDER BY id {order} LIMIT ?", parameters  # noqa: S608 - ours

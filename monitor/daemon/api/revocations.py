# SPDX-License-Identifier: Apache-2.0
"""The part of the API that takes authority back.

POST /v1/revoke   {"what": WORD?, "grant": TEXT?, "then": "kill"|"deny", "why": TEXT?}

`what` is a session's id or an end of it, a grant's revocation id, an agent's SPIFFE id or its name,
or `user:NAME`; `grant` is a grant's text. With an agent or a user go the grants that their sessions
run under, or the same could be started again; rights in the delegations are not touched.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from aiohttp import web

from monitor.daemon import accounts
from monitor.daemon.api.access import Access, Forbidden
from monitor.daemon.api.answers import BadRequest
from monitor.daemon.api.grants import fields
from monitor.daemon.context import Context
from monitor.daemon.keys import KeysError
from monitor.daemon.references import PRINCIPAL, REVOCATION_ID, Ambiguous, Kind, Named, sessions_of
from monitor.daemon.revocation import Revoked
from monitor.identity import grant as tokens
from monitor.identity.grant import Grant
from monitor.identity.grant_error import BadSignature, Malformed
from monitor.kernel.peer import Peer
from monitor.session.order import Order, Then
from monitor.session.registry import UnknownSession
from monitor.session.session import IllegalTransition, Session, State


class RevokeApi:
    """Answers for /v1/revoke."""

    def __init__(self, context: Context, access: Access) -> None:
        self.context = context
        self.access = access

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/revoke", self.revoke)]

    async def revoke(self, request: web.Request) -> web.Response:
        received = time.perf_counter()
        given = fields(await request.read(), {"what": str, "grant": str, "then": str, "why": str})
        caller: Peer = request["caller"]
        named, grants = self._meant(caller, given)
        order = Order(
            sessions=tuple(each.id for each in named.sessions),
            grants=tuple(grants),
            then=_then(given),
            by=accounts.called(caller.uid),
            why=given.get("why", ""),
        )
        # What was begun is done and recorded, even when nobody waits for the answer.
        doing = asyncio.ensure_future(self.context.sessions.revocation.carry_out(order, received))
        return _answer(named, order, await asyncio.shield(doing), self._problem())

    def _problem(self) -> str:
        """Why a revocation holds in memory only."""
        registry = self.context.registry
        return registry.ledger.problem or registry.problem

    # -- what is meant -------------------------------------------------------------------------

    def _meant(self, caller: Peer, given: dict[str, Any]) -> tuple[Named, Sequence[str]]:
        """What the caller may take back: the sessions, and the revocation ids."""
        word, text = given.get("what", ""), given.get("grant")
        if text is None:
            if not word:
                raise BadRequest("either what or grant is given")
            return self._by_word(caller, word)
        grant = self._read(text)
        if word:
            self._only_the_grant(caller, word)
        self._require_grant(caller, grant)
        return self._of_grant(grant.revocation_ids[-1])

    def _by_word(self, caller: Peer, word: str) -> tuple[Named, Sequence[str]]:
        if REVOCATION_ID.fullmatch(word):
            self._require_block(caller, word)
            return self._of_grant(word)
        own = word == accounts.called(caller.uid)
        if word.startswith(PRINCIPAL) and not own and not self.access.administers(caller):
            raise Forbidden(f"only {word} and administrators may revoke what {word} delegated")
        named = self._sessions(caller, word)
        if named.kind is Kind.SESSION:
            return named, ()
        blocks = self.context.registry.ledger.blocks_of(each.id for each in named.sessions)
        grants: dict[str, None] = {}  # each once
        for session in named.sessions:
            # The agent's own link, and with it what it passed on; all links of a user's.
            place = _place(named.name, session) if named.kind is Kind.AGENT else 0
            grants |= dict.fromkeys(blocks.get(session.id, [])[place : place + 1])
        return named, tuple(grants)

    def _sessions(self, caller: Peer, word: str) -> Named:
        """What a word means among the live sessions that the caller may see."""
        registry = self.context.registry
        seen = [each for each in registry.live() if self.access.sees(caller, each)]
        try:
            named = sessions_of(word, seen)
        except Ambiguous:
            raise
        except UnknownSession:
            ended = [each for each in registry.ended(word) if self.access.sees(caller, each)]
            # Raises where it means none of those either.
            over = registry.find(word, ended) if ended else None
            if over is None:
                raise
            raise IllegalTransition(f"session {over.id} has ended") from None
        if named.kind is Kind.SESSION and named.sessions[0].state is State.ENDING:
            raise IllegalTransition(f"session {named.name} is ending already")
        return named

    def _of_grant(self, identity: str) -> tuple[Named, Sequence[str]]:
        concerned = self.context.registry.ledger.sessions(identity)
        live = [each for each in self.context.registry.live() if each.id in concerned]
        return Named(Kind.GRANT, identity, tuple(live)), (identity,)

    def _only_the_grant(self, caller: Peer, word: str) -> None:
        """A file whose name is also that of an agent or a session could be meant as either."""
        try:
            other = self._sessions(caller, word)
        except Ambiguous:
            raise
        except (UnknownSession, IllegalTransition):
            return
        raise Ambiguous(
            f"{word} is a grant's file and names a {other.kind.value} ({other.name}):"
            f" say ./{word}, or the whole id"
        )

    # -- who may -------------------------------------------------------------------------------

    def _read(self, text: str) -> Grant:
        try:
            return tokens.read(text)
        except (Malformed, BadSignature) as error:
            raise BadRequest(str(error)) from error

    def _require_grant(self, caller: Peer, grant: Grant) -> None:
        """Anybody can sign a grant that names the caller; only a trusted key makes it true."""
        if self.access.administers(caller):
            return
        try:
            trusted = self.context.sessions.grants.keys.trusted()
        except KeysError as error:
            raise Forbidden(str(error)) from error
        if grant.key not in trusted or grant.origin.principal.uid != caller.uid:
            raise Forbidden("only who delegated, and administrators, may revoke a grant")

    def _require_block(self, caller: Peer, identity: str) -> None:
        """A bare id says nothing of whose it is, but the sessions that ran under it do."""
        if self.access.administers(caller):
            return
        registry = self.context.registry
        ran = registry.ledger.sessions(identity)
        if not ran & registry.ids_of(caller.uid):
            raise Forbidden(
                "only administrators may revoke by an id under which nothing of yours ran:"
                " give the grant's file"
            )


def _then(given: dict[str, Any]) -> Then:
    try:
        return Then(given.get("then", Then.KILL.value))
    except ValueError as error:
        raise BadRequest("then is kill or deny") from error


def _place(agent: str, session: Session) -> int:
    """Which link of the session's chain is the agent's first."""
    return [link.delegate for link in session.chain.links].index(agent)


def _answer(named: Named, order: Order, done: Revoked, problem: str) -> web.Response:
    body = {
        "kind": named.kind.value,
        "name": named.name,
        "then": order.then.value,
        "grants": list(order.grants),
        "sessions": [
            {
                "id": each.id,
                "agent": each.agent,
                "chain": list(each.chain.names()),
                "since_receipt": done.times[each.id],
            }
            for each in done.sessions
        ],
        "sockets": done.sockets,
        "steps": [asdict(stage) for stage in done.stages],
        "problems": [*done.problems, *([problem] if problem else [])],
    }
    return web.Response(text=json.dumps(body), content_type="application/json")

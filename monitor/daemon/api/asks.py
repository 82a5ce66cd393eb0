# SPDX-License-Identifier: Apache-2.0
"""The part of the API in which held actions are seen and answered.

GET  /v1/asks            what waits, oldest first; ?follow=1: then what changes, one JSON object a
                         line: {"raised": ASK} or {"over": ASK, "answer": ANSWER}
GET  /v1/asks/ID         one ask, also one that is over
POST /v1/asks/ID/approve {"uses": N? | "for": "10m"? | "session": true?, "why": TEXT?, "token": T?}
POST /v1/asks/ID/deny    the same

ID is an ask's id or four characters or more of its beginning. Who may: root, administrators, and
the principal of the session; and whoever has the token that approvers are given with the ask.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from monitor.audit.export import JSON_LINES_TYPE
from monitor.daemon import accounts
from monitor.daemon.api import answers
from monitor.daemon.api.access import Access
from monitor.daemon.api.answers import BadRequest
from monitor.daemon.api.grants import fields
from monitor.daemon.asks import reply as replies
from monitor.daemon.asks import shown
from monitor.daemon.asks.outcomes import boottime
from monitor.daemon.asks.reply import BadReply, Reply
from monitor.daemon.asks.telling import Change
from monitor.daemon.context import Context
from monitor.kernel.peer import Peer
from monitor.session.asks import Ask, How
from monitor.session.docket import Closed
from monitor.session.registry import UnknownSession
from monitor.session.session import Session

# Of one user.
WATCHERS = 32
# Changes that are sent at once.
BATCH = 500
# Sessions that have ended, whose asks somebody wants to see.
REMEMBERED = 1000
_ANSWER = {"uses": int, "for": str, "session": bool, "why": str, "token": str}


class AskApi:
    """Answers for /v1/asks."""

    def __init__(self, context: Context, access: Access) -> None:
        self.context = context
        self.access = access
        self._watching: Counter[int] = Counter()  # uid -> requests that follow
        self._ended: dict[str, Session | None] = {}  # what does not change, and is slow to find

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/asks", self.asks),
            web.get("/v1/asks/{reference}", self.ask),
            web.post("/v1/asks/{reference}/{verb:approve|deny}", self.answer),
        ]

    async def asks(self, request: web.Request) -> web.StreamResponse:
        given = answers.parameters(request.query, len(request.query), frozenset(("follow",)))
        caller: Peer = request["caller"]
        if answers.flag(given, "follow"):
            if self._watching[caller.uid] >= WATCHERS:
                raise web.HTTPTooManyRequests(
                    reason=f"{WATCHERS} of your requests follow the asks already"
                )
            self._watching[caller.uid] += 1
            try:
                return await self._follow(request, caller)
            finally:
                self._watching[caller.uid] -= 1
        return _json({"asks": self._waiting(caller)})

    async def ask(self, request: web.Request) -> web.Response:
        answers.parameters(request.query, len(request.query), frozenset())
        visible = self._sees(request["caller"])
        found = self.context.asks.find(request.match_info["reference"], visible)
        session = self._session(found.ask if isinstance(found, Closed) else found)
        if isinstance(found, Closed):
            return _json({"ask": shown.closed_json(found, session)})
        self.context.asks.reached([found.id])
        return _json({"ask": shown.ask_json(found, session, boottime())})

    async def answer(self, request: web.Request) -> web.Response:
        given = fields(await request.read(), _ANSWER)
        caller: Peer = request["caller"]
        sees, token = self._sees(caller), given.get("token", "").encode("utf-8", "surrogatepass")

        def visible(ask: Ask) -> bool:
            return hmac.compare_digest(ask.token.encode(), token) or sees(ask)

        try:
            scope, why = replies.scope(given), replies.why(given)
        except BadReply as error:
            raise BadRequest(str(error)) from error
        asks = self.context.asks
        ask = asks.open(request.match_info["reference"], visible)
        by, how = accounts.called(caller.uid), How.PERSON
        if not sees(ask):
            by, how = f"{by} with the ask's token", How.APPROVER
        reply = Reply(request.match_info["verb"] == "approve", scope, why)
        done = asks.answer(ask.id, reply, how, by)
        return _json(
            {
                "ask": shown.ask_json(done.ask, self._session(done.ask), boottime()),
                "answer": shown.answer_json(done.answer),
                "scope": str(scope),
                "let": done.let,
                "more": done.more or None,
            }
        )

    # ------------------------------------------------------------------------------------------

    def _sees(self, caller: Peer) -> Callable[[Ask], bool]:
        administers = self.access.administers(caller)

        def sees(ask: Ask) -> bool:
            if administers:
                return True
            session = self._session(ask)
            return session is not None and self.access.sees(caller, session)

        return sees

    def _session(self, ask: Ask) -> Session | None:
        """The session of an ask with the links above it, also one that has ended."""
        registry, identity = self.context.registry, ask.wanted.session
        try:
            return registry.whole(registry.get(identity))
        except UnknownSession:
            pass
        if identity not in self._ended:
            if len(self._ended) >= REMEMBERED:
                self._ended.clear()
            same = (each for each in registry.ended(identity) if each.id == identity)
            found = next(same, None)
            self._ended[identity] = found and registry.whole(found)
        return self._ended[identity]

    def _waiting(self, caller: Peer) -> list[dict[str, Any]]:
        """What waits and the caller may answer; from now on somebody knows of it."""
        sees = self._sees(caller)
        found = [ask for ask in self.context.asks.waiting() if sees(ask)]
        self.context.asks.reached(ask.id for ask in found)
        now = boottime()
        return [shown.ask_json(ask, self._session(ask), now) for ask in found]

    async def _follow(self, request: web.Request, caller: Peer) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = JSON_LINES_TYPE
        await response.prepare(request)
        sees = self._sees(caller)
        with self.context.asks.telling.watch() as changes:
            lines = [_line({"raised": ask}) for ask in self._waiting(caller)]
            while True:
                if lines:
                    await response.write(b"".join(lines))
                told = [await changes.get()]
                while not changes.empty() and len(told) < BATCH:
                    told.append(changes.get_nowait())
                lines = [self._told(each) for each in told if each and sees(each.ask)]
                if None in told:
                    return response

    def _told(self, change: Change) -> bytes:
        ask = shown.ask_json(change.ask, self._session(change.ask), boottime())
        if change.answer is None:
            self.context.asks.reached([change.ask.id])
            return _line({"raised": ask})
        return _line({"over": ask, "answer": shown.answer_json(change.answer)})


def _line(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def _json(data: Any) -> web.Response:
    return web.Response(text=json.dumps(data), content_type="application/json")

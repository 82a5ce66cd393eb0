# SPDX-License-Identifier: Apache-2.0
"""The part of the API that takes signals from other systems.

POST /v1/signals   {"sub_id": …, "events": {URI: {…}}}, see monitor/session/signal.py
GET  /v1/signals   what stands by now
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from monitor.daemon import accounts
from monitor.daemon.api import answers
from monitor.daemon.api.access import Access
from monitor.daemon.api.answers import BadRequest
from monitor.daemon.context import Context
from monitor.daemon.signals import Signals
from monitor.kernel.peer import Peer
from monitor.session import signal
from monitor.session.signal import Signal


class SignalApi:
    """Answers for /v1/signals; for administrators."""

    def __init__(self, context: Context, access: Access) -> None:
        self.context = context
        self.access = access

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/signals", self.take),
            web.get("/v1/signals", self.standing),
        ]

    async def take(self, request: web.Request) -> web.Response:
        answers.parameters(request.query, len(request.query), frozenset())
        caller: Peer = request["caller"]
        self.access.require_admin(caller)
        try:
            given = signal.read(json.loads(await request.read()))
        except signal.Malformed as error:
            raise BadRequest(str(error)) from error
        except (ValueError, RecursionError) as error:
            raise BadRequest("the body is not JSON") from error
        doing = asyncio.ensure_future(
            Signals(self.context).take(given, accounts.called(caller.uid))
        )
        taken = await asyncio.shield(doing)
        registry = self.context.registry
        return _json(
            {
                "signal": _shown(taken.signal),
                "sessions": [
                    {"id": session.id, "agent": session.agent, "then": reaction.value}
                    for session, reaction in taken.reactions
                ],
                "problem": registry.signals.problem or registry.problem,
            }
        )

    async def standing(self, request: web.Request) -> web.Response:
        answers.parameters(request.query, len(request.query), frozenset())
        self.access.require_admin(request["caller"])
        found = self.context.registry.signals.all()
        return _json({"signals": [_shown(each) for each in found]})


def _shown(found: Signal) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": found.kind.value, "subject": found.subject}
    if found.kind is signal.Kind.RISK:
        shown["score"] = found.score
    if found.kind is signal.Kind.ASSURANCE:
        shown["direction"] = "decrease" if found.fell else "increase"
    return shown | {"why": found.why, "issuer": found.issuer}


def _json(data: Any) -> web.Response:
    return web.Response(text=json.dumps(data), content_type="application/json")

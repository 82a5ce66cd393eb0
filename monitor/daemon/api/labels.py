# SPDX-License-Identifier: Apache-2.0
"""The part of the API that shows labels and takes them off.

GET  /v1/sessions/ID/labels               all labels that the session has or can take on
POST /v1/sessions/ID/labels/NAME/remove   {"why": TEXT}

A label is taken off by root and administrators only: it stands for what the agent has seen.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from monitor.daemon import accounts
from monitor.daemon.api import answers
from monitor.daemon.api.access import Access
from monitor.daemon.api.answers import BadRequest
from monitor.daemon.context import Context
from monitor.daemon.labels import Held, UnknownLabel
from monitor.kernel.peer import Peer
from monitor.session.registry import UnknownSession
from monitor.session.session import IllegalTransition, Session

LONGEST_NAME = 256


class LabelApi:
    """Answers for the labels of sessions. `find`: the session that a caller means."""

    def __init__(
        self, context: Context, access: Access, find: Callable[[Peer, str], Session]
    ) -> None:
        self.context = context
        self.access = access
        self._find = find

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/sessions/{reference}/labels", self.labels),
            web.post("/v1/sessions/{reference}/labels/{name}/remove", self.remove),
        ]

    async def labels(self, request: web.Request) -> web.Response:
        answers.parameters(request.query, len(request.query), frozenset())
        session = self._live(request)
        return self._shown(session)

    async def remove(self, request: web.Request) -> web.Response:
        answers.parameters(request.query, len(request.query), frozenset())
        why = answers.why(await request.read())
        caller: Peer = request["caller"]
        session = self._live(request)
        self.access.require_admin(caller)
        if not why:
            raise BadRequest("why is to be given: taking a label off widens what an agent may do")
        name = request.match_info["name"][:LONGEST_NAME]
        labels = self.context.labels
        # What was begun is done and recorded, even when nobody waits for the answer.
        doing = asyncio.ensure_future(
            labels.remove(session, name, why, accounts.called(caller.uid))
        )
        try:
            steps = await asyncio.shield(doing)
        except UnknownLabel as error:
            raise UnknownSession(str(error)) from error
        return self._shown(session, {"steps": [asdict(step) for step in steps]})

    def _live(self, request: web.Request) -> Session:
        session = self._find(request["caller"], request.match_info["reference"])
        if not session.live:
            raise IllegalTransition(f"session {session.id} has ended")
        return session

    def _shown(self, session: Session, more: dict[str, Any] | None = None) -> web.Response:
        every = self.context.labels.every(session)
        body = {"session": session.id, "labels": [_json(each) for each in every]} | (more or {})
        return web.Response(text=json.dumps(body), content_type="application/json")


def _json(held: Held) -> dict[str, Any]:
    return {
        "name": held.label.name,
        "profile": held.profile,
        "link": held.link,
        "own": held.own,
        "since": held.since or None,
        "rule": str(held.label.origin),
        "then": {
            "network": held.label.policy is not None,
            "exec": len(held.label.rules),
            "ask": held.label.ask,
        },
    }

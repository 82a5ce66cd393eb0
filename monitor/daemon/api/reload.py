# SPDX-License-Identifier: Apache-2.0
"""The part of the API that changes profiles under running sessions.

POST /v1/reload            read all profiles anew and put them in force
GET  /v1/profiles/diff     what that would do; `profile` NAME: to the sessions under that one only
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
from monitor.daemon.reading import Found
from monitor.daemon.reload import Changed
from monitor.kernel.peer import Peer
from monitor.profile.catalog import Catalog


class ReloadApi:
    """Answers for /v1/reload and /v1/profiles/diff; for administrators."""

    def __init__(self, context: Context, access: Access) -> None:
        self.context = context
        self.access = access

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/reload", self.reload),
            web.get("/v1/profiles/diff", self.diff),
        ]

    async def reload(self, request: web.Request) -> web.Response:
        answers.parameters(request.query, len(request.query), frozenset())
        caller: Peer = request["caller"]
        self.access.require_admin(caller)
        if await request.read() not in (b"", b"{}"):
            raise BadRequest("the body is empty")
        # What was begun is done and recorded, even when nobody waits for the answer.
        doing = asyncio.ensure_future(
            self.context.sessions.reload.carry_out(accounts.called(caller.uid))
        )
        done = await asyncio.shield(doing)
        return _json(
            {
                "sessions": [_changed(each) for each in done.sessions],
                "problems": list(done.problems),
            }
        )

    async def diff(self, request: web.Request) -> web.Response:
        given = answers.parameters(request.query, len(request.query), frozenset(("profile",)))
        self.access.require_admin(request["caller"])
        name = given.get("profile")
        reload = self.context.sessions.reload
        if name is not None and not self._known(name):
            raise BadRequest(f"no profile {name[:100]!r}, and no session under one of that name")
        look = await reload.look(name)
        return _json(
            {
                "sessions": [
                    _found(each) | {"pending": list(each.in_force.pending if each.in_force else ())}
                    for each in look.found
                ],
                "problems": list(look.problems),
            }
        )

    def _known(self, name: str) -> bool:
        live = self.context.registry.live()
        if any(name == policy.profile for each in live for policy in each.plan.policies):
            return True
        return name in Catalog(self.context.config.profiles).names()


def _found(found: Found) -> dict[str, Any]:
    session = found.session
    return {
        "id": session.id,
        "agent": session.agent,
        "profile": session.profile,
        "pinned": found.asked.pinned,
        "changes": found.difference.to_dict(),
        "lines": list(found.difference.lines()),
        "problem": found.problem,
    }


def _changed(changed: Changed) -> dict[str, Any]:
    return _found(changed.found) | {
        "problem": changed.problem,
        "pending": list(changed.pending),
        "cut": changed.cut,
    }


def _json(data: Any) -> web.Response:
    return web.Response(text=json.dumps(data), content_type="application/json")

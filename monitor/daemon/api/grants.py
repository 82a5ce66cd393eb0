# SPDX-License-Identifier: Apache-2.0
"""The part of the API that makes and judges grants; revoke_api takes them back.

GET  /v1/grants/key      the public key of this host's grants, for the `trusted` of others
POST /v1/grants          make one on behalf of the caller
POST /v1/grants/check    whether one holds here and now for the user it is for
"""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from monitor.daemon.api.access import Forbidden
from monitor.daemon.api.answers import LONGEST_TEXT, BadRequest
from monitor.daemon.context import Context, Refused
from monitor.daemon.grants import Wanted
from monitor.daemon.keys import KeysError
from monitor.identity import grant as tokens
from monitor.identity.grant_error import BadSignature, GrantError, Malformed
from monitor.identity.grant_json import to_json
from monitor.kernel.peer import Peer
from monitor.policy.action import Verb
from monitor.profile import durations

_MAKE = {
    "agent": str,
    "profile": str,
    "ttl": str,
    "purpose": str,
    "depth": int,
    "uses": int,
    "bearer": str,
    "host_group": str,
}


class GrantApi:
    """Answers for the paths under /v1/grants."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/grants/key", self.key),
            web.post("/v1/grants", self.make),
            web.post("/v1/grants/check", self.check),
        ]

    async def key(self, _request: web.Request) -> web.Response:
        try:
            return _json({"key": f"ed25519/{self.context.sessions.grants.keys.public()}"})
        except KeysError as error:
            raise Forbidden(str(error)) from error

    async def make(self, request: web.Request) -> web.Response:
        given = fields(await request.read(), _MAKE)
        for name in ("agent", "profile"):
            if name not in given:
                raise BadRequest(f"{name} is missing")
        if "ttl" in given:
            try:
                given["ttl"] = durations.seconds(given["ttl"])
            except ValueError as error:
                raise BadRequest(f"ttl: {error}") from error
        caller: Peer = request["caller"]
        try:
            text = self.context.sessions.grants.make(caller, Wanted(**given))
        except Refused as error:
            raise Forbidden(error.reason) from error
        made = tokens.read(text)
        self.context.recording.daemon_record(
            None,
            Verb.GRANT_MAKE,
            made.agent,
            to_json(made),
            pid=caller.pid,
        )
        return _json({"grant": text} | to_json(made))

    async def check(self, request: web.Request) -> web.Response:
        given = fields(await request.read(), {"grant": str})
        if "grant" not in given:
            raise BadRequest("grant is missing")
        service = self.context.sessions.grants
        problem = ""
        try:
            found = tokens.read(given["grant"])
        except (Malformed, BadSignature) as error:
            raise BadRequest(str(error)) from error
        try:
            service.judge(given["grant"], found.origin.bearer)
        except GrantError as error:
            problem = str(error)
        except Refused as error:
            problem = error.reason
        used = [service.ledger.used(identity) for identity, _most in found.uses]
        return _json({"holds": not problem, "problem": problem, "used": used})


def fields(body: bytes, known: dict[str, type]) -> dict[str, Any]:
    """The fields of a JSON object, each of its type and none unknown; null: it is not there."""
    try:
        data = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(data, dict):
        raise BadRequest("the body is a JSON object")
    found = {}
    for name, value in data.items():
        if name not in known:
            raise BadRequest(f"unknown field {name[:40]!r}")
        if value is None:
            continue
        if type(value) is not known[name]:
            kind = {str: "text", int: "a whole number", bool: "true or false"}[known[name]]
            raise BadRequest(f"{name} is {kind}")
        longest = tokens.LARGEST + 1 if name == "grant" else LONGEST_TEXT
        if isinstance(value, str) and len(value) > longest:
            raise BadRequest(f"{name} is longer than {longest} characters")
        found[name] = value
    return found


def _json(data: Any) -> web.Response:
    return web.Response(text=json.dumps(data), content_type="application/json")

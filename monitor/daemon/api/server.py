# SPDX-License-Identifier: Apache-2.0
"""The API: HTTP and JSON on a Unix socket; every request is judged by its sender's credentials.

The kernel's word on who connected is all that counts. What a caller may not see does not exist for
them: another user's session, and its records, are 404. A process of a session may use nothing here.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, cast

from aiohttp import web

from monitor import __version__
from monitor.audit.explain import explain, text
from monitor.audit.export import JSON_LINES_TYPE, PROMETHEUS_TYPE
from monitor.audit.query import Query
from monitor.audit.record import to_dict
from monitor.audit.store import StoreError
from monitor.daemon import accounts
from monitor.daemon.api import answers, metrics
from monitor.daemon.api.access import Access, Forbidden
from monitor.daemon.api.answers import BadRequest
from monitor.daemon.api.asks import AskApi
from monitor.daemon.api.doctor import diagnose
from monitor.daemon.api.grants import GrantApi
from monitor.daemon.api.labels import LabelApi
from monitor.daemon.api.log import Log
from monitor.daemon.api.reload import ReloadApi
from monitor.daemon.api.revocations import RevokeApi
from monitor.daemon.api.signals import SignalApi
from monitor.daemon.asks.asks import AskOver, UnknownAsk
from monitor.daemon.context import Context
from monitor.daemon.ending import EndingFailed, Step
from monitor.kernel import cgroup
from monitor.kernel.peer import Peer, gone, peer_of
from monitor.session.registry import UnknownSession
from monitor.session.session import Hold, IllegalTransition, Session

LARGEST_BODY = 20 * 1024  # a grant, and the JSON around it
# A follower is sent what came in this time together.
FOLLOW_SECONDS = 0.05
KEEP_ALIVE_SECONDS = 30.0
# Requests of one user that may follow at a time: each reads the log whenever it grows.
FOLLOWERS = 32

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The server of one worker."""

    def __init__(self, context: Context, log: Log) -> None:
        self.context = context
        self.access = Access(context.config.admin_group)
        self.log = log
        self._followers: Counter[int] = Counter()  # uid -> requests that follow
        application = web.Application(middlewares=[self._edge], client_max_size=LARGEST_BODY)
        application.add_routes(
            [
                web.get("/v1/status", self.status),
                web.get("/v1/sessions", self.sessions),
                web.get("/v1/sessions/{reference}", self.session),
                web.post("/v1/sessions/{reference}/{verb:freeze|thaw|kill}", self.change),
                web.get("/v1/records", self.records),
                web.get("/v1/records/{number:[0-9]{1,18}}", self.record),
                web.get("/v1/log/verify", self.verify),
                web.get("/v1/doctor", self.doctor),
                web.get("/v1/metrics", self.metrics),
                *AskApi(context, self.access).routes(),
                *GrantApi(context).routes(),
                *LabelApi(context, self.access, self._find).routes(),
                *RevokeApi(context, self.access).routes(),
                *ReloadApi(context, self.access).routes(),
                *SignalApi(context, self.access).routes(),
            ]
        )
        self._runner = web.AppRunner(
            application,
            handle_signals=False,
            access_log=None,
            # A follower that went away is noticed although nothing is written to it.
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            shutdown_timeout=0.2,
        )

    async def serve(self, listener: socket.socket) -> None:
        """Answer connections to `listener` from now on."""
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def close(self) -> None:
        await self._runner.cleanup()

    # -- the edge ------------------------------------------------------------------------------

    @web.middleware
    async def _edge(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who asks; and every failure as JSON with one line."""
        try:
            request["caller"] = self._caller(request)
            return await handler(request)
        except BadRequest as error:
            return _error(400, str(error))
        except Forbidden as error:
            return _error(403, str(error))
        except UnknownSession as error:
            return _error(404, str(error), "rictl ps --all lists the sessions that you may see")
        except UnknownAsk as error:
            return _error(404, str(error), "rictl asks lists what waits and you may answer")
        except (IllegalTransition, AskOver) as error:
            return _error(409, str(error))
        except web.HTTPException as error:
            allow = error.headers.get("Allow")
            return _error(error.status, _spoken(error), headers={"Allow": allow} if allow else None)
        except (EndingFailed, StoreError) as error:
            return _error(503, str(error))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # the loop's edge
            self.context.recording.faults += 1
            print(f"ri-monitord: {request.method} {request.path} failed:", file=sys.stderr)
            traceback.print_exc()
            return _error(500, f"the daemon failed: {type(error).__name__}")

    def _caller(self, request: web.Request) -> Peer:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        connection = cast(socket.socket, transport.get_extra_info("socket"))
        caller = peer_of(connection)
        try:
            inside = cgroup.holds(self.context.config.instance, caller.pid)
        except OSError:
            inside = True
        # A number that is free again may be anybody's.
        if inside or gone(connection):
            raise Forbidden("a process of a session, or one that is gone, may not use this")
        return caller

    # -- what is asked -------------------------------------------------------------------------

    async def status(self, request: web.Request) -> web.Response:
        _no_parameters(request)
        context, recording = self.context, self.context.recording
        return _json(
            {
                "version": __version__,
                "instance": context.config.instance,
                "pid": os.getpid(),
                "since": context.since,
                "sessions": len(context.registry.live()),
                "audit": {
                    "state": "failing" if recording.problem else "ok",
                    "problem": recording.problem or None,
                    "waiting": recording.waiting,
                },
                "lost": recording.lost,
                "undecoded": recording.undecoded,
            }
        )

    async def sessions(self, request: web.Request) -> web.Response:
        given = answers.parameters(request.query, len(request.query), frozenset(("all",)))
        caller: Peer = request["caller"]
        found = list(self.context.registry.live())
        if answers.flag(given, "all"):
            found = [*self.context.registry.ended(), *found]
        visible = [session for session in found if self.access.sees(caller, session)]
        return _json({"sessions": await self._described(visible)})

    async def session(self, request: web.Request) -> web.Response:
        _no_parameters(request)
        session = self._find(request["caller"], request.match_info["reference"])
        (described,) = await self._described([session])
        whole = self.context.registry.whole(session)
        return _json(described | {"plan": answers.plan_json(whole.plan, session.digest)})

    async def change(self, request: web.Request) -> web.Response:
        _no_parameters(request)
        why = answers.why(await request.read())
        caller: Peer = request["caller"]
        session = self._find(caller, request.match_info["reference"])
        if not session.live:
            raise IllegalTransition(f"session {session.id} has ended")
        # What was begun is done and recorded, even when nobody waits for the answer.
        change = asyncio.ensure_future(
            self._change(request.match_info["verb"], session, why, accounts.called(caller.uid))
        )
        steps = await asyncio.shield(change)
        (described,) = await self._described([self._again(session)])
        return _json({"session": described, "steps": [asdict(step) for step in steps]})

    async def _change(self, verb: str, session: Session, why: str, by: str) -> list[Step]:
        sessions = self.context.sessions
        match verb:
            case "freeze":
                return await sessions.holds.freeze(session, Hold.PERSON, why, by)
            case "thaw":
                return await sessions.holds.thaw(session, Hold.PERSON, why, by)
            case _:
                return await sessions.kill(session, why, by)

    async def records(self, request: web.Request) -> web.StreamResponse:
        given = answers.parameters(request.query, len(request.query), answers.RECORDS)
        wanted = answers.records_request(given)
        caller: Peer = request["caller"]
        session = self._find(caller, wanted.session).id if wanted.session else None
        query = replace(wanted.query, session=session)
        if not wanted.follow:
            text, _last = await self.log.page(self._visible(caller, query))
            return web.Response(text=f'{{"records":[{text}]}}', content_type="application/json")
        if wanted.after is None:
            query = replace(query, after=self.context.recording.store.last())
        if self._followers[caller.uid] >= FOLLOWERS:
            return _error(429, f"{FOLLOWERS} of your requests follow the log already")
        self._followers[caller.uid] += 1
        try:
            return await self._follow(request, caller, query)
        finally:
            self._followers[caller.uid] -= 1

    async def _follow(self, request: web.Request, caller: Peer, query: Query) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_type = JSON_LINES_TYPE
        await response.prepare(request)
        query = replace(query, newest=False)
        while True:
            # Before reading: what is appended meanwhile must not be waited for.
            appended = asyncio.ensure_future(self.context.recording.appended())
            try:
                lines, last = await self.log.lines(self._visible(caller, query))
                if last:
                    await response.write(lines)
                    query = replace(query, after=last)
                else:
                    await appended
                    await asyncio.sleep(FOLLOW_SECONDS)
            finally:
                appended.cancel()

    async def record(self, request: web.Request) -> web.Response:
        _no_parameters(request)
        number = int(request.match_info["number"])
        caller: Peer = request["caller"]
        record = await self.log.get(number)
        session = self._session_of(record.session) if record is not None else None
        if record is None or not (
            self.access.administers(caller)
            or (session is not None and self.access.sees(caller, session))
        ):
            return _error(404, f"no record {number}")
        whole = session and self.context.registry.whole(session)
        explanation = explain(record, whole)
        return _json(
            {
                "record": to_dict(record, full=True),
                "explanation": explanation.to_dict(),
                "text": text(explanation),
            }
        )

    async def verify(self, request: web.Request) -> web.Response:
        _no_parameters(request)
        self.access.require_admin(request["caller"])
        found = await self.log.verify()
        return _json(
            {
                "ok": found.ok,
                "records": found.records,
                "problem": found.problem,
                "record": found.record_id,
            }
        )

    async def doctor(self, request: web.Request) -> web.Response:
        _no_parameters(request)
        self.context.sessions.admission.reload()
        return _json(diagnose(self.context))

    async def metrics(self, request: web.Request) -> web.Response:
        _no_parameters(request)
        self.access.require_admin(request["caller"])
        body = metrics.text(self.context).encode()
        return web.Response(body=body, headers={"Content-Type": PROMETHEUS_TYPE})

    # ------------------------------------------------------------------------------------------

    def _find(self, caller: Peer, reference: str) -> Session:
        """The session that the caller means, of those that they may see."""
        registry = self.context.registry
        live = [each for each in registry.live() if self.access.sees(caller, each)]
        try:
            return registry.find(reference, live)
        except UnknownSession:
            ended = registry.ended(reference)
            seen = [each for each in ended if self.access.sees(caller, each)]
            return registry.find(reference, [*live, *seen])

    def _again(self, session: Session) -> Session:
        """The session as it is now."""
        try:
            return self.context.registry.get(session.id)
        except UnknownSession:
            return self._session_of(session.id) or session

    def _session_of(self, identity: str) -> Session | None:
        registry = self.context.registry
        try:
            return registry.get(identity)
        except UnknownSession:
            ended = [each for each in registry.ended(identity) if each.id == identity]
            return ended[0] if ended else None

    def _visible(self, caller: Peer, query: Query) -> Query:
        """`query`, narrowed to what the caller may see."""
        if self.access.administers(caller):
            return query
        return replace(query, sessions=self.context.registry.ids_of(caller.uid))

    async def _described(self, sessions: Sequence[Session]) -> list[dict[str, Any]]:
        context = self.context
        ended = await self.log.endings([each.id for each in sessions if not each.live])
        described = []
        for session in sessions:
            if session.live:
                counts = context.recording.counts(session)
                lost = context.tables.lost(session.cgroup_id)
            else:
                details = ended.get(session.id, {})
                counts, lost = details.get("counts", {}), details.get("lost", 0)
            labels = context.labels.names(session) if session.live else ()
            described.append(answers.session_json(session, counts, lost, labels))
        return described


def _no_parameters(request: web.Request) -> None:
    answers.parameters(request.query, len(request.query), frozenset())


def _json(data: Any) -> web.Response:
    return web.Response(text=json.dumps(data), content_type="application/json")


def _error(
    status: int, message: str, hint: str = "", headers: dict[str, str] | None = None
) -> web.Response:
    body = {"error": message} | ({"hint": hint} if hint else {})
    return web.Response(
        text=json.dumps(body), status=status, content_type="application/json", headers=headers
    )


def _spoken(error: web.HTTPException) -> str:
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return f"the body is larger than {LARGEST_BODY} bytes"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{error.method} is not possible here"
    if isinstance(error, web.HTTPNotFound):
        return "there is nothing at this path"
    return error.reason

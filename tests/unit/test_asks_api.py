# SPDX-License-Identifier: Apache-2.0
"""/v1/asks: who sees and answers what, what a request may hold, and what watchers are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from monitor.daemon.api import answers
from monitor.daemon.api.access import Access
from monitor.daemon.api.asks import AskApi
from monitor.daemon.asks.asks import AskOver, UnknownAsk
from monitor.identity.chain import Principal
from monitor.kernel.peer import Peer
from tests.support.asking import World

ROOT = Peer(1, 0, 0, ())
ALICE = Peer(2, 1000, 1000, ())
MALLORY = Peer(3, 1001, 1001, ())

# The server sets `caller` by name too.
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")

Client = TestClient[web.Request, web.Application]


class Side:
    """The API around one World; requests come from `caller`."""

    def __init__(self, world: World, client: Client) -> None:
        self.world = world
        self.client = client
        self.caller = ALICE

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.client.get(path) as response:
            return response.status, await response.json()

    async def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        async with self.client.post(path, data=data) as response:
            return response.status, await response.json()


def serve(folder: Path, act: Callable[[Side], Awaitable[None]]) -> None:
    async def run() -> None:
        world = World(folder)
        context: Any = world.context
        side: Side

        @web.middleware
        async def edge(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            request["caller"] = side.caller
            try:
                return await handler(request)
            except answers.BadRequest as error:
                return web.json_response({"error": str(error)}, status=400)
            except UnknownAsk as error:
                return web.json_response({"error": str(error)}, status=404)
            except AskOver as error:
                return web.json_response({"error": str(error)}, status=409)

        application = web.Application(middlewares=[edge])
        application.add_routes(AskApi(context, Access("no-such-group")).routes())
        async with TestClient(TestServer(application)) as client:
            side = Side(world, client)
            await act(side)

    asyncio.run(run())


def test_what_waits_and_the_answer(tmp_path: Path) -> None:
    async def act(side: Side) -> None:
        assert await side.get("/v1/asks") == (200, {"asks": []})
        gate = side.world.hold()
        status, body = await side.get("/v1/asks")
        (ask,) = body["asks"]
        assert ask["argv"] == ["git", "push", "origin", "main"]
        assert ask["left"] > 290
        assert "token" not in ask
        status, body = await side.post(f"/v1/asks/{ask['id'][:5]}/approve", {"why": "ok"})
        assert status == 200
        assert (body["let"], body["more"], body["scope"]) == (1, None, "once")
        assert gate.answer.why == "ok"
        assert body["answer"]["by"] == gate.answer.by
        status, body = await side.post(f"/v1/asks/{ask['id']}/deny")
        assert status == 409
        assert " was approved by " in body["error"]
        status, body = await side.get(f"/v1/asks/{ask['id']}")
        assert body["ask"]["answer"]["allow"] is True

    serve(tmp_path, act)


def test_others_see_and_answer_nothing(tmp_path: Path) -> None:
    async def act(side: Side) -> None:
        gate = side.world.hold()
        assert gate.ask is not None
        side.caller = MALLORY
        assert await side.get("/v1/asks") == (200, {"asks": []})
        for token in ("", "x", gate.ask.id, "\u00e9", "\ud800"):
            status, body = await side.post(f"/v1/asks/{gate.ask.id}/approve", {"token": token})
            assert (status, body["error"]) == (404, f"no ask '{gate.ask.id}'")
        status, body = await side.get(f"/v1/asks/{gate.ask.id}")
        assert status == 404
        assert gate.held
        side.caller = ROOT
        status, body = await side.post(f"/v1/asks/{gate.ask.id}/deny")
        assert (status, gate.answer.by) == (200, "user:root")
        side.caller = MALLORY
        assert (await side.post(f"/v1/asks/{gate.ask.id}/deny"))[0] == 404, "nor what became of it"

    serve(tmp_path, act)


def test_whoever_has_the_token_may_answer_once(tmp_path: Path) -> None:
    async def act(side: Side) -> None:
        gate, other = side.world.hold(), side.world.hold(key="other")
        assert gate.ask is not None
        assert other.ask is not None
        side.caller = MALLORY
        token = gate.ask.token
        assert (await side.post(f"/v1/asks/{other.ask.id}/approve", {"token": token}))[0] == 404
        status, body = await side.post(f"/v1/asks/{gate.ask.id}/approve", {"token": token})
        assert status == 200
        assert gate.answer.by.endswith("with the ask's token")
        assert other.held
        assert (await side.post(f"/v1/asks/{gate.ask.id}/deny", {"token": token}))[0] == 409

    serve(tmp_path, act)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "the body is not JSON"),
        (b"[" * 10_000, "the body is not JSON"),
        ([], "the body is a JSON object"),
        ({"whom": 1}, "unknown field 'whom'"),
        ({"uses": 0}, "uses is a whole number from 1 to 1000000"),
        ({"uses": "3"}, "uses is a whole number"),
        ({"uses": True}, "uses is a whole number"),
        ({"session": 1}, "session is true or false"),
        ({"for": "soon"}, "for: 'soon' is not a duration"),
        ({"for": 600}, "for is text"),
        ({"uses": 1, "session": True}, "only one of uses, for and session can be given"),
        ({"why": "x" * 2000}, "why is longer than 1024 characters"),
    ],
    ids=str,
)
def test_what_cannot_be_understood(tmp_path: Path, body: Any, error: str) -> None:
    async def act(side: Side) -> None:
        gate = side.world.hold()
        assert gate.ask is not None
        data = json.dumps(body).encode() if not isinstance(body, bytes) else body
        status, answer = await side.post(f"/v1/asks/{gate.ask.id}/approve", data)
        assert status == 400
        assert error in answer["error"]
        assert gate.held

    serve(tmp_path, act)


def test_two_answers_at_once(tmp_path: Path) -> None:
    """Exactly one wins, and the other is told who did."""

    async def act(side: Side) -> None:
        for number in range(25):
            side.world.start("s1")
            side.world.asks._limits._raised.clear()
            gate = side.world.hold(key=str(number))
            assert gate.ask is not None
            path = f"/v1/asks/{gate.ask.id}"
            found = await asyncio.gather(side.post(f"{path}/approve"), side.post(f"{path}/deny"))
            assert sorted(status for status, _body in found) == [200, 409]
            assert gate.answer.allow is (found[0][0] == 200)

    serve(tmp_path, act)


def test_watchers_are_told_what_they_may_see(tmp_path: Path) -> None:
    async def act(side: Side) -> None:
        world = side.world
        bob = world.start("s2")
        object.__setattr__(bob.chain, "principal", Principal("bob", 1001))
        first = world.hold()
        async with side.client.get("/v1/asks?follow=1") as response:
            assert "ndjson" in response.headers["Content-Type"]

            async def line() -> Any:
                text = await asyncio.wait_for(response.content.readline(), 10)
                return json.loads(text)

            assert first.ask is not None
            assert (await line())["raised"]["id"] == first.ask.id
            world.hold(session="s2")
            second = world.hold(key="second")
            assert second.ask is not None
            assert (await line())["raised"]["id"] == second.ask.id
            assert world.asks._open[second.ask.id].reached
            world.deny(first.ask, why="no")
            over = await line()
            assert over["over"]["id"] == first.ask.id
            assert (over["answer"]["allow"], over["answer"]["why"]) == (False, "no")
            assert not any(
                open_.reached for open_ in world.asks._open.values() if open_.ask.wanted.key == "s2"
            )
            world.asks.telling.close()
            assert await response.content.readline() == b""

    serve(tmp_path, act)


def test_a_user_may_follow_so_often(tmp_path: Path) -> None:
    async def act(side: Side) -> None:
        opened = [await side.client.get("/v1/asks?follow=1") for _ in range(32)]
        async with side.client.get("/v1/asks?follow=1") as response:
            assert response.status == 429
        side.world.asks.telling.close()
        for each in opened:
            await each.read()
            each.close()
        await asyncio.sleep(0.1)
        async with side.client.get("/v1/asks?follow=1") as response:
            assert response.status == 200

    serve(tmp_path, act)


def test_half_a_character(tmp_path: Path) -> None:
    async def act(side: Side) -> None:
        gate = side.world.hold()
        assert gate.ask is not None
        status, _body = await side.post(f"/v1/asks/{gate.ask.id}/deny", {"why": "\ud800!"})
        assert (status, gate.answer.why) == (200, "\\ud800!")

    serve(tmp_path, act)


def test_unknown_parameters_and_asks(tmp_path: Path) -> None:
    async def act(side: Side) -> None:
        assert (await side.get("/v1/asks?al=1"))[0] == 400
        assert (await side.get("/v1/asks?follow=2"))[0] == 400
        assert (await side.get("/v1/asks/nothing"))[0] == 404
        assert (await side.post("/v1/asks/%ff%ff%ff%ff/deny"))[0] == 404

    serve(tmp_path, act)

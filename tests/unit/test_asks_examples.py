# SPDX-License-Identifier: Apache-2.0
"""The approvers in packaging/examples and the answer in docs/howto-approve.md do what they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from monitor.daemon.api.access import Access
from monitor.daemon.api.asks import AskApi
from monitor.daemon.asks import reply
from monitor.daemon.config import Approver
from monitor.kernel.peer import Peer
from monitor.policy.action import Verb, Verdict
from monitor.session.asks import How
from tests.support.asking import Gate, World
from tests.support.checkout import ROOT

EXAMPLES = ROOT / "packaging" / "examples"
WAIT_SECONDS = 20.0
SECRET = "0123456789abcdef"
# The server sets `caller` by name too.
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")


async def answered(gate: Gate) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while gate.held:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("status", "allow"), [(0, True), (1, False), (5, None)])
def test_the_dialog(tmp_path: Path, status: int, allow: bool | None) -> None:
    dialog = tmp_path / "zenity"
    dialog.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" "$DISPLAY" >{tmp_path}/shown\nexit {status}\n'
    )
    dialog.chmod(0o755)

    async def act() -> None:
        run = (str(EXAMPLES / "ask_dialog.py"), str(dialog))
        world = World(tmp_path, Approver(20, run=run))
        gate = world.hold(why="<b>\x1b[31m&")
        if allow is not None:
            await answered(gate)
            assert gate.answer.allow is allow
            return
        async with asyncio.timeout(WAIT_SECONDS):
            while not world.recorded(Verb.ASK_ANSWER, Verdict.ASK):
                await asyncio.sleep(0.01)
        assert gate.held
        assert world.asks.approvers.problems()[0].endswith("it ended with status 5")

    asyncio.run(act())
    shown = (tmp_path / "shown").read_text()
    assert "proc.exec  git push origin main" in shown
    assert "it is asked because: <b>?[31m&" in shown
    assert "--no-markup" in shown


@contextlib.asynccontextmanager
async def api(world: World) -> AsyncIterator[None]:
    """The API on its socket, for somebody who has no rights."""
    context: Any = world.context

    @web.middleware
    async def edge(request: web.Request, handler: Any) -> Any:
        request["caller"] = Peer(1, 4242, 4242, ())
        return await handler(request)

    application = web.Application(middlewares=[edge])
    application.add_routes(AskApi(context, Access("no-such-group")).routes())
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(world.config.socket))
    await web.SockSite(runner, listener).start()
    try:
        yield
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("line", "allow"),
    [("{} yes looks good", True), ("{} no", False), ("{} yes 10m later too", True)],
)
def test_the_webhook(tmp_path: Path, line: str, allow: bool) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    command = [str(EXAMPLES / "ask_webhook.py"), "--secret-file", str(secret), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--socket", str(tmp_path / "ri.sock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        output, port = process.stdout, int(process.stdout.readline().split()[-1])

        async def act() -> None:
            hook = Approver(20, post=f"http://127.0.0.1:{port}/", secret_file=secret)
            world = World(tmp_path, hook)
            async with api(world):
                gate = world.hold()
                assert gate.ask is not None
                shown = await asyncio.to_thread(output.readline)
                assert shown.startswith(f"{gate.ask.id}: user:alice > ")
                assert "wants proc.exec git push origin main: pushes are reviewed" in shown
                assert gate.held
                assert process.stdin is not None
                process.stdin.write(f"what?\n{line.format(gate.ask.id)}\n")
                process.stdin.flush()
                assert (await asyncio.to_thread(output.readline)).startswith("say ID yes|no")
                await answered(gate)
                said = await asyncio.to_thread(output.readline)
                assert said.endswith(": done\n")
                assert (gate.answer.allow, gate.answer.how) == (allow, How.APPROVER)
                assert gate.answer.uses == (None if "10m" in line else 1)

        asyncio.run(act())
        forged = urllib.request.Request(
            f"http://127.0.0.1:{port}/", b"{}", {"X-RI-Timestamp": "1", "X-RI-Signature": "v1=00"}
        )
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(forged, timeout=10)
    finally:
        process.kill()
        process.communicate()


def test_the_answer_in_the_document() -> None:
    text = (ROOT / "docs" / "howto-approve.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```json\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    found = reply.parse(block.encode())
    assert found is not None
    assert (found.allow, found.scope.uses, found.why) == (True, 1, "looked at it")
    for scope in re.findall(r'`("(?:for|session)": [^`]+)`', text):
        assert reply.parse(json.dumps(json.loads(f'{{"answer": "deny", {scope}}}')).encode())

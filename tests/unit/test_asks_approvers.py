# SPDX-License-Identifier: Apache-2.0
"""Approvers: programs and webhooks that answer, crash, hang, and say what cannot be understood."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from monitor.daemon.asks import approvers as module
from monitor.daemon.config import Approver
from monitor.policy.action import Verb, Verdict
from monitor.session.asks import How
from tests.support.asking import Gate, World

SECRET = "correct horse battery staple"
WAIT_SECONDS = 15.0


def run(action: Coroutine[Any, Any, None]) -> None:
    asyncio.run(action)


def program(folder: Path, body: str, *arguments: str, timeout: float = 10.0) -> Approver:
    file = folder / f"approver{len(list(folder.glob('approver*')))}"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return Approver(timeout, run=(str(file), *arguments))


async def until(condition: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not so in time"
        await asyncio.sleep(0.01)


async def answered(world: World, gate: Gate) -> None:
    await until(lambda: not gate.held)
    assert gate.answer.how is How.APPROVER


async def failed(world: World, gate: Gate) -> str:
    """Wait for the record of a failure; the action is held on. What it says."""
    await until(lambda: bool(world.recorded(Verb.ASK_ANSWER, Verdict.ASK)))
    assert gate.held
    (record,) = world.recorded(Verb.ASK_ANSWER, Verdict.ASK)
    assert record.details["ask"] == (gate.ask.id if gate.ask else "")
    assert world.asks.approvers.problems() == [
        f"{record.details['approver']}: {record.details['problem']}"
    ]
    world.deny(gate.ask)
    return str(record.details["problem"])


# -- programs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "allow", "later"),
    [
        ('{"answer": "approve"}', True, "held"),
        ('{"answer": "approve", "uses": 2, "why": "fine"}', True, "approved"),
        ('{"answer": "approve", "for": "10m"}', True, "approved"),
        ('{"answer": "deny", "session": true}', False, "denied"),
        ('{"answer": "deny"}', False, "held"),
    ],
)
def test_a_program_answers(tmp_path: Path, says: str, allow: bool, later: str) -> None:
    async def act() -> None:
        world = World(tmp_path, program(tmp_path, f"cat >{tmp_path}/seen; echo '{says}'"))
        gate = world.hold()
        await answered(world, gate)
        assert gate.answer.allow is allow
        assert gate.answer.by == f"approver {tmp_path}/approver0"
        world.asks.approvers.close()
        again = world.hold()
        assert later == ("held" if again.held else again.answer.reason.partition(" ")[0])

    run(act())
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["argv"] == ["git", "push", "origin", "main"]
    assert seen["chain"][0] == "user:alice"
    assert (seen["verb"], seen["purpose"], seen["count"]) == ("proc.exec", "fix the build", 1)
    assert len(seen["token"]) >= 32


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("exit 3", "it ended with status 3"),
        ("echo no display >&2; exit 1", "it ended with status 1: no display"),
        ('echo \'{"answer": "approve"}\'; exit 1', "it ended with status 1"),
        ("kill -SEGV $$", "it ended with signal 11"),
        ("echo approve", "the answer is not JSON"),
        ("echo '[]'", "the answer is not a JSON object"),
        ("echo '{}'", "answer is approve or deny"),
        ("echo '{\"answer\": true}'", "answer is approve or deny"),
        ('echo \'{"answer": "approve", "whom": 1}\'', "the answer has an unknown field 'whom'"),
        ('echo \'{"answer": "approve", "uses": 0}\'', "uses is a whole number from 1 to 1000000"),
        ('echo \'{"answer": "approve", "uses": true}\'', "uses is a whole number"),
        ('echo \'{"answer": "approve", "uses": 1, "for": "1m"}\'', "only one of uses, for and"),
        ('echo \'{"answer": "approve", "for": "ever"}\'', "for: 'ever' is not a duration"),
        ('echo \'{"answer": "approve", "session": "yes"}\'', "session is true or false"),
        ('echo \'{"answer": "approve", "why": 7}\'', "why is text"),
        ("printf '\\377\\000'", "the answer is not JSON"),
        ("head -c 100000 /dev/zero | tr '\\0' '['", "it answered with more than 65536 bytes"),
        ("head -c 60000 /dev/zero | tr '\\0' '['", "the answer is not JSON"),
        ("cat /dev/zero", "it answered with more than 65536 bytes"),
        ("sleep 100", "no answer within 1 s"),
        ("trap '' TERM INT HUP; sleep 100 & wait; sleep 100", "no answer within 1 s"),
    ],
)
def test_a_program_that_fails_leaves_the_ask_to_people(
    tmp_path: Path, body: str, problem: str
) -> None:
    async def act() -> None:
        world = World(tmp_path, program(tmp_path, body, timeout=1))
        assert problem in await failed(world, world.hold())

    run(act())


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path, Approver(5, run=(str(tmp_path / "none"),)))
        said = await failed(world, world.hold())
        assert said == (
            f"it ended with status 127: cannot run {tmp_path}/none: No such file or directory"
        )

    run(act())


def test_a_user_who_is_gone(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path, Approver(5, run=("/bin/true",), user="no-such-user"))
        assert "no-such-user" in await failed(world, world.hold())

    run(act())


def test_a_program_may_say_nothing(tmp_path: Path) -> None:
    """It told somebody: then the profile's fallback for asks that reach nobody is out."""

    async def act() -> None:
        world = World(tmp_path, program(tmp_path, f"touch {tmp_path}/told"))
        gate = world.hold()
        await until((tmp_path / "told").exists)
        await until(lambda: not world.asks.approvers.asking(gate.ask.id if gate.ask else ""))
        assert gate.held
        assert [open_.reached for open_ in world.asks._open.values()] == [True]
        assert world.asks.approvers.problems() == []

    run(act())


def test_a_program_need_not_read_and_may_leave_something_behind(tmp_path: Path) -> None:
    async def act() -> None:
        body = 'exec <&-; sleep 30 & echo $! >left; echo \'{"answer": "deny"}\''
        world = World(tmp_path, program(tmp_path, f"cd {tmp_path}; {body}"))
        gate = world.hold(argv=("x" * 1_000_000,))
        began = time.monotonic()
        await answered(world, gate)
        assert time.monotonic() - began < 8

    try:
        run(act())
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("end", ["answer", "close"])
def test_a_program_that_is_not_needed_any_more_is_killed(tmp_path: Path, end: str) -> None:
    async def act() -> None:
        body = f"echo $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 100"
        world = World(tmp_path, program(tmp_path, body, timeout=100))
        gate = world.hold()
        await until((tmp_path / "pid").exists)
        if end == "answer":
            world.approve(gate.ask)
        else:
            world.asks.close()
        pid = int((tmp_path / "pid").read_text())
        await until(lambda: not Path(f"/proc/{pid}").exists())
        assert world.recorded(Verb.ASK_ANSWER, Verdict.ASK) == []

    run(act())


def test_a_program_dies_with_the_worker(tmp_path: Path) -> None:
    body = f"echo $$ >{tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 100"
    approver = program(tmp_path, body, timeout=100)
    worker = os.fork()
    if worker == 0:
        with contextlib.suppress(BaseException):

            async def act() -> None:
                World(tmp_path, approver).hold()
                await asyncio.sleep(100)

            run(act())
        os._exit(1)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
    pid = int((tmp_path / "pid").read_text())
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(
        f"/proc/{pid}/status"
    ).read_text(errors="replace"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_asks_are_taken_some_at_a_time(tmp_path: Path) -> None:
    """One program for each, never more than eight, and none for what is over."""

    async def act() -> None:
        body = (
            f"echo >>{tmp_path}/ran; echo >{tmp_path}/run.$$; ls {tmp_path}/run.* | wc -l"
            f' >>{tmp_path}/most; sleep 0.05; rm {tmp_path}/run.$$; echo \'{{"answer": "deny"}}\''
        )
        world = World(tmp_path, program(tmp_path, body))
        for number in range(3):
            world.start(f"t{number}")
        gates = [world.hold(session=f"t{number % 3}", key=str(number)) for number in range(60)]
        for gate in gates[30:]:
            world.approve(gate.ask)
        await until(lambda: not any(gate.held for gate in gates))
        assert not any(gate.answer.allow for gate in gates[:30])

    run(act())
    most = max(int(line) for line in (tmp_path / "most").read_text().split())
    assert 1 < most <= module.AT_ONCE
    assert len((tmp_path / "ran").read_text().splitlines()) == 30


def test_two_programs_answer_at_once(tmp_path: Path) -> None:
    async def act() -> None:
        yes = program(tmp_path, 'echo \'{"answer": "approve"}\'')
        no = program(tmp_path, 'echo \'{"answer": "deny"}\'')
        world = World(tmp_path, yes, no)
        for number in range(20):
            gate = world.hold(key=str(number))
            await answered(world, gate)
            assert gate.answer.by.endswith("0" if gate.answer.allow else "1")
        assert len(world.recorded(Verb.ASK_ANSWER)) == 20

    run(act())


def test_the_environment_of_a_program(tmp_path: Path) -> None:
    async def act() -> None:
        world = World(tmp_path, program(tmp_path, f"env >{tmp_path}/env; pwd >>{tmp_path}/env"))
        world.hold()
        await until(lambda: "/\n" in _text(tmp_path / "env"))

    run(act())
    lines = _text(tmp_path / "env").splitlines()
    names = {line.partition("=")[0] for line in lines}
    assert {"PATH", "LANG", "HOME", "RI_SOCKET"} <= names <= {
        "PATH", "LANG", "HOME", "RI_SOCKET", "PWD", "OLDPWD", "SHLVL", "_", "/",
    }  # fmt: skip


def _text(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text()
    return ""


# -- webhooks --------------------------------------------------------------------------------------


class Hook:
    """A receiver that answers what a test says."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answer: Callable[[], web.StreamResponse] = web.Response
        self.delay = 0.0
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((dict(request.headers), await request.read()))
        await asyncio.sleep(self.delay)
        return self.answer()


@contextlib.asynccontextmanager
async def serving(hook: Hook) -> AsyncIterator[None]:
    application = web.Application()
    application.add_routes([web.route("*", "/{tail:.*}", hook.handle)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hook.port = runner.addresses[0][1]
    try:
        yield
    finally:
        await runner.cleanup()


def webhook(folder: Path, port: int, timeout: float = 5.0, mode: int = 0o600) -> Approver:
    secret = folder / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(mode)
    return Approver(timeout, post=f"http://127.0.0.1:{port}/ask?room=1", secret_file=secret)


def test_a_webhook_answers_and_can_check_who_asks(tmp_path: Path) -> None:
    hook = Hook()
    hook.answer = lambda: web.json_response({"answer": "approve", "why": "chat"})

    async def act() -> None:
        async with serving(hook):
            world = World(tmp_path, webhook(tmp_path, hook.port))
            gate = world.hold()
            await answered(world, gate)
            assert gate.answer.reason == f"approved by approver http://127.0.0.1:{hook.port}: chat"

    run(act())
    ((headers, body),) = hook.requests
    stamp = headers["X-RI-Timestamp"]
    assert abs(int(stamp) - time.time()) < 60
    expected = hmac.new(SECRET.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["X-RI-Signature"] == f"v1={expected}"
    assert json.loads(body)["object"] == "/usr/bin/git"


def test_a_webhook_may_answer_later(tmp_path: Path) -> None:
    async def act() -> None:
        hook = Hook()
        async with serving(hook):
            world = World(tmp_path, webhook(tmp_path, hook.port))
            gate = world.hold()
            await until(lambda: any(open_.reached for open_ in world.asks._open.values()))
            assert gate.held

    run(act())


def _endless() -> web.Response:
    return web.Response(body=b"[" * 100_000)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda: web.Response(status=500), "it answered with HTTP status 500"),
        (lambda: web.Response(status=302, headers={"Location": "/x"}), "HTTP status 302"),
        (lambda: web.Response(text="ok"), "the answer is not JSON"),
        (lambda: web.json_response({"answer": "maybe"}), "answer is approve or deny"),
        (lambda: web.json_response({"answer": "approve", "uses": -1}), "uses is a whole number"),
        (_endless, "it answered with more than 65536 bytes"),
    ],
)
def test_a_webhook_that_answers_garbage(
    tmp_path: Path, answer: Callable[[], web.Response], problem: str
) -> None:
    async def act() -> None:
        hook = Hook()
        hook.answer = answer
        async with serving(hook):
            world = World(tmp_path, webhook(tmp_path, hook.port))
            assert problem in await failed(world, world.hold())
        assert len(hook.requests) == 1, "redirects are not followed"

    run(act())


def test_a_webhook_that_hangs(tmp_path: Path) -> None:
    async def act() -> None:
        hook = Hook()
        hook.delay = 100
        async with serving(hook):
            world = World(tmp_path, webhook(tmp_path, hook.port, timeout=0.5))
            assert await failed(world, world.hold()) == "no answer within 0.5 s"

    run(act())


def test_nobody_listens(tmp_path: Path) -> None:
    async def act() -> None:
        hook = Hook()
        async with serving(hook):
            pass
        world = World(tmp_path, webhook(tmp_path, hook.port))
        assert "cannot reach it" in await failed(world, world.hold())

    run(act())


def test_something_that_is_no_web_server(tmp_path: Path) -> None:
    async def act() -> None:
        async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"\xff\x00 what?\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        world = World(tmp_path, webhook(tmp_path, port))
        assert "cannot reach it" in await failed(world, world.hold())
        server.close()

    run(act())


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (lambda file: file.chmod(0o644), "is open to others than its owner: chmod 600 it"),
        (lambda file: file.unlink(), "No such file or directory"),
        (lambda file: file.write_text("short"), "holds from 16 to 4096 bytes"),
        (lambda file: file.write_bytes(b"x" * 5000), "holds from 16 to 4096 bytes"),
    ],
)
def test_the_secret_must_be_one(
    tmp_path: Path, prepare: Callable[[Path], object], problem: str
) -> None:
    async def act() -> None:
        hook = Hook()
        async with serving(hook):
            approver = webhook(tmp_path, hook.port)
            assert approver.secret_file is not None
            prepare(approver.secret_file)
            world = World(tmp_path, approver)
            assert problem in await failed(world, world.hold())
        assert hook.requests == []

    run(act())


def test_the_name_of_a_webhook_keeps_its_path_to_itself() -> None:
    approver = Approver(5, post="https://chat.example/hooks/T0KEN?key=1", secret_file=Path("/s"))
    assert approver.name == "approver https://chat.example"


@pytest.fixture(autouse=True)
def no_python_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")

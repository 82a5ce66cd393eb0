# SPDX-License-Identifier: Apache-2.0
"""Approvers as another user: nothing of the daemon's authority or descriptors is left to them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.daemon.config import Approver
from monitor.policy.action import Verb, Verdict
from tests.support.asking import World
from tests.support.daemon import User

LOOK = """#!/bin/sh
cat /proc/self/status >{0}/status
ls -l /proc/self/fd >{0}/fds
env >{0}/env
cat >{0}/ask
echo '{{"answer": "approve"}}'
"""


@pytest.fixture
def folder(user: User) -> Iterator[Path]:
    place = user.home / f"look{time.monotonic_ns()}"
    place.mkdir()
    os.chown(place, user.uid, user.gid)
    yield place


def test_a_program_runs_as_the_user_that_is_named(tmp_path: Path, folder: Path, user: User) -> None:
    program = folder / "program"
    program.write_text(LOOK.format(folder))
    program.chmod(0o755)
    left = os.open("/", os.O_RDONLY)
    os.set_inheritable(left, True)

    async def act() -> None:
        world = World(tmp_path, Approver(10, run=(str(program),), user=user.name))
        gate = world.hold()
        async with asyncio.timeout(20):
            while gate.held:
                await asyncio.sleep(0.01)
        assert gate.answer.allow

    try:
        asyncio.run(act())
    finally:
        os.close(left)
    status = dict(
        line.split(":\t", 1)
        for line in (folder / "status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == [str(user.uid)] * 4
    assert status["Gid"].split() == [str(user.gid)] * 4
    assert status["Groups"].split() == [str(user.gid)]
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    numbers = [line.split()[8] for line in (folder / "fds").read_text().splitlines()[1:]]
    assert {"0", "1", "2"} <= set(numbers)
    assert len(numbers) == 4, "and the folder that ls reads"
    assert f"HOME={user.home}" in (folder / "env").read_text()
    assert (folder / "ask").stat().st_uid == user.uid


def test_a_program_that_the_user_may_not_run(tmp_path: Path, user: User) -> None:
    program = tmp_path / "secret"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)

    async def act() -> None:
        world = World(tmp_path, Approver(10, run=(str(program),), user=user.name))
        gate = world.hold()
        async with asyncio.timeout(20):
            while not world.recorded(Verb.ASK_ANSWER, Verdict.ASK):
                await asyncio.sleep(0.01)
        assert gate.held
        assert "Permission denied" in world.asks.approvers.problems()[0]

    asyncio.run(act())

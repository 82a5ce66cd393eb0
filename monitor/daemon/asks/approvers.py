# SPDX-License-Identifier: Apache-2.0
"""The approvers of the configuration: each is told of every ask, some at a time, in order.

What goes wrong with one is recorded and changes nothing: the action is held on for people.
"""

from __future__ import annotations

import asyncio
import json
import traceback
from collections import deque
from typing import TYPE_CHECKING

from monitor.daemon.asks import programs, webhooks
from monitor.daemon.asks.programs import ApproverFailed
from monitor.daemon.asks.reply import Reply
from monitor.daemon.config import Approver, Config
from monitor.session.asks import How

if TYPE_CHECKING:
    from monitor.daemon.asks.asks import Asks

# Of one approver.
AT_ONCE = 8


class Approvers:
    """All of them, for the asks of one worker."""

    def __init__(self, config: Config, asks: Asks) -> None:
        self._lines = [_Line(each, config, asks) for each in config.approvers]

    def ask(self, identity: str) -> None:
        """Have every approver asked."""
        for line in self._lines:
            line.ask(identity)

    def over(self, identity: str) -> None:
        """The ask is over: who is being asked need not answer any more."""
        for line in self._lines:
            line.over(identity)

    def asking(self, identity: str) -> bool:
        """Whether one is being asked right now."""
        return any(identity in line.running for line in self._lines)

    def problems(self) -> list[str]:
        """Approvers that did not work when they were last asked, and why."""
        return [f"{line.approver.name}: {line.problem}" for line in self._lines if line.problem]

    def close(self) -> None:
        for line in self._lines:
            line.close()


class _Line:
    """One approver, and the asks that wait for it."""

    def __init__(self, approver: Approver, config: Config, asks: Asks) -> None:
        self.approver = approver
        self.problem = ""
        self.running: dict[str, asyncio.Task[None]] = {}
        self._config = config
        self._asks = asks
        self._waiting: deque[str] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, identity: str) -> None:
        self._waiting.append(identity)
        self._fill()

    def over(self, identity: str) -> None:
        task = self.running.pop(identity, None)
        # An approver's own answer ends the ask from within its task.
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def close(self) -> None:
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()

    def _fill(self) -> None:
        while self._waiting and len(self._tasks) < AT_ONCE:
            identity = self._waiting.popleft()
            if self._asks.waits(identity):
                task = asyncio.create_task(self._run(identity))
                self.running[identity] = task
                self._tasks.add(task)
                task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            traceback.print_exception(error)
        self._fill()

    async def _run(self, identity: str) -> None:
        body = json.dumps(self._asks.described(identity)).encode()
        problem = ""
        try:
            reply = await self._reply(body)
        except ApproverFailed as error:
            problem = str(error)
        finally:
            self.running.pop(identity, None)
        self.problem = problem
        if problem:
            self._asks.approver_failed(identity, self.approver.name, problem)
            return
        self._asks.reached([identity])
        if reply is not None and self._asks.waits(identity):
            self._asks.answer(identity, reply, How.APPROVER, self.approver.name)

    async def _reply(self, body: bytes) -> Reply | None:
        if self.approver.run:
            return await programs.ask(self.approver, body, self._config.socket)
        return await webhooks.ask(self.approver, body)

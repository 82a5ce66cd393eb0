# SPDX-License-Identifier: Apache-2.0
"""A source of the gate: the system calls that one filter's listener brings.

The listener is that of a session that no other is around, and serves those inside it as well: which
session a call is of is told by the cgroup of who makes it. Whatever goes wrong here is a call
refused, or one that the kernel refuses; never one let through.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monitor.daemon.gate.facts import Facts
from monitor.daemon.gate.starts import Judge
from monitor.daemon.gate.task import Task
from monitor.kernel.cgroup import OWN
from monitor.kernel.notify import Listener, Notification

if TYPE_CHECKING:
    from monitor.daemon.gate.office import Office
    from monitor.daemon.gate.unix_connects import Making

Handler = Callable[["Calls", "Call"], None]


@dataclass(slots=True)
class Call:
    """One waiting call, and who makes it."""

    notification: Notification
    task: Task
    known: Known


@dataclass(slots=True)
class Known:
    """A session that this listener serves."""

    facts: Facts
    judge: Judge


@dataclass(slots=True)
class _Held:
    """A call that waits for people; `number` is that of its ask."""

    call: Call
    number: int
    dropped: Callable[[], None]


class Calls:
    """The calls of one listener. `handlers` are by the call's number."""

    def __init__(
        self,
        office: Office,
        listener: Listener,
        root: int,
        handlers: dict[int, Handler],
        hear: Callable[[], None],
        ended: Callable[[Calls], None],
    ) -> None:
        """Takes over `listener` and `root`, the sessions' root directory.

        `hear` takes in what the worker has said meanwhile; `ended` is called when nobody wears the
        filter any more.
        """
        self.office = office
        self.listener = listener
        self.root = root
        self._handlers = handlers
        self._hear = hear
        self._ended = ended
        self._known: dict[str, Known] = {}
        self._held: dict[int, _Held] = {}  # by the slot of the call
        self._making: list[Making] = []  # connections on their way

    def fileno(self) -> int:
        return self.listener.fileno()

    # -- sessions ------------------------------------------------------------------------------

    def know(self, facts: Facts) -> None:
        """Serve this session from now on, or under other rules."""
        judge = Judge(facts, self.root, self.office.contents)
        self._known[facts.cgroup] = Known(facts, judge)
        for problem in judge.problems:
            self.office.tell_problem(facts, problem)

    def forget(self, session: str) -> None:
        """A session inside has ended; what still is of it is refused."""
        for cgroup, known in list(self._known.items()):
            if known.facts.session == session:
                del self._known[cgroup]

    def look(self) -> None:
        """Now and then: files whose content matters, and calls that wait no more."""
        for known in self._known.values():
            known.judge.look()
        for slot, held in list(self._held.items()):
            if not self.listener.is_waiting(held.call.notification):
                del self._held[slot]
                self.office.desk.gone(held.number)
                self.drop(held.call)
                held.dropped()
        for making in list(self._making):
            if not self.listener.is_waiting(making.call.notification):
                making.abandon()
                self.drop(making.call)

    def close(self) -> None:
        """What waits stays waiting, for the next gate or for its end."""
        for held in self._held.values():
            self.office.desk.gone(held.number)
            held.dropped()
        self._held.clear()
        for making in list(self._making):
            making.abandon()
        self.listener.close()
        os.close(self.root)

    # -- calls ---------------------------------------------------------------------------------

    def resume(self) -> None:
        """Decide again on what a gate before this one had taken and not answered."""
        for notification in list(self.listener.slots.taken()):
            self._begin(notification)

    def ready(self) -> None:
        notification = self.listener.receive()
        if notification is not None:
            self._begin(notification)

    def hung_up(self) -> None:
        """Nobody wears the filter any more."""
        self._ended(self)

    def _begin(self, notification: Notification) -> None:
        task = Task(notification.thread)
        call = Call(notification, task, next(iter(self._known.values())))
        try:
            known = self._session_of(task)
            if known is None:
                self.refuse(call, errno.EPERM)
            else:
                call.known = known
                self._handlers[notification.number](self, call)
        except OSError:  # it is gone, or its process is
            self.refuse(call, errno.EPERM)
        except Exception:  # the edge of one call: it is refused, and the others go on
            self.office.faults += 1
            if self.office.faults < 100:
                traceback.print_exc()
            self.refuse(call, errno.EPERM)

    def _session_of(self, task: Task) -> Known | None:
        if len(self._known) == 1 and not self.office.has_inner(self):
            return next(iter(self._known.values()))
        cgroup = task.cgroup
        found = self._find(cgroup)
        if found is None:
            # The worker tells of a session before it lets it run; it may just not be read yet.
            self._hear()
            found = self._find(cgroup)
        return found

    def _find(self, cgroup: str) -> Known | None:
        return self._known.get(cgroup) or self._known.get(cgroup.removesuffix(f"/{OWN}"))

    def is_waiting(self, call: Call) -> bool:
        """Whether what was read so far is of the process that made the call."""
        return self.listener.is_waiting(call.notification)

    # -- answers -------------------------------------------------------------------------------

    def go_on(self, call: Call) -> bool:
        """Let the kernel make the call; False: it waits no more."""
        return self.listener.go_on(call.notification)

    def succeed(self, call: Call) -> None:
        """The call has been made in its place."""
        self.listener.succeed(call.notification)

    def refuse(self, call: Call, error: int) -> None:
        self.listener.refuse(call.notification, error)

    def hold(
        self,
        call: Call,
        questions: list[Any],
        answered: Callable[[bool, str], None],
        dropped: Callable[[], None],
        details: dict[str, Any] | None = None,
    ) -> None:
        """Keep the call waiting until all questions are answered, or until it is gone."""
        slot = call.notification.slot

        def done(allow: bool, reason: str) -> None:
            held = self._held.pop(slot, None)
            if held is None:
                return
            if not self.listener.is_waiting(call.notification):
                self.drop(call)
                dropped()
                return
            try:
                answered(allow, reason)
            except Exception:  # as in _begin
                self.office.faults += 1
                traceback.print_exc()
                self.refuse(call, errno.EPERM)

        number = self.office.desk.ask(call.known.facts.session, questions, done, details)
        self._held[slot] = _Held(call, number, dropped)

    # -- connections that are made here --------------------------------------------------------

    def making(self, call: Call) -> int:
        """How many connections of the call's session are on their way."""
        session = call.known.facts.session
        return sum(each.call.known.facts.session == session for each in self._making)

    def make(self, making: Making) -> None:
        self._making.append(making)
        self.office.loop.add(making)

    def made(self, making: Making) -> None:
        """It is over, before its descriptor is closed."""
        self.office.loop.remove(making)
        self._making.remove(making)

    # ------------------------------------------------------------------------------------------

    def drop(self, call: Call) -> None:
        """The call waits no more."""
        self.listener.forget(call.notification)

# SPDX-License-Identifier: Apache-2.0
"""The gate's process: `python3 -P -m monitor.daemon.gate.process FD INSTANCE`.

FD is a SOCK_SEQPACKET socket to the worker, with which it lives and dies: so that it is never slow
because the worker records, and never alone. What waits is found again by the next one.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from typing import Any

from monitor.daemon.gate import deletes, execs
from monitor.daemon.gate.calls import Call, Calls, Handler
from monitor.daemon.gate.channel import Channel
from monitor.daemon.gate.desk import Desk
from monitor.daemon.gate.facts import Facts
from monitor.daemon.gate.loop import Loop
from monitor.daemon.gate.office import Office
from monitor.daemon.gate.opens import Opens, OpensFacts, out_of_the_way
from monitor.kernel.libc import dies_with_parent
from monitor.kernel.notify import Listener
from monitor.policy.syscalls import NUMBERS

# Ahead of what else the host does: a program waits for each answer.
NICENESS = -20
# How soon it is noticed that a held call waits no more, and that a file has changed.
LOOK_SECONDS = 0.5
# What is left in cycles is collected while nothing waits.
COLLECT_SECONDS = 5.0


def _connect(calls: Calls, call: Call) -> None:
    # Here: few sessions ask about connections, and it brings the profile's models with it.
    from monitor.daemon.gate import connects

    connects.handle(calls, call)


_EXECS: dict[int, Handler] = {
    NUMBERS["execve"]: execs.handle,
    NUMBERS["execveat"]: execs.handle,
    NUMBERS["connect"]: _connect,
}
_DELETES: dict[int, Handler] = dict.fromkeys(
    map(NUMBERS.__getitem__, deletes.PLACES), deletes.handle
)
HANDLERS = _EXECS | _DELETES


class Gate:
    """One gate: what the worker says, and the sources that it makes of it."""

    def __init__(self, connection: socket.socket, instance: str) -> None:
        self.loop = Loop()
        self.channel = Channel(connection, self._blocked)
        self.desk = Desk(self.channel)
        self.office = Office(instance, self.desk, self.loop)
        self._calls: dict[str, Calls] = {}  # by the session that no other is around
        self._opens: dict[str, Opens] = {}
        self._outer: dict[str, str] = {}  # a session -> the outermost around it
        self.loop.add(self)
        self.loop.every(LOOK_SECONDS, self._look)
        self.loop.every(COLLECT_SECONDS, self._collect)
        self.channel.send({"say": "ready", "pid": os.getpid()})

    def fileno(self) -> int:
        return self.channel.fileno()

    def ready(self) -> None:
        """Take in what the worker says."""
        try:
            while (received := self.channel.receive()) is not None:
                message, descriptors = received
                self._take(message, descriptors)
        except ConnectionError:
            # The worker is gone, and the next one starts a gate of its own.
            os._exit(0)

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        match message["do"]:
            case "answer":
                self.desk.take_answer(message)
            case "session":
                self._session(message, descriptors)
            case "end":
                self._end(message["session"])
            case "opens":
                self._open(message, descriptors)
            case "opens.unearned":
                opens = self._opens.get(message["session"])
                if opens is not None:
                    opens.unearned(set(message["labels"]))
            case "echo":
                self.channel.send({"say": "echo", "number": message["number"]})
            case "opens.end":
                self._close(message["session"])

    # -- calls ---------------------------------------------------------------------------------

    def _session(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """A session starts, or goes on under other rules."""
        plan, *listening = descriptors
        try:
            facts = Facts.from_message(message, plan)
        finally:
            os.close(plan)
        self._outer[facts.session] = facts.outermost
        calls = self._calls.get(facts.outermost)
        if listening:
            # Opens that an earlier gate had read are known by their low numbers.
            descriptor, slots, root = map(out_of_the_way, listening)
            if calls is not None:
                self._finish(calls)
            listener = Listener(descriptor, slots)
            calls = Calls(self.office, listener, root, HANDLERS, self.ready, self._finish)
            calls.know(facts)
            self._calls[facts.outermost] = calls
            self.loop.add(calls)
            # Sessions inside come next, and what waits may be theirs.
            self.loop.after(0, calls.resume)
        elif calls is not None:
            if facts.session != facts.outermost:
                self.office.let_inner(calls)
            calls.know(facts)

    def _end(self, session: str) -> None:
        outermost = self._outer.pop(session, session)
        calls = self._calls.get(outermost)
        if calls is None:
            return
        if outermost == session:
            self._finish(calls)
        else:
            calls.forget(session)

    def _finish(self, calls: Calls) -> None:
        self.loop.remove(calls)
        self.office.forget(calls)
        for outermost in [name for name, each in self._calls.items() if each is calls]:
            del self._calls[outermost]
        calls.close()

    # -- opens ---------------------------------------------------------------------------------

    def _open(self, message: dict[str, Any], descriptors: list[int]) -> None:
        facts = OpensFacts.from_json(message)
        known = self._opens.get(facts.session)
        if known is not None and not descriptors:
            known.change(facts)
            return
        if known is not None:
            self._close(facts.session)
        group, memory = descriptors
        opens = Opens(facts, group, memory, self.desk, self._earn)
        self._opens[facts.session] = opens
        self.loop.add(opens)
        if not message["fresh"]:
            opens.resume()

    def _earn(self, policy: int) -> None:
        self.office.authority.earn(policy)

    def _close(self, session: str) -> None:
        opens = self._opens.pop(session, None)
        if opens is not None:
            self.loop.remove(opens)
            opens.close()

    # ------------------------------------------------------------------------------------------

    def _blocked(self, waiting: bool) -> None:
        if waiting:
            self.loop.after(0.01, self.channel.flush)

    def _look(self) -> None:
        for calls in list(self._calls.values()):
            calls.look()

    def _collect(self) -> None:
        if not self.desk.waiting:
            gc.collect(0)


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker's end is ours
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = int(sys.argv[3])
    dies_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        return 0
    os.umask(0o077)
    with contextlib.suppress(OSError):  # CAP_SYS_NICE
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    gate = Gate(socket.socket(fileno=out_of_the_way(int(sys.argv[1]))), sys.argv[2])
    gc.freeze()
    gc.disable()
    gate.loop.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())

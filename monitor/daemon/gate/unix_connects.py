# SPDX-License-Identifier: Apache-2.0
"""connect(2) to unix names that the session may redirect: made here, in a process of its own.

The kernel refuses such a connection to the session itself (RI_UNHELD), so that whatever is read
here and changed afterwards leads nowhere. Every other name is the kernel's to decide on.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import stat

from monitor.audit import objects
from monitor.daemon.gate.calls import Call, Calls
from monitor.daemon.gate.connecting import Outcome, Wanted, start
from monitor.daemon.gate.opens import out_of_the_way
from monitor.kernel.pidfd import copy_descriptor
from monitor.policy.action import Verb, Verdict
from monitor.policy.plan import Policy, RecordChoice

# linux/un.h: struct sockaddr_un
FAMILY, LONGEST = 2, 110
# Connections of one listener that may be on their way; each has a process of its own.
MOST = 16
# More is not said on the way: an error and a name.
ANSWER = 8192
# Names that are remembered as told of.
TOLD = 4096


def handle(calls: Calls, call: Call, policies: list[Policy]) -> None:
    """Make the connection where every rule set lists the name, and it is held."""
    facts = call.known.facts
    name = _name(call)
    listed = [{os.fsencode(rule.path): rule for rule in policy.unix} for policy in policies]
    rules = [each[name] for each in listed if name in each]
    if len(rules) < len(policies) or not any(rule.held for rule in rules):
        calls.go_on(call)  # the kernel's own answer
        return
    if calls.office.shut(facts):
        calls.go_on(call)
        return
    if calls.making(call) >= MOST:
        calls.refuse(call, errno.EAGAIN)
        return
    number = call.notification.arguments[0] & 0xFFFFFFFF
    try:
        copy = out_of_the_way(copy_descriptor(call.task.thread, call.task.group, number))
    except OSError:
        calls.go_on(call)  # the kernel fails as well
        return
    try:
        if not _is_unix(copy) or not calls.is_waiting(call):
            calls.go_on(call)  # the kernel fails, or it waits no more
            return
        names = frozenset(set.intersection(*map(set, listed)))
        wanted = Wanted(call.task.thread, copy, calls.root, name, names, facts.cgroup_id)
        pid, descriptor = start(wanted, calls.office.unix_tickets)
    except OSError:
        os.close(copy)
        raise
    text = str(policies[-1].rules[rules[-1].rule])
    calls.make(Making(calls, call, copy, pid, out_of_the_way(descriptor), name, text))


class Making:
    """A connection on its way, as a source of the gate's loop."""

    def __init__(
        self,
        calls: Calls,
        call: Call,
        copy: int,
        pid: int,
        descriptor: int,
        name: bytes,
        rule: str,
    ) -> None:
        """Takes over `copy`, the thread's socket, and `descriptor`, where the outcome is told."""
        self.call = call
        self._calls = calls
        self._copy = copy
        self._pid = pid
        self._descriptor = descriptor
        self._name = os.fsdecode(name)
        self._rule = rule

    def fileno(self) -> int:
        return self._descriptor

    def ready(self) -> None:
        """The process has said what came of it, or died."""
        outcome = Outcome.unpack(os.read(self._descriptor, ANSWER))
        self._calls.made(self)
        self._end()
        if outcome.error:
            self._calls.refuse(self.call, outcome.error)
        else:
            self._calls.succeed(self.call)
        self._tell(outcome)

    def hung_up(self) -> None:
        self.ready()

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        self._calls.made(self)
        self._end()

    def _end(self) -> None:
        os.close(self._descriptor)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        with contextlib.suppress(OSError):
            self._calls.office.unix_tickets.withdraw(self._copy, self._pid)
        os.close(self._copy)

    def _tell(self, outcome: Outcome) -> None:
        office, facts, task = self._calls.office, self.call.known.facts, self.call.task
        if outcome.error and not outcome.reason:
            return  # the host's own answer
        verdict = Verdict.DENY if outcome.error else Verdict.ALLOW
        if not outcome.error and facts.plan.records is RecordChoice.FIRST:
            told = (facts.session, self._name)
            if told in office.told:
                return
            if len(office.told) >= TOLD:
                office.told.clear()
            office.told.add(told)
        office.desk.record(
            facts.session,
            Verb.NET_UNIX,
            objects.unix_name(self._name),
            verdict,
            outcome.reason or f"allowed by {self._rule}; connected to what was bound as that",
            rule=self._rule,
            pid=task.group,
            exe=task.program,
        )


def _name(call: Call) -> bytes:
    """The path that is connected to; b"" where it is an abstract name, or none. OSError."""
    _descriptor, at, size, *_rest = call.notification.arguments
    size = min(size & 0xFFFFFFFF, LONGEST)
    if size <= FAMILY:
        return b""
    return call.task.bytes_at(at, size)[FAMILY:].split(b"\0", 1)[0]


def _is_unix(descriptor: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    with socket.socket(fileno=os.dup(descriptor)) as taken:
        return taken.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_UNIX

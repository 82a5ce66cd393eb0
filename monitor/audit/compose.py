# SPDX-License-Identifier: Apache-2.0
"""From events to drafts: each event gets its chain, its verdict, the rule and the reason.

The kernel has decided already; nothing here changes what happened. `policy.decide` is asked which
rule and mechanism that was, since the kernel reports a refused file call without its cause.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from monitor.audit import (
    compose_calls,
    compose_files,
    compose_network,
    compose_processes,
    compose_tls,
)
from monitor.audit.record import Draft
from monitor.audit.subject import Finding, Subject
from monitor.policy.action import Verdict
from monitor.session.session import Session
from monitor.wire.events import (
    AnyEvent,
    ExecEvent,
    ExitEvent,
    FileEvent,
    ForkEvent,
    HelloEvent,
    LabelEvent,
    NetEvent,
    SyscallEvent,
)

# Sessions remembered: events may come when the registry knows one no more.
_SUBJECTS = 1024
# How long the distance between the boot clock and the wall clock is trusted, in ns.
_CLOCK_LIFE = 1_000_000_000

_FINDERS: dict[type[Any], Callable[[Subject, Any], Finding | None]] = {
    FileEvent: compose_files.find,
    ForkEvent: compose_processes.find_fork,
    ExecEvent: compose_processes.find_exec,
    ExitEvent: compose_processes.find_exit,
    NetEvent: compose_network.find,
    LabelEvent: compose_network.find_label,
    HelloEvent: compose_tls.find,
    SyscallEvent: compose_calls.find,
}


class Composer:
    """Composes the events of one instance, given in the order of their time."""

    def __init__(
        self,
        find: Callable[[int], Session | None],
        resolve: Callable[[str], str] = str,
        program: Callable[[int], str] | None = None,
        name: Callable[[int, str], str] | None = None,
    ) -> None:
        """`find` gives the session of a cgroup id.

        `resolve` takes links out of a path that a program claimed. `program` tells what a running
        process runs, for one that started before this composer ("": not known). `name` tells by
        which name the session of a cgroup looked an address up ("": by none).
        """
        self._find = find
        self._resolve = resolve
        self._program = program
        self._name = name
        self._subjects: dict[int, Subject] = {}
        self._offset = 0
        self._offset_due = 0

    def compose(self, event: AnyEvent) -> Draft | None:
        """The draft of `event`; None: it is of no interest to anybody."""
        subject = self._subject(event.cgroup)
        pid = event.pid
        program = subject.program(pid) or self._look_up(subject, event)
        finding = _FINDERS[type(event)](subject, event)
        if finding is None:
            return None
        verb, what, verdict, reason, rule, mechanism, details = finding
        if verdict is not Verdict.ALLOW:
            details["comm"] = event.comm
            if event.tid != pid:
                details["tid"] = event.tid
        return Draft(
            self._wall(event.time), subject.id, subject.agent, subject.chain, pid, program,
            verb, what, verdict, reason, rule, mechanism, event.count, details,
        )  # fmt: skip

    def _subject(self, cgroup: int) -> Subject:
        session = self._find(cgroup)
        known = self._subjects.get(cgroup)
        if known is not None and (session is None or known.is_of(session)):
            return known
        if known is None and len(self._subjects) >= _SUBJECTS:
            del self._subjects[next(iter(self._subjects))]
        subject = Subject(cgroup, session, self._resolve, self._name)
        if known is not None and known.id == subject.id:
            subject.go_on_from(known)  # under another plan
        self._subjects[cgroup] = subject
        return subject

    def _look_up(self, subject: Subject, event: AnyEvent) -> str:
        """What a process runs that was there before this composer, or came from outside."""
        # One that has just executed runs something else by now, and one that ended nothing.
        if self._program is None or isinstance(event, ExecEvent | ExitEvent):
            return ""
        if subject.has(event.pid):
            return ""
        program = self._program(event.pid)
        subject.runs(event.pid, program)
        return program

    def _wall(self, boottime: int) -> float:
        """Unix seconds of a time on the boot clock, as the wall clock stands now."""
        if not self._offset_due - 2 * _CLOCK_LIFE < boottime < self._offset_due:
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self._offset = time.time_ns() - now
            self._offset_due = now + _CLOCK_LIFE
        return (boottime + self._offset) / 1e9

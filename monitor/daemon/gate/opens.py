# SPDX-License-Identifier: Apache-2.0
"""A source of the gate: opens of one session's marked files, which wait until they are answered.

A group sees the opens of everybody on the host, so whoever is not in the session's cgroup, or in
one beneath it, is let through at once. A label is in the kernel before the open that earns it
returns. Whatever goes wrong here is an open refused, never one let through.
"""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.daemon.gate.desk import Desk, Question
from monitor.kernel import fanotify
from monitor.kernel.cgroup import OWN
from monitor.kernel.fanotify import Opened
from monitor.policy.action import Verb, Verdict
from monitor.policy.opens import OpenKind, OpenRule, matching
from monitor.wire.opens import SLOTS, OpensMemory, Waits

# Opens of one session that wait for a person. Each holds two descriptors of the gate's, and every
# answer wakes all who wait (fanotify has one queue for them): more would hold up everybody else.
HELD_LIMIT = 256
FIRST_NUMBER = 3
DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class OpensFacts:
    """The session `session`, its cgroup as /proc/PID/cgroup names it, and its rules."""

    session: str
    cgroup: str
    rules: tuple[OpenRule, ...]

    def to_json(self) -> dict[str, Any]:
        rules = [
            [each.kind.value, each.pattern, each.link, each.rule, each.why, each.label, each.name]
            for each in self.rules
        ]
        return {"session": self.session, "cgroup": self.cgroup, "rules": rules}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> OpensFacts:
        """The reverse of `to_json`; trusts what it reads."""
        rules = tuple(OpenRule(OpenKind(kind), *rest) for kind, *rest in data["rules"])
        return cls(data["session"], data["cgroup"], rules)


@dataclass(slots=True)
class _Waiting:
    """One open that waits for a person."""

    opened: Opened
    labels: list[OpenRule]
    path: str


class Opens:
    """The opens of one session. `earn` writes a label's row in the kernel, by its id."""

    def __init__(
        self,
        facts: OpensFacts,
        group: int,
        memory: int,
        desk: Desk,
        earn: Callable[[int], None],
    ) -> None:
        """Takes over the descriptors `group` and `memory`; `resume` comes next."""
        self.facts = facts
        self._group = out_of_the_way(group)
        self._memory = OpensMemory(out_of_the_way(memory))
        self._desk = desk
        self._earn = earn
        self._earned: set[int] = set()
        self._known: dict[tuple[int, int], set[int]] = {}
        self._foreign: set[int] = set()
        self._waiting: dict[int, _Waiting] = {}
        self._numbers: dict[int, int] = {}  # pidfd to the number of its ask
        with select.epoll() as poll:
            self._poll = select.epoll.fromfd(out_of_the_way(os.dup(poll.fileno())))
        self._poll.register(self._group, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def ready(self) -> None:
        for fd, _events in self._poll.poll(0):
            if fd == self._group:
                self._take()
            else:
                self._gone(fd)

    def change(self, facts: OpensFacts) -> None:
        """The session goes on under other rules; what waits is answered by those that asked."""
        self.facts = facts
        self._known.clear()
        self._memory.again()
        self._earned.clear()

    def unearned(self, labels: set[int]) -> None:
        """These labels came off; the marks are set again by the watcher."""
        self._earned -= labels

    def resume(self) -> None:
        """Decide again on what a gate before this one had read and not answered.

        The kernel names an open that waits by the descriptor that its reader got, so these numbers
        are kept from being used again until they are answered. What was read and never written
        down is refused: nothing can be said of it.
        """
        held = self._memory.held()
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        for number in held:
            if number == nothing:
                self._foreign.add(number)
            elif not _is_open(number):
                os.dup2(nothing, number, inheritable=False)
                self._foreign.add(number)
        if nothing not in self._foreign:
            os.close(nothing)
        for number in range(FIRST_NUMBER, SLOTS):
            if number not in self._foreign:
                self._memory_release(number, held)
                with suppress(OSError):
                    fanotify.answer(self._group, number, allow=False)
        for number in sorted(self._foreign):
            try:
                # Another session's opens may wait under any low number.
                pidfd = out_of_the_way(os.pidfd_open(held[number].pid))
            except OSError:
                pidfd = -1
            opened = Opened(number, held[number].pid, pidfd)
            self._safely(opened, held[number])

    def _memory_release(self, number: int, held: dict[int, Waits]) -> None:
        if number in held:
            self._memory.release(number)

    def close(self) -> None:
        """The session has ended: what still waits is refused."""
        for number in list(self._waiting):
            self._desk.gone(number)
            self._finish(number, allow=False)
        self._poll.close()
        os.close(self._group)
        os.close(self._memory.fd)

    # ------------------------------------------------------------------------------------------

    def _take(self) -> None:
        try:
            found = fanotify.read_opens(self._group)
        except OSError:
            # The kernel could not give a descriptor, and refused the open that it was for.
            return
        for opened in found:
            self._safely(opened, None)

    def _safely(self, opened: Opened, waits: Waits | None) -> None:
        try:
            if waits is None:
                seen = os.fstat(opened.fd)
                path = _link(f"/proc/self/fd/{opened.fd}")
                if not seen.st_nlink:
                    path = path.removesuffix(DELETED)
                waits = Waits(opened.pid, seen.st_dev, seen.st_ino, path)
                if opened.fd < SLOTS:
                    self._memory.hold(opened.fd, waits)
            self._decide(opened, waits)
        except Exception:
            self._answer(opened, allow=False)
            raise

    def _decide(self, opened: Opened, waits: Waits) -> None:
        if not self._inside(opened.pid):
            self._answer(opened, allow=True)
            return
        path, rules = waits.path, self._rules(waits)
        refusing = next((rule for rule in rules if rule.kind is OpenKind.DENY), None)
        if refusing is not None:
            self._refuse(opened, path, refusing)
            return
        asks = [rule for rule in rules if rule.kind is OpenKind.ASK]
        waiting = _Waiting(opened, [r for r in rules if r.kind is OpenKind.LABEL], path)
        if not asks:
            self._let(waiting, settled=True)
        elif len(self._waiting) >= HELD_LIMIT:
            self._refuse(opened, path, asks[0], f"{HELD_LIMIT} of its opens wait already")
        else:
            self._ask(waiting, asks)

    def _ask(self, waiting: _Waiting, asks: list[OpenRule]) -> None:
        """One question for each link that asks: the first rule of each."""
        pid = waiting.opened.pid
        exe = _link(f"/proc/{pid}/exe")
        cwd = _link(f"/proc/{pid}/cwd")
        by_link: dict[int, OpenRule] = {}
        for rule in asks:
            by_link.setdefault(rule.link, rule)
        questions = [
            Question(
                link, Verb.FILE_OPEN, waiting.path, (), cwd, rule.rule, rule.why, pid, exe,
                waiting.path,
            )
            for link, rule in by_link.items()
        ]  # fmt: skip
        # An answer may come before `ask` returns: then there is no number to wait under.
        early: list[bool] = []
        number = 0

        def answered(allow: bool, _reason: str) -> None:
            if number:
                self._finish(number, allow=allow)
            else:
                early.append(allow)

        number = self._desk.ask(self._session_of(pid), questions, answered)
        self._waiting[number] = waiting
        if early:
            self._finish(number, allow=early[0])
        elif waiting.opened.pidfd >= 0:
            self._numbers[waiting.opened.pidfd] = number
            self._poll.register(waiting.opened.pidfd, select.EPOLLIN)

    def _finish(self, number: int, *, allow: bool) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return
        pidfd = waiting.opened.pidfd
        if self._numbers.pop(pidfd, None) is not None:
            self._poll.unregister(pidfd)
        if not allow:
            self._answer(waiting.opened, allow=False)
            return
        try:
            self._let(waiting, settled=False)
        except Exception:
            self._answer(waiting.opened, allow=False)
            raise

    def _let(self, waiting: _Waiting, *, settled: bool) -> None:
        """Let it through with its labels; `settled`: nothing but those matters of this file."""
        opened = waiting.opened
        for rule in waiting.labels:
            self._earn(rule.label)
            if rule.label not in self._earned:
                self._earned.add(rule.label)
                why = f"opened {waiting.path}"
                self._desk.label(self.facts.session, rule.name, why, opened.pid)
        if settled and waiting.labels and opened.fd not in self._foreign:
            # From now on an open of it says nothing new, and need not wait.
            with suppress(OSError):
                fanotify.except_opens(self._group, opened.fd)
        self._answer(opened, allow=True)

    def _refuse(self, opened: Opened, path: str, rule: OpenRule, why: str = "") -> None:
        self._answer(opened, allow=False)
        self._desk.record(
            self._session_of(opened.pid),
            Verb.FILE_OPEN,
            path,
            Verdict.DENY,
            why or f"{path} is named by {rule.rule}",
            link=rule.link,
            rule=rule.rule,
            pid=opened.pid,
            exe=_link(f"/proc/{opened.pid}/exe"),
        )

    def _answer(self, opened: Opened, *, allow: bool) -> None:
        with suppress(OSError):
            fanotify.answer(self._group, opened.fd, allow)
        if opened.fd < SLOTS:
            self._memory.release(opened.fd)
        self._foreign.discard(opened.fd)
        for fd in (opened.fd, opened.pidfd):
            if fd >= 0:
                with suppress(OSError):
                    os.close(fd)

    def _gone(self, pidfd: int) -> None:
        """A process that waited has ended."""
        number = self._numbers.get(pidfd)
        if number is not None:
            self._desk.gone(number)
            self._finish(number, allow=False)

    # -- what is known of an open --------------------------------------------------------------

    def _inside(self, pid: int) -> bool:
        """Whether the process is the session's; one that cannot be told of is taken for it."""
        try:
            cgroup = _cgroup(pid)
        except OSError:
            return True
        return cgroup == self.facts.cgroup or cgroup.startswith(self.facts.cgroup + "/")

    def _session_of(self, pid: int) -> str:
        """The innermost session that the process is in: its cgroup's name."""
        with suppress(OSError):
            cgroup = _cgroup(pid).removesuffix(f"/{OWN}")
            if cgroup.startswith(self.facts.cgroup + "/"):
                return cgroup.rpartition("/")[2]
        return self.facts.session

    def _rules(self, waits: Waits) -> list[OpenRule]:
        """The rules on what is opened: by its name, and by its inode."""
        for row in self._memory.news():
            self._known.setdefault((row.device, row.inode), set()).add(row.rule)
        known = self._known.get((waits.device, waits.inode), ())
        return matching(self.facts.rules, waits.path, known)


def _cgroup(pid: int) -> str:
    """The process's cgroup of version 2; OSError where there is no such process."""
    for line in Path(f"/proc/{pid}/cgroup").read_bytes().splitlines():
        if line.startswith(b"0::"):
            return os.fsdecode(line[3:])
    return ""


def out_of_the_way(fd: int) -> int:
    """The same under a number that no open that waits has, where the process may have so many."""
    try:
        moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, SLOTS)
    except OSError:
        return fd
    os.close(fd)
    return moved


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _link(path: str) -> str:
    try:
        return os.readlink(path)  # noqa: PTH115 - not a path of ours
    except OSError:
        return ""

# SPDX-License-Identifier: Apache-2.0
"""Program starts: execve(2) and execveat(2), decided on by file and arguments.

The answer `go on` is not trusted to happen as it was decided: the ticket that is written before it
says which file may run with which arguments, and the kernel kills what else comes of it.
"""

from __future__ import annotations

import errno
import json
import os
from functools import partial
from hashlib import sha256
from typing import Any

from monitor.audit.budgets import spent
from monitor.daemon.gate import starts, walk
from monitor.daemon.gate.calls import Call, Calls
from monitor.daemon.gate.desk import Question
from monitor.daemon.gate.starts import Start
from monitor.daemon.gate.task import TooLongError
from monitor.policy.action import Mechanism, Verb, Verdict
from monitor.policy.exec_rules import ExecFinding, Judgement
from monitor.policy.syscalls import NUMBERS
from monitor.wire.layout import BudgetKind
from monitor.wire.rows import Ticket

EXECVE = NUMBERS["execve"]
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
# Of argv in records and asks; all of it is compared.
SHOWN_ARGUMENTS = 64
SHOWN_BYTES = 4096
LOADER = "the dynamic loader runs any program it is given, past the rules on programs"
TOO_LONG = "its arguments are longer than the 128 KiB that can be compared with the rules"
NO_ROOM = "the kernel has no room for another decision"


def handle(calls: Calls, call: Call) -> None:
    """Decide on a program start."""
    try:
        calls.office.tickets.withdraw(call.task.group)
        start = _find(calls, call)
    except TooLongError:
        _deny(calls, call, _path(call), (), TOO_LONG)
        return
    except OSError:
        # The kernel fails too; where it does not, there is no ticket.
        calls.go_on(call)
        return
    try:
        if calls.is_waiting(call):
            _decide(calls, call, start, {})
        else:
            calls.drop(call)
    finally:
        start.close()


def _path(call: Call) -> str:
    """What the caller calls the program, for a record."""
    arguments = call.notification.arguments
    try:
        at = arguments[0] if call.notification.number == EXECVE else arguments[1]
        return os.fsdecode(call.task.path(at))
    except OSError:
        return "?"


def _find(calls: Calls, call: Call) -> Start:
    """OSError where the kernel will fail as well; TooLongError."""
    task, numbers, images = call.task, call.notification.arguments, calls.office.images
    if call.notification.number == EXECVE:
        task.expect(numbers[0], numbers[1])
        return starts.find(
            task, calls.root, images, task.path(numbers[0]), task.arguments(numbers[1])
        )
    folder = _signed(numbers[0])
    path, arguments = task.path(numbers[1]), task.arguments(numbers[2])
    if path.startswith(b"/") or (path and folder == AT_FDCWD):
        return starts.find(task, calls.root, images, path, arguments)
    if not path and not numbers[4] & AT_EMPTY_PATH:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    name = b"/dev/fd/%d" % folder
    base = task.descriptor(folder)
    if not path:
        return starts.find(task, calls.root, images, name, arguments, base)
    try:
        first = walk.resolve(task, calls.root, path, os.fsencode(walk.name_of(base)))
    finally:
        os.close(base)
    return starts.find(task, calls.root, images, name + b"/" + path, arguments, first)


def _signed(value: int) -> int:
    """An int argument, of whose register only the lower half counts."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def _decide(calls: Calls, call: Call, start: Start, yes: dict[tuple[int, str], str]) -> None:
    """Answer, or hold; `yes` are the rules that somebody has said yes to: (link, rule)."""
    office, facts, task = calls.office, call.known.facts, call.task
    shut = office.shut(facts)
    shown = start.steps[0]
    if shut:
        _deny(calls, call, shown.path, _shown(shown.arguments), shut)
        return
    if not start.last.image.regular:
        calls.go_on(call)  # EACCES
        return
    if any(step.image.is_loader for step in start.steps):
        _deny(calls, call, shown.path, _shown(shown.arguments), LOADER)
        return
    judgement = call.known.judge.judge(task, start, office.earned(facts))
    refused = next((each for each in judgement.findings if each.verdict is Verdict.DENY), None)
    if refused is not None:
        rule, why = starts.names_rule(refused)
        reason = f"{shown.path}: refused by {rule}" + (f": {why}" if why else "")
        _deny(calls, call, shown.path, _shown(shown.arguments), reason, refused.link, rule)
        return
    if _over_budget(calls, call, shown.path):
        return
    asking = [
        each
        for each in judgement.findings
        if each.verdict is Verdict.ASK and (each.link, starts.names_rule(each)[0]) not in yes
    ]
    if asking:
        _ask(calls, call, start, asking, yes)
        return
    _allow(calls, call, start, judgement, "; ".join(yes.values()))


def _allow(calls: Calls, call: Call, start: Start, judgement: Judgement, said: str) -> None:
    """The labels first, then the ticket, then the answer."""
    office, facts, task, last = calls.office, call.known.facts, call.task, start.last
    name = start.steps[0].path
    for index in judgement.earned:
        office.earn(facts, index, f"started {name}", task.group)
    compared = 0
    if judgement.arguments_matter or said:
        compared = office.tickets.hash(last.arguments)
        # An approval is for this directory, and a rule on where arguments lead looks at it.
        if compared and (said or call.known.judge.looks_outside):
            compared = office.tickets.in_folder(compared, *office.images.place(task))
        if not compared:
            _deny(calls, call, name, _shown(start.steps[0].arguments), TOO_LONG)
            return
    ticket = Ticket(task.group, last.image.device, last.image.inode, compared)
    try:
        office.tickets.give(ticket)
    except OSError:
        _deny(calls, call, name, _shown(start.steps[0].arguments), NO_ROOM)
        return
    if not calls.go_on(call):
        office.tickets.withdraw(ticket.pid)


def _ask(
    calls: Calls,
    call: Call,
    start: Start,
    asking: list[ExecFinding],
    yes: dict[tuple[int, str], str],
) -> None:
    """Hold the start; the answer is for exactly this file, these arguments and this folder."""
    task, shown = call.task, start.steps[0]
    folder = task.folder
    argv = _shown(shown.arguments)
    image = shown.image
    key = json.dumps(
        [
            shown.path,
            f"{image.device:x}:{image.inode:x}",
            [os.fsdecode(each) for each in shown.arguments],
            folder,
        ]
    )
    if len(key) > SHOWN_BYTES:
        key = "sha256:" + sha256(key.encode()).hexdigest()
    exe = task.program
    questions = []
    for each in asking:
        rule, why = starts.names_rule(each)
        questions.append(
            Question(
                each.link, Verb.PROC_EXEC, shown.path, argv, folder, rule, why, task.group, exe, key
            )
        )
    # The files stay open while it waits: what was asked about is what will be compared.
    held = Start([_kept(step) for step in start.steps])
    again = partial(_answered, calls, call, held, questions, yes)
    calls.hold(call, questions, again, held.close)


def _kept(step: starts.Step) -> starts.Step:
    return starts.Step(step.path, step.image, step.arguments, os.dup(step.descriptor))


def _answered(
    calls: Calls,
    call: Call,
    start: Start,
    questions: list[Question],
    yes: dict[tuple[int, str], str],
    allow: bool,
    reason: str,
) -> None:
    try:
        if not allow:
            # Who answered is in the record of the answer.
            calls.refuse(call, errno.EPERM)
            return
        said = {(each.link, each.rule): reason for each in questions}
        # A label may have been earned, or the rules be others by now.
        _decide(calls, call, start, yes | said)
    finally:
        start.close()


def _over_budget(calls: Calls, call: Call, path: str) -> bool:
    """Refuse a start that a budget has no room for; the kernel counts those that happen."""
    facts, office = call.known.facts, calls.office
    for link, policy in enumerate(facts.policies):
        limit = policy.budgets.execs
        if limit is None:
            continue
        if office.authority.usage(facts.numbers[link]).get(BudgetKind.EXECS, limit) < limit:
            continue
        refuse_spent(calls, call, link, BudgetKind.EXECS, Verb.PROC_EXEC, path)
        return True
    return False


def refuse_spent(
    calls: Calls, call: Call, link: int, kind: BudgetKind, verb: Verb, path: str
) -> None:
    """Refuse what a budget has no room for; what follows is the worker's."""
    name = kind.name.lower()
    calls.office.desk.record(
        call.known.facts.session,
        verb,
        path,
        Verdict.DENY,
        spent(kind, call.known.facts.policies[link].budgets),
        link=link,
        rule=f"budgets: {name}",
        mechanism=Mechanism.BUDGET,
        pid=call.task.group,
        exe=call.task.program,
        details={"budget": name},
    )
    calls.refuse(call, errno.EPERM)


def _deny(
    calls: Calls,
    call: Call,
    path: str,
    argv: tuple[str, ...],
    reason: str,
    link: int | None = None,
    rule: str = "",
) -> None:
    details: dict[str, Any] = {"argv": list(argv)} if argv else {}
    calls.office.desk.record(
        call.known.facts.session,
        Verb.PROC_EXEC,
        path,
        Verdict.DENY,
        reason,
        link=link,
        rule=rule,
        pid=call.task.group,
        exe=call.task.program,
        details=details,
    )
    calls.refuse(call, errno.EPERM)


def _shown(arguments: list[bytes]) -> tuple[str, ...]:
    """As much of argv as a person can read."""
    shown: list[str] = []
    room = SHOWN_BYTES
    for each in arguments[:SHOWN_ARGUMENTS]:
        if room <= 0:
            break
        shown.append(os.fsdecode(each[:room]))
        room -= len(each) + 1
    if len(shown) < len(arguments):
        shown.append(f"... {len(arguments) - len(shown)} more")
    return tuple(shown)

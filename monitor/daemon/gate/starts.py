# SPDX-License-Identifier: Apache-2.0
"""A program start: the files that will run, the argv that the kernel will build, what rules say.

Of a script every step counts: the file itself with the caller's arguments, and each interpreter
with those that it is given.
"""

from __future__ import annotations

import errno
import os
import posixpath
from dataclasses import dataclass
from functools import partial

from monitor.daemon.gate import walk
from monitor.daemon.gate.content import Contents, Watched
from monitor.daemon.gate.facts import Facts
from monitor.daemon.gate.images import Image, Images
from monitor.daemon.gate.task import Task
from monitor.policy.action import Verdict
from monitor.policy.exec_rules import ExecFinding, Judgement, Program, judge
from monitor.policy.plan import ExecRule, Policy

MOST_STEPS = 6  # fs/exec.c: after so many interpreters it gives up
JUDGEMENTS = 4096
MOST_KNOWN = 64  # arguments of a judgement that is remembered
UNKNOWN = Image(0, 0, regular=False)
STRENGTH = {Verdict.ALLOW: 0, Verdict.ASK: 1, Verdict.DENY: 2}


@dataclass(slots=True)
class Step:
    """A file that is executed by `path`, with these arguments; `descriptor` is O_PATH."""

    path: str
    image: Image
    arguments: list[bytes]
    descriptor: int


class Start:
    """The steps of one program start, the last of them the program. `close` it."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps

    @property
    def last(self) -> Step:
        return self.steps[-1]

    def close(self) -> None:
        for step in self.steps:
            os.close(step.descriptor)


def find(
    task: Task, root: int, images: Images, path: bytes, arguments: list[bytes], first: int = -1
) -> Start:
    """What will run. OSError: the kernel will fail as well.

    `path` is what the kernel calls the file, which `first` is where it was opened before.
    """
    steps: list[Step] = []
    try:
        for _step in range(MOST_STEPS):
            if first >= 0:
                here, name = first, walk.name_of(first)
                first = -1
            else:
                here, name = walk.named(task, root, path)
            steps.append(Step(name, UNKNOWN, arguments, here))
            image = images.read(here)
            steps[-1] = Step(name, image, arguments, here)
            if image.interpreter is None:
                return Start(steps)
            option = [] if image.option is None else [image.option]
            arguments = [image.interpreter, *option, path, *arguments[1:]]
            path = image.interpreter
    except BaseException:
        Start(steps).close()
        raise
    Start(steps).close()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


class Judge:
    """The rules of one session on program starts."""

    def __init__(self, facts: Facts, root: int, contents: Contents) -> None:
        self.policies = facts.policies
        self._root = root
        rules = [rule for policy in facts.policies for rule in _rules(policy)]
        alike = [rule for rule in rules if rule.content]
        self._watched = Watched(alike, root, contents) if alike else None
        # Only such rules look at where the caller is.
        self.looks_outside = any(rule.outside is not None for rule in rules)
        # By path where arguments do not matter, else by path and arguments.
        self._known: dict[tuple[object, ...], Judgement] = {}

    @property
    def problems(self) -> list[str]:
        return self._watched.problems if self._watched else []

    def look(self) -> None:
        """Look again at the files whose content matters."""
        if self._watched is not None:
            self._watched.look()

    def judge(self, task: Task, start: Start, earned: frozenset[int]) -> Judgement:
        """What all links say of all steps together."""
        found = [self._step(task, step, earned) for step in start.steps]
        if len(found) == 1:
            return found[0]
        findings = tuple(
            max(each, key=lambda finding: STRENGTH[finding.verdict])
            for each in zip(*(judgement.findings for judgement in found), strict=True)
        )
        gives = sorted({label for judgement in found for label in judgement.earned})
        matter = any(judgement.arguments_matter for judgement in found)
        return Judgement(findings, tuple(gives), matter)

    def _step(self, task: Task, step: Step, earned: frozenset[int]) -> Judgement:
        path, argv = (step.path, earned), (step.path, earned, *step.arguments)
        known = self._known.get(path) or self._known.get(argv)
        if known is not None:
            return known
        program = Program(
            step.path,
            tuple(os.fsdecode(each) for each in step.arguments),
            task.folder if self.looks_outside else "/",
            partial(self._resolve, task),
            partial(self._same, step.descriptor),
        )
        made = judge(self.policies, program, earned)
        if self._watched is None and not self.looks_outside and len(argv) < MOST_KNOWN:
            if len(self._known) >= JUDGEMENTS:
                self._known.clear()
            self._known[argv if made.arguments_matter else path] = made
        return made

    def _same(self, descriptor: int, rule: ExecRule) -> bool:
        return self._watched is not None and self._watched.same(rule, descriptor)

    def _resolve(self, task: Task, path: str) -> str:
        """Where an absolute path of an argument leads; what is not there yet, from its folder."""
        rest: list[str] = []
        here = path
        while True:
            try:
                found = walk.resolve(task, self._root, os.fsencode(here))
            except OSError as error:
                folder, _, name = here.rstrip("/").rpartition("/")
                if error.errno not in (errno.ENOENT, errno.ENOTDIR) or not name or name == "..":
                    return "/"  # nobody can say: it is outside of everything but this
                rest.insert(0, name)
                here = folder or "/"
                continue
            try:
                return posixpath.normpath("/".join((walk.name_of(found), *rest)))
            finally:
                os.close(found)


def _rules(policy: Policy) -> list[ExecRule]:
    labels = [rule for label in policy.labels for rule in (*label.exec, *label.rules)]
    return [*policy.exec, *labels]


def names_rule(finding: ExecFinding) -> tuple[str, str]:
    """(the rule as records name it, what its author wrote) of a finding that asks or denies."""
    if finding.rule is not None:
        return str(finding.rule.origin), finding.rule.why
    if finding.label is not None:
        return str(finding.label.origin), f"label {finding.label.name} asks about everything"
    return "", ""

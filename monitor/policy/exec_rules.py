# SPDX-License-Identifier: Apache-2.0
"""What the rules on program starts say of one: by file, by arguments, by content.

Small and pure: the gate's process judges by it, and so does the reference.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice

from monitor.policy.action import Verdict
from monitor.policy.patterns import is_within, pattern
from monitor.policy.plan import ExecRule, Label, Policy

ANY_NUMBER = "..."
# Each is looked up in the file system; with more of them, it is not worth knowing.
MOST_PATHS = 8192


@dataclass(frozen=True, slots=True)
class Program:
    """A program that is about to start. Bytes are decoded as os.fsdecode does.

    `path` is the file that execve(2) was given, links followed: for a script the script. `argv` is
    what the caller passed. `resolve` makes a path free of links as the caller's process sees them;
    `same_content` says whether the file has the content of one that the rule's pattern names.
    """

    path: str
    argv: tuple[str, ...]
    cwd: str
    resolve: Callable[[str], str] = posixpath.normpath
    same_content: Callable[[ExecRule], bool] = lambda _rule: False


@dataclass(frozen=True, slots=True)
class ExecFinding:
    """What one link says: `verdict` is ALLOW, ASK or DENY.

    `rule` decided; None: no rule speaks of it, or `label` (which asks about everything) does.
    """

    link: int
    verdict: Verdict
    rule: ExecRule | None = None
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The findings of all links, in their order.

    `earned` are the labels that this start gives: indices into all labels of all policies, in
    their order. `arguments_matter`: another argv might have been judged otherwise.
    """

    findings: tuple[ExecFinding, ...]
    earned: tuple[int, ...]
    arguments_matter: bool

    @property
    def verdict(self) -> Verdict:
        """Deny beats ask beats allow."""
        found = {each.verdict for each in self.findings}
        return next((each for each in (Verdict.DENY, Verdict.ASK) if each in found), Verdict.ALLOW)


def judge(
    policies: Sequence[Policy], program: Program, earned: frozenset[int] = frozenset()
) -> Judgement:
    """Judge a program start by every policy; `earned` are labels that the session has already.

    A label that this very start earns does not narrow it yet.
    """
    findings: list[ExecFinding] = []
    gives: list[int] = []
    matter = False
    first = 0
    for link, policy in enumerate(policies):
        rules = list(policy.exec)
        asking: Label | None = None
        for index, label in enumerate(policy.labels, first):
            if index in earned:
                rules += label.rules
                asking = asking or (label if label.ask else None)
            else:
                matter = matter or any(_depends(rule, program) for rule in label.exec)
                if any(matches(rule, program) for rule in label.exec):
                    gives.append(index)
        first += len(policy.labels)
        matter = matter or any(_depends(rule, program) for rule in rules)
        findings.append(_finding(link, rules, asking, program))
    return Judgement(tuple(findings), tuple(gives), matter)


def _finding(
    link: int, rules: Sequence[ExecRule], asking: Label | None, program: Program
) -> ExecFinding:
    matching = [rule for rule in rules if matches(rule, program)]
    for verdict in (Verdict.DENY, Verdict.ASK):
        for rule in matching:
            if rule.verdict is verdict:
                return ExecFinding(link, verdict, rule)
    if asking is not None:
        return ExecFinding(link, Verdict.ASK, label=asking)
    return ExecFinding(link, Verdict.ALLOW)


def matches(rule: ExecRule, program: Program) -> bool:
    """Whether `rule` speaks of this start."""
    return (
        _names(rule, program)
        and _arguments_match(rule, program)
        and (rule.outside is None or _leads_outside(rule.outside, program))
    )


def _depends(rule: ExecRule, program: Program) -> bool:
    return (rule.arguments is not None or rule.outside is not None) and _names(rule, program)


def _names(rule: ExecRule, program: Program) -> bool:
    if pattern(rule.pattern).covers(program.path):
        return True
    return rule.content and program.same_content(rule)


def _arguments_match(rule: ExecRule, program: Program) -> bool:
    """Whether the arguments are, one by one, what the patterns say.

    A program may do what the name says that it is called by: `git-push` is `git push`, and busybox
    called `rm` is `busybox rm`. So that name counts as a first argument too, where a pattern
    spells it out.
    """
    patterns, arguments = rule.arguments, program.argv[1:]
    if patterns is None:
        return True
    starts = _closed({0}, patterns)
    if _follow(starts, patterns, arguments):
        return True
    names = _called(rule, program)
    named = {
        place + 1 for place in starts if patterns[place : place + 1] and patterns[place] in names
    }
    return bool(named) and _follow(_closed(named, patterns), patterns, arguments)


def _called(rule: ExecRule, program: Program) -> set[str]:
    """What argv[0] calls the program, and what of it stands behind the file's own name."""
    called = posixpath.basename(program.argv[0]) if program.argv else ""
    own = {posixpath.basename(program.path), posixpath.basename(rule.pattern)}
    return {called, *(called.removeprefix(f"{name}-") for name in own)} - {"", ANY_NUMBER}


def _follow(places: set[int], patterns: tuple[str, ...], arguments: Sequence[str]) -> bool:
    """Whether the arguments lead from one of `places` to the end of the patterns."""
    for argument in arguments:
        places = _closed(
            {
                place if patterns[place] == ANY_NUMBER else place + 1
                for place in places
                if place < len(patterns)
                and (patterns[place] == ANY_NUMBER or _glob(patterns[place])(argument))
            },
            patterns,
        )
        if not places:
            return False
    return len(patterns) in places


def _closed(places: set[int], patterns: tuple[str, ...]) -> set[int]:
    """With the places behind each `...`, which may stand for nothing."""
    closed = set(places)
    for place in places:
        following = place
        while following < len(patterns) and patterns[following] == ANY_NUMBER:
            following += 1
            closed.add(following)
    return closed


@cache
def _glob(text: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(fnmatch.translate(text)).match


def _leads_outside(folder: str, program: Program) -> bool:
    """Whether anything in the arguments that may be a path leads outside, or there is too much."""
    texts = list(islice(_paths(program.argv[1:]), MOST_PATHS + 1))
    return len(texts) > MOST_PATHS or any(
        not is_within(program.resolve(_joined(program.cwd, text)), folder)
        for text in dict.fromkeys(texts)
    )


def _paths(arguments: Sequence[str]) -> Iterator[str]:
    """What may be a path: arguments, values behind `=`, and values of options right behind them."""
    options = True
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if options and argument == "--":
            options = False
        elif options and argument.startswith("-"):
            if separator and value:
                yield value
            # -C/etc, -C.., -xvfC/etc
            if not argument.startswith("--") and ("/" in name or name.endswith("..")):
                yield argument[2:]
                yield argument[argument.find("/", 2) :] if "/" in argument[2:] else argument[2:]
        elif argument:
            yield argument
            if separator and "/" in value:
                yield value


def _joined(cwd: str, text: str) -> str:
    return text if text.startswith("/") else f"{cwd.rstrip('/')}/{text}"

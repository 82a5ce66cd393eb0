# SPDX-License-Identifier: Apache-2.0
"""Lint of path rules: what they never allow, and what they allow that is more than it looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from monitor.profile import hazards, paths
from monitor.profile.finding import Finding, Level
from monitor.profile.hazards import Hazard
from monitor.profile.placed import PlacedPath, Rules, taken
from monitor.profile.variables import Variables, expand

KINDS = ("read", "write", "execute")


def lint(
    rules: Rules, outer: Sequence[Rules], variables: Variables, missing: Sequence[PlacedPath]
) -> Iterator[Finding]:
    """Doubts about the paths of one profile; `outer` are those that it extends."""
    yield from _taken_away(rules)
    yield from _outside(rules, outer)
    yield from _useless(rules)
    yield from _doubled(rules)
    yield from _writable(rules, variables)
    yield from _readable(rules, variables)
    yield from _made_and_run(rules)
    for rule in missing:
        yield _finding("note", rule, f"{rule.path} does not exist here")


def folders(named: Sequence[PlacedPath]) -> Iterator[Finding]:
    """Allow rules that name a folder of this host as if it were a file."""
    for rule in named:
        message = f"{rule.text} is a folder, and no session starts with it: write {rule.text}/**"
        yield _finding("error", rule, message)


def _finding(level: Level, rule: PlacedPath, message: str) -> Finding:
    return Finding(level, rule.position, rule.key, message)


def _taken_away(rules: Rules) -> Iterator[Finding]:
    """Allow rules of which nothing is left."""
    for kind, denying in (
        ("read", rules.deny),
        ("write", (*rules.deny, *rules.read_only)),
        ("execute", (*rules.deny, *rules.no_exec)),
    ):
        for rule in getattr(rules, kind):
            by = taken(denying, rule.path)
            if by is not None:
                message = f"{rule.text} is never allowed: {by.key} takes away {by.text}"
                yield _finding("warning", rule, message)


def _outside(rules: Rules, outer: Sequence[Rules]) -> Iterator[Finding]:
    """Allow rules of which what the profile extends allows nothing."""
    for kind in KINDS:
        for rule in getattr(rules, kind):
            for link in outer:
                if not any(rule.touches(other) for other in getattr(link, kind)):
                    message = f"{rule.text} is never allowed: what this extends does not allow it"
                    yield _finding("warning", rule, message)
                    break


def _useless(rules: Rules) -> Iterator[Finding]:
    """Rules that take away where nothing is allowed."""
    for rule in rules.taking():
        allowed = rules.write if rule in rules.read_only else rules.allowing()
        area = replace(rule, path=_literal(rule.path), tree=True)
        if not any(area.touches(other) for other in allowed):
            yield _finding("note", rule, f"{rule.text} takes away what nothing allows")


def _literal(path: str) -> str:
    """`path` up to its first component that is a pattern."""
    names = path.split("/")
    plain = next((index for index, name in enumerate(names) if paths.is_glob(name)), len(names))
    return "/".join(names[:plain]) or "/"


def _doubled(rules: Rules) -> Iterator[Finding]:
    for kind in KINDS:
        listed: Sequence[PlacedPath] = getattr(rules, kind)
        for rule in listed:
            for wider in listed:
                same = (wider.path, wider.tree) == (rule.path, rule.tree)
                # What an included profile lists, it lists for others too.
                if not same and wider.source == rule.source and wider.covers(rule.path, rule.tree):
                    yield _finding("note", rule, f"{rule.text} is within {wider.text} already")
                    break


def _writable(rules: Rules, variables: Variables) -> Iterator[Finding]:
    for rule in rules.write:
        yield from _hazards(rule, hazards.WRITTEN, (*rules.deny, *rules.read_only), variables)
        # What begins with a variable is the user's own, even where that is /root.
        own = rule.text.startswith("{")
        for folder in hazards.HOST:
            if rule.covers(folder) if own else rule.reaches(folder):
                message = f"{rule.text} makes the host itself writable, {folder}"
                yield _finding("error", rule, message)
                break


def _readable(rules: Rules, variables: Variables) -> Iterator[Finding]:
    for rule in rules.read:
        yield from _hazards(rule, hazards.READ, rules.deny, variables)


def _hazards(
    rule: PlacedPath, listed: Sequence[Hazard], denying: Sequence[PlacedPath], variables: Variables
) -> Iterator[Finding]:
    """One finding for all places that are reached for one reason."""
    found: dict[tuple[Level, str], list[str]] = {}
    for hazard in listed:
        path = expand(hazard.path, variables)
        if rule.reaches(path) and taken(denying, path) is None:
            found.setdefault((hazard.level, hazard.why), []).append(hazard.path)
    verb = "writable" if listed is hazards.WRITTEN else "readable"
    for (level, why), places in found.items():
        named = ", ".join(places)
        yield _finding(level, rule, f"{rule.text} makes {named} {verb}: {why}")


def _made_and_run(rules: Rules) -> Iterator[Finding]:
    for rule in rules.write:
        if any(rule.touches(other) for other in rules.execute):
            message = f"{rule.text} is writable and executable: what the agent makes there may run"
            if rules.no_exec:
                message += ", a copy of a program that exec.deny names too"
            yield _finding("warning", rule, message)

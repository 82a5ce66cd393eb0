# SPDX-License-Identifier: Apache-2.0
"""Path rules with their variables worked out, and what can be said of two of them. For lint."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from monitor.profile import paths
from monitor.profile.model import PathRule, Position, Profile
from monitor.profile.variables import Variables, expand


@dataclass(frozen=True, slots=True)
class PlacedPath:
    """A rule: `text` as written, `path` worked out; `tree` includes all beneath it."""

    key: str
    text: str
    path: str
    tree: bool
    position: Position | None

    @property
    def source(self) -> str:
        return self.position.source if self.position else ""

    def covers(self, path: str, tree: bool = False) -> bool:
        """Whether the rule names all that (`path`, `tree`) names."""
        if self.tree:
            return within(path, self.path)
        return self.path == path and not tree

    def touches(self, other: PlacedPath) -> bool:
        """Whether there is a path that both name."""
        return other.covers(self.path) or self.covers(other.path)

    def reaches(self, path: str) -> bool:
        """Whether the rule names `path` or anything beneath it."""
        return self.covers(path) or within(self.path, path)


@dataclass(frozen=True, slots=True)
class Rules:
    """The path rules of one profile; `source` is its own file, not that of what it includes."""

    source: str
    read: tuple[PlacedPath, ...]
    write: tuple[PlacedPath, ...]
    execute: tuple[PlacedPath, ...]
    deny: tuple[PlacedPath, ...]
    read_only: tuple[PlacedPath, ...]
    no_exec: tuple[PlacedPath, ...]

    def allowing(self) -> tuple[PlacedPath, ...]:
        return (*self.read, *self.write, *self.execute)

    def taking(self) -> tuple[PlacedPath, ...]:
        return (*self.deny, *self.read_only, *self.no_exec)


def rules(profile: Profile, variables: Variables) -> Rules:
    """Every path rule of one profile."""
    files, programs = profile.files, profile.exec

    def work_out(key: str, listed: Iterable[tuple[str, Position | None]]) -> tuple[PlacedPath, ...]:
        return tuple(
            PlacedPath(key, text, *place(text, variables), position) for text, position in listed
        )

    def of(section: str) -> tuple[PlacedPath, ...]:
        listed: Sequence[PathRule] = getattr(files, section) if files else ()
        return work_out(f"files.{section}", ((rule.path, rule.position) for rule in listed))

    denied = programs.deny if programs else ()
    own = profile.places.get("")
    return Rules(
        own.source if own else "",
        of("read"),
        of("write"),
        of("execute"),
        of("deny"),
        of("read_only"),
        work_out(
            "exec.deny", ((rule.path, rule.position) for rule in denied if rule.whatever_arguments)
        ),
    )


def place(text: str, variables: Variables) -> tuple[str, bool]:
    """The path that `text` names on this host, and whether all beneath it is meant."""
    path, tree = paths.split(text)
    expanded = expand(path, variables)
    # A name that is older than /run and still in use.
    if expanded == "/var/run" or expanded.startswith("/var/run/"):
        expanded = expanded.removeprefix("/var")
    return expanded, tree


def within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or beneath it."""
    return folder in {"/", path} or path.startswith(f"{folder}/")


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern of `deny` names exactly `path`."""
    names, globs = path.split("/"), pattern.split("/")
    if "**" in globs:
        return fnmatch.fnmatchcase(path, pattern)
    return len(names) == len(globs) and all(map(fnmatch.fnmatchcase, names, globs))


def taken(denying: Iterable[PlacedPath], path: str) -> PlacedPath | None:
    """The rule of `denying` that takes `path` away: one that names a folder takes all beneath."""
    parts = path.split("/")
    heads = ["/".join(parts[:end]) for end in range(2, len(parts) + 1)]
    for rule in denying:
        if paths.is_glob(rule.path):
            if any(matches(head, rule.path) for head in heads):
                return rule
        elif within(path, rule.path):
            return rule
    return None

# SPDX-License-Identifier: Apache-2.0
"""Finds what a plan's masks match on disk: all patterns in one walk, on descriptors.

Only a directory that a wildcard applies to is read; names without one are opened directly. The
walk never goes through a symbolic link by itself: a link that a pattern meets is resolved by the
kernel, and the pattern goes on at its target if the session may touch anything there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from monitor.daemon.view.patterns import Glob, Part, Pattern, Reach, State
from monitor.daemon.view.request import ViewError
from monitor.kernel import mounts
from monitor.policy.plan import MaskKind

# Entries looked at in directories that `**` leads to. A pattern that needs more is too wide.
WALK_LIMIT = 500_000
# Symbolic links followed for one view, as path_resolution(7) bounds one path.
LINK_LIMIT = 4096
# Folders below folders; each holds a descriptor while those beneath it are walked.
DEPTH_LIMIT = 200
READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Found:
    """What is to be masked: path to kinds, and to patterns. `notes` is for the launch record."""

    targets: dict[str, set[MaskKind]] = field(default_factory=dict)
    patterns: dict[str, set[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, path: str, pattern: Pattern) -> None:
        self.targets.setdefault(path, set()).add(pattern.kind)
        self.patterns.setdefault(path, set()).add(pattern.text)


class Sought(NamedTuple):
    """What is asked of one directory: names, wildcards, and the states that go on beneath."""

    literal: dict[str, list[State]]
    globs: tuple[tuple[Glob, State], ...]
    deep: tuple[State, ...]

    @property
    def scans(self) -> bool:
        return bool(self.globs or self.deep)


class Search:
    """One walk for all patterns. `limit` bounds the matches.

    `visit` is told of each folder in which a name may matter, before it is looked at: its
    descriptor, and its path.
    """

    def __init__(
        self, reach: Reach, limit: int, visit: Callable[[int, str], None] | None = None
    ) -> None:
        self.found = Found()
        self._visit = visit
        self._reach = reach
        self._limit = limit
        self._walked = 0
        self._links = 0
        self._later: list[State] = []
        self._dispatch: dict[tuple[State, ...], Sought] = {}
        self._seen_links: set[tuple[str, MaskKind]] = set()
        # (device, inode) of files with several names -> how many, and those that are masked.
        self._hard_links: dict[tuple[int, int], tuple[int, list[str]]] = {}

    def run(self, masks: Iterable[tuple[str, MaskKind]]) -> Found:
        """Everything that `masks` match now. ViewError where that is too much."""
        states = [State(Pattern.parse(text, kind), 0) for text, kind in masks]
        root = mounts.open_root()
        try:
            while states:
                self._enter(root, "", states)
                states, self._later = self._later, []
        finally:
            os.close(root)
        for count, names in self._hard_links.values():
            if count > len(names):
                self.found.notes.append(
                    f"{names[0]} has {count - len(names)} more names (hard links), which no mask"
                    " covers"
                )
        return self.found

    # -- one directory -------------------------------------------------------------------------

    def _enter(self, directory: int, path: str, states: Sequence[State]) -> None:
        """Match the entries of `directory`, which is at `path` ("" is the root)."""
        sought = self._sought(tuple(states))
        if not sought.scans:
            if self._visit is not None:
                self._visit(directory, path or "/")
            for name, after in sought.literal.items():
                self._step(directory, f"{path}/{name}", name, after)
            return
        try:
            readable = os.open(".", READ_DIRECTORY, dir_fd=directory)
        except OSError as error:
            if error.errno in mounts.GONE:
                return
            raise
        self._scan(readable, path, sought)

    def _scan(self, directory: int, path: str, sought: Sought) -> None:
        """Match what a listing of `directory` shows, and close it."""
        try:
            if path.count("/") > DEPTH_LIMIT:
                raise ViewError(f"cannot search {path}: more than {DEPTH_LIMIT} folders deep")
            if self._visit is not None:
                self._visit(directory, path or "/")
            with os.scandir(directory) as listing:
                # A file system of the user's own can list names without end.
                entries = list(islice(listing, WALK_LIMIT - self._walked + 1))
            self._count(len(entries), path)
            names = [entry.name for entry in entries]
            matched: dict[str, list[State]] = {}
            for name in sought.literal.keys() & names:
                matched[name] = list(sought.literal[name])
            text = "\0".join(names) if sought.globs else ""
            for glob, after in sought.globs:
                if glob.need in text:
                    for name in filter(glob.match, names):
                        matched.setdefault(name, []).append(after)
            if sought.deep:
                self._descend(directory, path, entries, sought.deep, matched)
            for name, states in matched.items():
                self._step(directory, f"{path}/{name}", name, states)
        finally:
            os.close(directory)

    def _descend(
        self,
        directory: int,
        path: str,
        entries: list[os.DirEntry[str]],
        deep: tuple[State, ...],
        matched: dict[str, list[State]],
    ) -> None:
        """Go on with `**` in every directory among `entries`; the matched ones get it to carry."""
        everywhere = self._reach.touches(path)
        onward = self._sought(deep)
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                continue
            name = entry.name
            if not everywhere and not self._reach.leads(f"{path}/{name}"):
                continue
            if name in matched:
                matched[name].extend(deep)
                continue
            try:
                child = os.open(name, READ_DIRECTORY, dir_fd=directory)
            except OSError as error:
                if error.errno in mounts.GONE:
                    continue
                raise
            self._scan(child, f"{path}/{name}", onward)

    def _sought(self, states: tuple[State, ...]) -> Sought:
        """What `states` ask of a directory's entries; the same for all that `**` walks through."""
        known = self._dispatch.get(states)
        if known is not None:
            return known
        literal: dict[str, list[State]] = {}
        globs: list[tuple[Glob, State]] = []
        deep: list[State] = []
        for state in states:
            at = state.at
            parts = state.pattern.parts
            if parts[at] is None:
                deep.append(state)
                # A trailing `**` is never there: something follows.
                while parts[at] is None:
                    at += 1
            part = parts[at]
            after = State(state.pattern, at + 1)
            if isinstance(part, str):
                literal.setdefault(part, []).append(after)
            elif part is not None:
                globs.append((part, after))
        sought = Sought(literal, tuple(globs), tuple(deep))
        self._dispatch[states] = sought
        return sought

    def _step(self, directory: int, path: str, name: str, states: list[State]) -> None:
        """Go to one entry that `states` have matched; what is not there matches nothing."""
        try:
            entry = mounts.open_entry(directory, name)
        except OSError as error:
            if error.errno in mounts.GONE:
                return
            raise
        try:
            facts = os.fstat(entry)
            if stat.S_ISLNK(facts.st_mode):
                self._follow(directory, path, name, states)
                return
            going_on: list[State] = []
            hidden = False
            for state in dict.fromkeys(states):
                if state.at < len(state.pattern.parts):
                    going_on.append(state)
                    continue
                self._match(path, state.pattern, facts)
                hidden = hidden or state.pattern.kind is MaskKind.HIDE
            if going_on and not hidden and stat.S_ISDIR(facts.st_mode):
                self._enter(entry, path, going_on)
        finally:
            os.close(entry)

    def _match(self, path: str, pattern: Pattern, facts: os.stat_result) -> None:
        new = path not in self.found.targets
        self.found.add(path, pattern)
        if len(self.found.targets) > self._limit:
            raise ViewError(
                f"cannot mask {path}: the masks match more than {self._limit} objects;"
                f" narrow {pattern.text}"
            )
        if new and facts.st_nlink > 1 and stat.S_ISREG(facts.st_mode):
            key = (facts.st_dev, facts.st_ino)
            self._hard_links.setdefault(key, (facts.st_nlink, []))[1].append(path)

    # -- symbolic links ------------------------------------------------------------------------

    def _follow(self, directory: int, path: str, name: str, states: list[State]) -> None:
        """Let each pattern that met the link go on at its target, where that matters."""
        self._links += 1
        if self._links > LINK_LIMIT:
            raise ViewError(f"cannot mask {path}: more than {LINK_LIMIT} symbolic links")
        target = _resolve(directory, name)
        if target is None or not self._reach.leads(target):
            return
        for state in states:
            pattern = state.pattern
            if state.at == len(pattern.parts):
                if (path, pattern.kind) in self._seen_links:
                    continue
                self._seen_links.add((path, pattern.kind))
                self.found.notes.append(
                    f"{path} is a symbolic link: its target {target} is masked, the link is not"
                )
            parts = (*(part for part in target.split("/") if part), *_rest(state))
            self._later.append(State(Pattern(parts, pattern.kind, pattern.text), 0))

    def _count(self, entries: int, path: str) -> None:
        self._walked += entries
        if self._walked > WALK_LIMIT:
            raise ViewError(
                f"cannot search {path or '/'}: the patterns lead to more than {WALK_LIMIT} names;"
                " narrow those with **"
            )


def _rest(state: State) -> tuple[Part, ...]:
    return state.pattern.parts[state.at :]


def _resolve(directory: int, name: str) -> str | None:
    """Where the link `name` leads, without links; None where it leads nowhere."""
    try:
        target = mounts.openat2(directory, name, os.O_PATH, mounts.RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno in mounts.GONE:
            return None
        raise
    try:
        path = str(Path(f"/proc/self/fd/{target}").readlink())
    finally:
        os.close(target)
    return path if path.startswith("/") else None

# SPDX-License-Identifier: Apache-2.0
"""A mask's pattern in the form that the walk takes, and what is within a session's reach."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from monitor.daemon.view.request import ViewError
from monitor.policy import patterns
from monitor.policy.patterns import ANY_DEPTH, is_within
from monitor.policy.plan import MaskKind

_WILDCARD = re.compile(r"[*?\[]")
_LITERAL_RUN = re.compile(r"[^*?]+")


class Glob(NamedTuple):
    """One name with wildcards: `need` is text that every match contains."""

    match: Callable[[str], object]
    need: str


# A name, a name with wildcards, or any number of folders.
Part = str | Glob | None


class State(NamedTuple):
    """How far a pattern has matched: `at` of its parts are behind."""

    pattern: Pattern
    at: int


class Pattern:
    """A mask's pattern in parts; a trailing `**` is dropped, since a mask covers a whole tree."""

    __slots__ = ("kind", "parts", "text")

    def __init__(self, parts: Sequence[Part], kind: MaskKind, text: str) -> None:
        self.parts = tuple(parts)
        self.kind = kind
        self.text = text

    @classmethod
    def parse(cls, text: str, kind: MaskKind) -> Pattern:
        """ViewError where `text` is not an absolute path without `.` and `..`, or all there is."""
        found = patterns.pattern(text)
        if not text.startswith("/") or not found.names or {".", ".."} & set(found.names):
            raise ViewError(f"cannot match {text}: not an absolute, plain path")
        rest = found.names[len(found.literal) :]
        return cls([*found.literal, *map(_part, rest)], kind, text)


def _part(name: str) -> Part:
    if name == ANY_DEPTH:
        return None
    if not _WILDCARD.search(name):
        return name
    # A class may hold brackets itself: then nothing is said about what a match contains.
    runs = [] if "[" in name else _LITERAL_RUN.findall(name)
    return Glob(re.compile(fnmatch.translate(name)).match, max(runs, key=len, default=""))


class Reach:
    """Which paths a session may touch, and which change: `rules` has each link's paths."""

    def __init__(self, rules: Iterable[Iterable[tuple[str, bool]]]) -> None:
        links = [tuple(link) for link in rules]
        self._touch = [tuple(path for path, _writes in link) for link in links]
        self._write = [tuple(path for path, writes in link if writes) for link in links]
        self._above = {
            above for paths in self._touch for path in paths for above in ancestors(path)
        }

    def touches(self, path: str) -> bool:
        """Every link grants something at `path`."""
        return all(any(is_within(path, root) for root in roots) for roots in self._touch)

    def writes(self, path: str) -> bool:
        """Every link grants writing at `path`."""
        return all(any(is_within(path, root) for root in roots) for roots in self._write)

    def writable(self) -> list[str]:
        """The outermost paths at which every link grants writing."""
        return outermost(path for link in self._write for path in link if self.writes(path))

    def leads(self, path: str) -> bool:
        """`path` can be touched, or lies above something that can."""
        return path in self._above or self.touches(path)


def outermost(paths: Iterable[str]) -> list[str]:
    """Those of `paths` that are beneath no other of them, sorted name by name."""
    found: list[str] = []
    for path in sorted(set(paths), key=patterns.split):
        if not found or not is_within(path, found[-1]):
            found.append(path)
    return found


def ancestors(path: str) -> Iterator[str]:
    """The directories above `path`, nearest first, `/` last."""
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path

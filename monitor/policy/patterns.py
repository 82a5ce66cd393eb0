# SPDX-License-Identifier: Apache-2.0
"""The patterns of masks: `*`, `?` and `[..]` within one name, `**` for any number of folders.

A pattern that names a folder covers what is beneath it. Characters that came out of a variable
stand for themselves: they are written `[*]`, `[?]`, `[[]`, as glob.escape does.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

ANY_DEPTH = "**"

_ESCAPED = re.compile(r"\[([*?\[])\]")
_MAGIC = re.compile(r"[*?\[]")


def split(path: str) -> tuple[str, ...]:
    """The names of an absolute path; () for `/`."""
    return tuple(name for name in path.split("/") if name)


def join(names: Sequence[str]) -> str:
    return "/" + "/".join(names)


def is_within(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or beneath it, name by name: /srv/ab is not within /srv/a."""
    return folder in ("/", path) or path.startswith(folder + "/")


def parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def escape(text: str) -> str:
    """`text` as a pattern that matches nothing else."""
    return _MAGIC.sub(r"[\g<0>]", text)


@dataclass(frozen=True)
class Pattern:
    """A compiled pattern; `names` are its components."""

    names: tuple[str, ...]

    @cached_property
    def literal(self) -> tuple[str, ...]:
        """The components before the first that is a glob, as names of files."""
        found = []
        for name in self.names:
            plain = plain_name(name)
            if plain is None:
                break
            found.append(plain)
        return tuple(found)

    @cached_property
    def start(self) -> str:
        """The path that the literal components make."""
        return join(self.literal)

    @cached_property
    def is_literal(self) -> bool:
        return len(self.literal) == len(self.names)

    def covers(self, path: str) -> bool:
        """Whether `path`, or a folder that it is in, is named by the pattern."""
        if not is_within(path, self.start):
            return False
        if self.is_literal:
            return True
        states = self._closed({0})
        for name in split(path):
            if len(self.names) in states:
                return True
            states = self._behind(states, name)
        return len(self.names) in states

    def reaches_into(self, folder: str) -> bool:
        """Whether the pattern may name something beneath `folder`."""
        states = self._closed({0})
        for name in split(folder):
            states = self._behind(states, name)
        return any(state < len(self.names) for state in states)

    def _behind(self, states: set[int], name: str) -> set[int]:
        """Which components may come behind `name`: `**` is where it was, and behind itself."""
        return self._closed(
            {
                state if self.names[state] == ANY_DEPTH else state + 1
                for state in states
                if state < len(self.names)
                and (self.names[state] == ANY_DEPTH or _name_pattern(self.names[state])(name))
            }
        )

    def _closed(self, states: set[int]) -> set[int]:
        closed = set(states)
        for state in states:
            following = state
            while following < len(self.names) and self.names[following] == ANY_DEPTH:
                following += 1
                closed.add(following)
        return closed


@cache
def pattern(text: str) -> Pattern:
    """The pattern that `text` writes. `DIR/**` is DIR, which covers all beneath it."""
    names = list(split(text))
    while names and names[-1] == ANY_DEPTH:
        names.pop()
    return Pattern(tuple(names))


@cache
def _name_pattern(name: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(fnmatch.translate(name)).match


def plain_name(name: str) -> str | None:
    """The one file name that `name` matches, None where it is a glob."""
    if _MAGIC.search(_ESCAPED.sub("", name)):
        return None
    return _ESCAPED.sub(r"\1", name)

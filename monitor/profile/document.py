# SPDX-License-Identifier: Apache-2.0
"""YAML text as a tree of nodes that know where they stand.

Built from the parser's events, so that nothing is constructed: no tag is acted upon, no alias
followed, no number made of a million digits. A profile may come from whoever starts a session, so
each of those is an error with its place, and so are duplicate keys, depth and size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from monitor.profile import variables
from monitor.profile.errors import Problem, ProfileError
from monitor.profile.model import Position

LARGEST_TEXT = 1 << 20  # bytes
DEEPEST = 16
MOST_NODES = 20_000

# The YAML 1.2 core schema, without floating point, octal and hexadecimal: no key takes those.
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
# To YAML, a brace opens a mapping.
_UNQUOTED = re.compile(r"(?:^|[\s\[,:])\{(?:" + "|".join(variables.NAMES) + r")\}")
QUOTE = 'A text that begins with a variable is put in quotes: "{home}/x"'
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value: text, a whole number, true or false. None stands for a key without a value."""

    value: str | int | bool | None
    position: Position


@dataclass(frozen=True, slots=True)
class Listing:
    """A list."""

    items: tuple[Node, ...]
    position: Position


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's place and its value."""

    position: Position
    value: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys, which are text and unique, in the order of the file."""

    entries: dict[str, Entry]
    position: Position


Node = Scalar | Listing | Mapping


def read(text: str, source: str) -> Node:
    """The one document of `text`; ProfileError where it is malformed or hostile."""
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_TEXT:
        raise ProfileError([Problem(source, 0, 0, "", f"larger than {LARGEST_TEXT} bytes")])
    try:
        return _Builder(YAML(typ="safe", pure=True).parse(text), source).document()
    except ProfileError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = " ".join(str(error.problem or error.context or "not YAML").split())
        if _UNQUOTED.search("".join(text.splitlines()[line - 1 : line])):
            message += f". {QUOTE}"
        raise ProfileError([Problem(source, line, column, "", message)]) from None
    except ReaderError as error:
        line, column = _place(text, int(error.position))
        message = f"the character U+{_code(error.character):04X} is not allowed in YAML"
        raise ProfileError([Problem(source, line, column, "", message)]) from None
    except Exception as error:
        # Text that is broken enough breaks the parser itself, in ways nobody has listed: a profile
        # that cannot be read is refused, whatever the reason.
        message = f"not YAML: {type(error).__name__}: {' '.join(str(error).split())}"
        raise ProfileError([Problem(source, 0, 0, "", message)]) from error


def _place(text: str, index: int) -> tuple[int, int]:
    line = text.count("\n", 0, index) + 1
    return line, index - text.rfind("\n", 0, index)


def _code(character: object) -> int:
    return character if isinstance(character, int) else ord(str(character)[:1] or "\0")


class _Builder:
    """Makes the tree of one stream of events."""

    def __init__(self, events: Iterator[Any], source: str) -> None:
        self._events = events
        self._source = source
        self._nodes = 0

    def document(self) -> Node:
        self._next("StreamStartEvent")
        event = next(self._events)
        if type(event).__name__ == "StreamEndEvent":
            raise self._error(event, "the file is empty")
        root = self._node(next(self._events), 1)
        self._next("DocumentEndEvent")
        event = next(self._events)
        if type(event).__name__ != "StreamEndEvent":
            raise self._error(event, "a second document begins here: a file holds one")
        return root

    def _next(self, kind: str) -> None:
        event = next(self._events)
        if type(event).__name__ != kind:
            raise self._error(event, "not expected here")

    def _node(self, event: Any, depth: int) -> Node:
        self._refuse(event, depth)
        position = self._position(event)
        kind = type(event).__name__
        if kind == "ScalarEvent":
            return Scalar(_resolve(event), position)
        if kind == "SequenceStartEvent":
            return Listing(tuple(self._items(depth)), position)
        return Mapping(self._entries(depth), position)

    def _refuse(self, event: Any, depth: int) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise self._error(event, f"more than {MOST_NODES} keys and values")
        if depth > DEEPEST:
            raise self._error(event, f"nested deeper than {DEEPEST} levels")
        if type(event).__name__ == "AliasEvent" or event.anchor is not None:
            raise self._error(event, "anchors and aliases (&name, *name) are not taken; a path"
                                     " or pattern that begins so is put in quotes")  # fmt: skip
        if event.tag is not None:
            raise self._error(event, f"tags ({event.tag}) are not taken")

    def _items(self, depth: int) -> Iterator[Node]:
        while type(event := next(self._events)).__name__ != "SequenceEndEvent":
            yield self._node(event, depth + 1)

    def _entries(self, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        while type(event := next(self._events)).__name__ != "MappingEndEvent":
            if type(event).__name__ not in {"ScalarEvent", "AliasEvent"}:
                raise self._error(event, "a key is text")
            self._refuse(event, depth + 1)
            key = str(event.value)
            if key in entries:
                first = entries[key].position.line
                raise self._error(event, f"the key {key!r} is there already, in line {first}")
            entries[key] = Entry(self._position(event), self._node(next(self._events), depth + 1))
        return entries

    def _position(self, event: Any) -> Position:
        mark = event.start_mark
        return Position(source=self._source, line=mark.line + 1, column=mark.column + 1)

    def _error(self, event: Any, message: str) -> ProfileError:
        place = self._position(event)
        return ProfileError([Problem(self._source, place.line, place.column, "", message)])


def _resolve(event: Any) -> str | int | bool | None:
    """The value of a scalar: quoted ones are text, plain ones may be something else."""
    text = str(event.value)
    if not event.implicit[0]:
        return text
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    return int(text) if _INTEGER.fullmatch(text) else text

# SPDX-License-Identifier: Apache-2.0
"""A profile from its file: YAML to model, with the place of every key and every rule."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError

from monitor.profile import check, variables
from monitor.profile.document import LARGEST_TEXT, QUOTE, Listing, Mapping, Node, Scalar, read
from monitor.profile.errors import Problem, ProfileError, problem
from monitor.profile.model import Model, Position, Profile

_MESSAGES = {
    "missing": "is missing",
    "string_type": "must be text: put it in quotes",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
}


def load(path: Path) -> Profile:
    """The profile at `path`; ProfileError where it cannot be read or is wrong, with the place."""
    source = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_TEXT + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ProfileError([Problem(source, 0, 0, "", f"cannot be read: {why}")]) from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8"
        raise ProfileError([Problem(source, line, column, "", message)]) from error
    return parse(text, source)


def parse(text: str, source: str) -> Profile:
    """The profile that `text` writes; `source` is its name in messages and positions."""
    root = read(text, source)
    if not isinstance(root, Mapping):
        message = "a profile is a mapping of keys to values"
        raise ProfileError([problem(root.position, "", message)])
    shaper = _Shaper()
    data = shaper.model(root, Profile, "")
    if shaper.problems:
        raise ProfileError(shaper.problems)
    try:
        profile = Profile.model_validate(data | {"places": shaper.places}, strict=True)
    except ValidationError as error:
        raise ProfileError(_problems(error, shaper.places)) from None
    problems = check.problems(profile)
    if problems:
        raise ProfileError(problems)
    return profile


class _Shaper:
    """Puts a tree into the shape of the models and notes where everything stands.

    The models say what goes where: a rule that is mere text is the first field of its model.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.places: dict[str, Position] = {}

    def model(self, node: Mapping, model: type[Model], key: str) -> dict[str, Any]:
        self.places[key] = node.position
        fields = {name: info for name, info in model.model_fields.items() if not info.exclude}
        shaped = {}
        for name, entry in node.entries.items():
            where = f"{key}.{name}" if key else name
            if name in fields:
                shaped[name] = self.value(entry.value, fields[name].annotation, where)
            else:
                self._problem(entry.position, where, f"unknown key{_closest(name, fields)}")
        return shaped

    def value(self, node: Node, annotation: Any, key: str) -> Any:
        self.places[key] = node.position
        if isinstance(node, Scalar) and node.value is None:
            return self._problem(
                node.position, key, "has no value: an empty list is [], an empty section {}"
            )
        kind = _without_none(annotation)
        if get_origin(kind) is tuple:
            return self._items(node, get_args(kind)[0], key)
        if get_origin(kind) is dict:
            return self._entries(node, get_args(kind)[1], key)
        if isinstance(kind, type) and issubclass(kind, Model):
            if isinstance(node, Mapping):
                return self.model(node, kind, key)
            return self._problem(node.position, key, "must be a mapping of keys to values")
        if isinstance(node, Scalar):
            return node.value
        return self._problem(node.position, key, "must be one value")

    def _items(self, node: Node, kind: Any, key: str) -> Any:
        if not isinstance(node, Listing):
            return self._problem(node.position, key, "must be a list")
        rules = isinstance(kind, type) and issubclass(kind, Model)
        shape = self._rule if rules else self.value
        return tuple(shape(item, kind, f"{key}[{i}]") for i, item in enumerate(node.items))

    def _rule(self, node: Node, model: type[Model], key: str) -> Any:
        self.places[key] = node.position
        if isinstance(node, Listing) or (isinstance(node, Scalar) and node.value is None):
            return self._problem(node.position, key, "must be a rule: text or a mapping")
        if isinstance(node, Mapping):
            return self.model(node, model, key) | {"position": node.position}
        if next(iter(model.model_fields.values())).annotation is not str:
            names = ", ".join(name for name, info in model.model_fields.items() if not info.exclude)
            return self._problem(node.position, key, f"must be a mapping with {names}")
        return {next(iter(model.model_fields)): node.value, "position": node.position}

    def _entries(self, node: Node, kind: Any, key: str) -> Any:
        if not isinstance(node, Mapping):
            what = "text" if kind is str else "mappings"
            return self._problem(node.position, key, f"must be a mapping of names to {what}")
        return {
            name: self.value(entry.value, kind, f"{key}.{name}")
            for name, entry in node.entries.items()
        }

    def _problem(self, position: Position, key: str, message: str) -> None:
        self.problems.append(problem(position, key, message))


def _without_none(annotation: Any) -> Any:
    """`X` of `X | None`, without what Annotated adds."""
    if get_origin(annotation) in {Union, UnionType}:
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    while hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    return annotation


def _closest(name: str, fields: dict[str, Any]) -> str:
    if name in variables.NAMES:
        return f". {QUOTE}"
    close = get_close_matches(name, fields, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(fields)}"


def _problems(error: ValidationError, places: dict[str, Position]) -> list[Problem]:
    found = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        key, position = "", places[""]
        for part in detail["loc"]:
            deeper = f"{key}[{part}]" if isinstance(part, int) else f"{key}.{part}".lstrip(".")
            # A rule written as mere text has no keys of its own: the place is the text's.
            if deeper in places or detail["type"] == "missing":
                key, position = deeper, places.get(deeper, position)
        found.append(problem(position, key, _message(dict(detail))))
    return found


def _message(detail: dict[str, Any]) -> str:
    own = str(detail["msg"]).replace("Input should be", "must be")
    if detail["type"] == "string_pattern_mismatch":
        return "must be lower-case letters, digits, '.', '_' and '-', 64 characters at most"
    return _MESSAGES.get(detail["type"], own[:1].lower() + own[1:])

# SPDX-License-Identifier: Apache-2.0
"""The Plan as JSON text and back: what a restarted worker reads its sessions' rules from.

The form follows the dataclasses of `plan.py`: an object for each, an array for a tuple, the value
of an Enum, the names of a Flag's members. The text is ASCII, whatever bytes a file name holds.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum, Flag
from functools import cache, lru_cache
from typing import Any

from monitor.policy.plan import Plan

Decoder = Callable[[Any], Any]


@lru_cache(maxsize=32)
def to_json(plan: Plan) -> str:
    """The one text for `plan`: equal plans give equal texts."""
    return json.dumps(_encode(plan), sort_keys=True, separators=(",", ":"))


def from_json(text: str) -> Plan:
    """The plan that `to_json` wrote; ValueError where `text` is not exactly of that form."""
    plan: Plan = _decoder(Plan)(json.loads(text))
    return plan


def _encode(value: Any) -> Any:
    kind = type(value)
    if kind is str or kind is int or value is None:
        return value
    if kind is tuple:
        return [_encode(each) for each in value]
    if is_dataclass(kind):
        return {name: _encode(getattr(value, name)) for name in _names(kind)}
    if isinstance(value, Flag):
        return [member.name for member in kind if member in value]
    if isinstance(value, Enum):
        return value.value
    return value


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


@cache
def _decoder(kind: Any) -> Decoder:
    """What turns JSON values into `kind`, made once for each type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        (inner,) = (each for each in arguments if each is not type(None))
        decode = _decoder(inner)
        return lambda value: None if value is None else decode(value)
    if origin is tuple:
        return _tuple(arguments)
    if is_dataclass(kind):
        return _dataclass(kind)
    if issubclass(kind, Flag):
        return _flag(kind)
    if issubclass(kind, Enum):
        return typing.cast(Decoder, kind)
    return _scalar(kind)


def _tuple(arguments: tuple[Any, ...]) -> Decoder:
    if arguments[-1] is Ellipsis:
        each = _decoder(arguments[0])
        return lambda value: tuple([each(one) for one in _expect(value, list)])
    decoders = [_decoder(argument) for argument in arguments]
    return lambda value: tuple(
        decode(one) for decode, one in zip(decoders, _expect(value, list), strict=True)
    )


def _dataclass(kind: Any) -> Decoder:
    def decode(value: Any) -> Any:
        found, decoders = _expect(value, dict), _field_decoders(kind)
        if found.keys() != decoders.keys():
            names = ", ".join(sorted(found.keys() ^ decoders.keys()))
            raise ValueError(f"{kind.__name__}: missing or unknown: {names}")
        return kind(**{name: decoders[name](one) for name, one in found.items()})

    return decode


@cache
def _field_decoders(kind: Any) -> dict[str, Decoder]:
    """Made when one is decoded: a policy holds labels, and a label a policy."""
    hints = typing.get_type_hints(kind)
    return {each.name: _decoder(hints[each.name]) for each in fields(kind)}


def _flag(kind: type[Flag]) -> Decoder:
    def decode(value: Any) -> Flag:
        flag = kind(0)
        for name in _expect(value, list):
            member = kind.__members__.get(_expect(name, str))
            if member is None:
                raise ValueError(f"{name!r} is no {kind.__name__}")
            flag |= member
        return flag

    return decode


def _scalar(kind: type) -> Decoder:
    return lambda value: _expect(value, kind)


def _expect(value: Any, kind: type) -> Any:
    # `bool` is an `int` to isinstance, and not to a plan.
    if type(value) is not kind:
        raise ValueError(f"{value!r} is not {kind.__name__}")
    return value

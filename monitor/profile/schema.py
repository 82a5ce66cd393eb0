# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema of profiles, by which editors complete and check them."""

from __future__ import annotations

from typing import Any

from monitor.profile.model import (
    AskNetworkRule,
    AskPathRule,
    ExecRule,
    NetworkRule,
    PathRule,
    Profile,
    UnixRule,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# A rule may be mere text: the first field of its model.
_RULES = (PathRule, AskPathRule, NetworkRule, AskNetworkRule, UnixRule, ExecRule)
# What load.py adds; no key of a file.
_INTERNAL = ("position", "places")


def schema() -> dict[str, Any]:
    """The schema as a JSON value; `monitor/profile/check.py` holds what it cannot say."""
    made = Profile.model_json_schema()
    definitions: dict[str, Any] = made["$defs"]
    definitions.pop("Position")
    for model in (made, *definitions.values()):
        _clean(model)
    for rule in _RULES:
        whole = definitions[rule.__name__]
        text = whole["properties"][next(iter(rule.model_fields))]
        definitions[rule.__name__] = {
            "description": whole.pop("description"),
            "anyOf": [text, whole],
        }
    return {"$schema": DIALECT, "title": "ri profile", **_without_title(made)}


def _clean(model: dict[str, Any]) -> None:
    """Leave out what is not written in a file, and titles and defaults that say nothing."""
    properties = model["properties"]
    for name in _INTERNAL:
        properties.pop(name, None)
    for name, value in properties.items():
        properties[name] = _value(value)


def _value(value: dict[str, Any]) -> dict[str, Any]:
    """A key that may be left out is absent, not null."""
    plain = _without_title(value)
    if plain.get("default") is None:
        plain.pop("default", None)
    kinds = [kind for kind in plain.pop("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        return {**kinds[0], **plain}
    return plain


def _without_title(value: dict[str, Any]) -> dict[str, Any]:
    return {key: each for key, each in value.items() if key != "title"}

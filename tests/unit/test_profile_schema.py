# SPDX-License-Identifier: Apache-2.0
"""The JSON Schema says what load.py takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from monitor.profile.model import Model, Profile
from monitor.profile.schema import schema

SCHEMA = schema()


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from objects(each)
    if isinstance(value, list):
        for each in value:
            yield from objects(each)


def test_is_json() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_has_every_key_and_no_internal_one() -> None:
    assert list(SCHEMA["properties"]) == [name for name in Profile.model_fields if name != "places"]
    assert SCHEMA["required"] == ["name"]
    assert "Position" not in SCHEMA["$defs"]
    assert not any("position" in each.get("properties", {}) for each in objects(SCHEMA))


@pytest.mark.parametrize(("rule", "key"), [("PathRule", "path"), ("NetworkRule", "to"),
                                           ("UnixRule", "path"), ("ExecRule", "path")])  # fmt: skip
def test_a_rule_is_text_or_a_mapping(rule: str, key: str) -> None:
    text, mapping = SCHEMA["$defs"][rule]["anyOf"]
    assert text["type"] == "string"
    assert mapping["type"] == "object"
    assert mapping["required"] == [key]


def test_unknown_keys_are_errors_everywhere() -> None:
    for each in objects(SCHEMA):
        if "properties" in each:
            assert each["additionalProperties"] is False


def test_everything_is_described() -> None:
    for each in objects(SCHEMA):
        for name, value in each.get("properties", {}).items():
            described = value.get("description") or SCHEMA["$defs"][value["$ref"].split("/")[-1]]
            assert described, name
    for model in Model.__subclasses__():
        assert model.__doc__, model


def test_references_lead_somewhere() -> None:
    for each in objects(SCHEMA):
        if "$ref" in each:
            assert each["$ref"].removeprefix("#/$defs/") in SCHEMA["$defs"]
        # A key that may be left out is absent, not null.
        assert each.get("type") != "null"

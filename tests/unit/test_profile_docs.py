# SPDX-License-Identifier: Apache-2.0
"""docs/profiles.md: each example in it loads, or is refused with the words that it shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.profile.catalog import Catalog
from monitor.profile.errors import ProfileError
from monitor.profile.load import parse
from monitor.profile.model import Model, Profile
from monitor.profile.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "profiles.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\S+)( refused)?\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
EXAMPLES = [body for kind, refused, body in BLOCKS if kind == "yaml" and not refused]
REFUSED = [
    (body, shown)
    for (kind, refused, body), (_, _, shown) in zip(BLOCKS, BLOCKS[1:], strict=False)
    if kind == "yaml" and refused
]


def name_of(body: str) -> str:
    found = re.search(r"^name: (\S+)$", body, re.MULTILINE)
    assert found, body
    return found[1]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 10
    assert len(REFUSED) == sum(bool(refused) for _, refused, _ in BLOCKS) > 2


@pytest.mark.parametrize("body", EXAMPLES, ids=name_of)
def test_examples_load(body: str) -> None:
    resolve(parse(body, f"{name_of(body)}.yaml"), Catalog([ROOT / "profiles"]).load)


@pytest.mark.parametrize(("body", "shown"), REFUSED, ids=lambda each: str(each)[6:16])
def test_refusals_are_shown_word_for_word(body: str, shown: str) -> None:
    with pytest.raises(ProfileError) as error:
        parse(body, f"{name_of(body)}.yaml")
    assert str(error.value) == shown.rstrip("\n")


def test_every_key_is_described() -> None:
    models: list[type[Model]] = [Profile, *Model.__subclasses__()]
    for model in models:
        for name, field in model.model_fields.items():
            if not field.exclude and model.__name__ != "Position":
                assert f"`{name}`" in TEXT, f"{model.__name__}.{name}"

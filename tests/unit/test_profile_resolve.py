# SPDX-License-Identifier: Apache-2.0
"""Catalogs, include and extends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.profile.catalog import Catalog, UnknownProfile
from monitor.profile.errors import Problem, ProfileError
from monitor.profile.load import parse
from monitor.profile.model import Profile
from monitor.profile.resolve import MOST_LINKS, digest, resolve


def library(*texts: str) -> Callable[[str], Profile]:
    """Finds the profiles that `texts` write; the source of each is its name."""
    found = {}
    for text in texts:
        name = text.split()[1]
        found[name] = parse(text, name)

    def find(name: str) -> Profile:
        if name not in found:
            raise UnknownProfile([Problem("profiles", 0, 0, "", f"there is no profile {name!r}")])
        return found[name]

    return find


def resolved(name: str, *texts: str) -> tuple[Profile, ...]:
    find = library(*texts)
    return resolve(find(name), find)


def refused(name: str, *texts: str) -> str:
    with pytest.raises(ProfileError) as error:
        resolved(name, *texts)
    return str(error.value)


def effect(profile: Profile) -> dict[str, Any]:
    return profile.model_dump(exclude_defaults=True, exclude={"name", "include", "extends"})


A = """name: a
files: {read: [/a, /ab], deny: [/a/x]}
limits: {ttl: 8h, processes: 5, memory: 2G, on_expiry: freeze}
environment: {keep: [A], set: {X: '1', Y: '1'}}
audit: {required: true}
run_as: root
may_lack: [view]
"""
B = """name: b
files: {read: [/ab, /b], write: [/w]}
limits: {ttl: 2h, open_files: 64, memory: 512M, on_expiry: deny}
syscalls: {preset: strict, deny: [mount]}
audit: {records: every}
"""


def test_a_profile_alone_is_itself() -> None:
    (whole,) = resolved("a", A)
    assert effect(whole) == effect(parse(A, "a"))


def test_include_adds_rules() -> None:
    (whole,) = resolved(
        "c", A, B,
        "name: c\ninclude: [a, b]\nfiles: {read: [/c], read_only: [/c/x]}\nlimits: {processes: 9}\n"
        "environment: {set: {X: '2'}}",
    )  # fmt: skip
    assert effect(whole) == {
        "files": {
            "read": ({"path": "/a"}, {"path": "/ab"}, {"path": "/b"}, {"path": "/c"}),
            "write": ({"path": "/w"},),
            "deny": ({"path": "/a/x"},),
            "read_only": ({"path": "/c/x"},),
        },
        # Its own where it says one, else the strictest; run_as and may_lack are never included.
        "limits": {
            "ttl": "2h",
            "processes": 9,
            "open_files": 64,
            "memory": "512M",
            "on_expiry": "freeze",
        },
        "syscalls": {"preset": "strict", "deny": ("mount",)},
        "environment": {"keep": ("A",), "set": {"X": "2", "Y": "1"}},
        "audit": {"records": "every", "required": True},
    }


def test_places_follow_what_is_included() -> None:
    (whole,) = resolved("c", A, B, "name: c\ninclude: [a, b]\nsyscalls: {deny: [bpf]}")
    assert whole.files is not None
    sources = [rule.position.source for rule in whole.files.read if rule.position]
    assert sources == ["a", "a", "b"]
    assert whole.syscalls is not None
    assert whole.syscalls.deny == ("mount", "bpf")
    assert whole.places["syscalls.deny[0]"].source == "b"
    assert whole.places["syscalls.deny[1]"].source == "c"
    assert whole.places["limits.ttl"].source == "b"
    assert whole.places["environment.set.X"].source == "a"
    assert whole.places["include[1]"].source == "c"


def test_extends_gives_both_and_takes_over_what_is_absent() -> None:
    outer, inner = resolved("c", A, "name: c\nextends: a\nfiles: {read: [/a]}\nlimits: {}")
    assert effect(outer) == effect(parse(A, "a"))
    assert inner.files is not None
    assert inner.files.deny == ()
    assert inner.limits is not None
    assert inner.limits.ttl is None  # the section is there: the outer one's 8h holds by itself
    assert inner.environment == outer.environment
    assert inner.places["environment.keep[0]"].source == "a"
    assert (inner.run_as, inner.may_lack) == ("user", ())


def test_an_empty_section_is_not_taken_over() -> None:
    _, inner = resolved("c", A, "name: c\nextends: a\nfiles: {}")
    assert inner.files is not None
    assert inner.files.read == ()


@pytest.mark.parametrize(
    ("name", "texts", "says"),
    [
        ("a", ["name: a\nextends: a"], "a:2:10: extends: a cycle: a -> a"),
        ("a", ["name: a\ninclude: [b]", "name: b\ninclude: [a]"],
         "b:2:11: include[0]: a cycle: a -> b -> a"),
        ("a", ["name: a\nextends: b", "name: b\ninclude: [a]"], "b:2:11: include[0]: a cycle"),
        ("a", ["name: a\nextends: z"], "a:2:10: extends: there is no profile 'z'"),
        ("a", ["name: a\n\ninclude: [z]"], "a:3:11: include[0]: there is no profile 'z'"),
        ("a", ["name: a\ninclude: [b]", "name: b\nextends: c", "name: c"],
         "a:2:11: include[0]: b extends c"),
        ("a", ["name: a\nextends: b\nrun_as: root", "name: b"],
         "a:3:9: run_as: root is more than b allows"),
    ],
)  # fmt: skip
def test_refuses(name: str, texts: list[str], says: str) -> None:
    assert refused(name, *texts).startswith(says)


def test_a_chain_is_bounded() -> None:
    texts = ["name: p0"] + [f"name: p{i}\nextends: p{i - 1}" for i in range(1, MOST_LINKS + 1)]
    names = [profile.name for profile in resolved(f"p{MOST_LINKS - 1}", *texts)]
    assert names == [f"p{i}" for i in range(MOST_LINKS)]
    assert "the kernel holds 8" in refused(f"p{MOST_LINKS}", *texts)


PATHS = st.lists(st.sampled_from(["/a", "/b", "/c", "/d/**"]), unique=True, max_size=3)


def files(paths: list[str]) -> str:
    return f"files: {{read: [{', '.join(paths)}]}}\n"


@given(PATHS, PATHS, PATHS)
def test_include_is_associative(one: list[str], two: list[str], three: list[str]) -> None:
    parts = [f"name: p{i}\n{files(paths)}" for i, paths in enumerate((one, two, three))]
    left = ["name: l\ninclude: [p0, p1]", "name: x\ninclude: [l, p2]"]
    right = ["name: r\ninclude: [p1, p2]", "name: x\ninclude: [p0, r]"]
    assert effect(resolved("x", *parts, *left)[0]) == effect(resolved("x", *parts, *right)[0])


@given(PATHS, PATHS)
def test_include_adds_and_takes_nothing_away(one: list[str], two: list[str]) -> None:
    (whole,) = resolved("x", f"name: a\n{files(one)}", f"name: x\ninclude: [a]\n{files(two)}")
    assert whole.files is not None
    assert {rule.path for rule in whole.files.read} == {*one, *two}


@given(PATHS, PATHS)
def test_extends_keeps_the_extended_as_it_is(one: list[str], two: list[str]) -> None:
    base = f"name: a\n{files(one)}"
    outer, inner = resolved("x", base, f"name: x\nextends: a\n{files(two)}")
    assert effect(outer) == effect(parse(base, "a"))
    # An empty list denies: nothing of the outer one comes in.
    assert inner.files is not None
    assert [rule.path for rule in inner.files.read] == two


def test_digest_names_the_rules() -> None:
    base = digest(resolved("a", A))
    assert len(base) == 32
    assert base == digest([parse("# moved\n" + A.replace("run_as", "description: x\nrun_as"), "z")])
    for other in (A.replace("/ab", "/ac"), A.replace("8h", "9h"), A.replace("root", "user")):
        assert digest(resolved("a", other)) != base
    assert digest(resolved("c", A, "name: c\nextends: a")) != base


def test_catalog(tmp_path: Path) -> None:
    host, shipped = tmp_path / "host", tmp_path / "shipped"
    for folder in (host, shipped):
        folder.mkdir()
        (folder / "a.yaml").write_text(f"name: a\ndescription: {folder.name}")
    (shipped / "b.yaml").write_text("name: b")
    (shipped / "Not a name.yaml").write_text("name: x")
    (shipped / "wrong.yaml").write_text("name: other")
    (tmp_path / "outside.yaml").write_text("name: outside")
    catalog = Catalog([host, tmp_path / "absent", shipped])
    assert catalog.names() == ["a", "b", "wrong"]
    assert catalog.load("a").description == "host"
    assert catalog.load("b").name == "b"
    assert catalog.load("b") is Catalog([shipped]).load("b")  # parsed once
    with pytest.raises(ProfileError, match="rename one"):
        catalog.load("wrong")
    for name in ("c", "../outside", "/etc/passwd", "", ".", "Not a name", "a\0", "a/../b"):
        with pytest.raises(UnknownProfile, match="there are a, b, wrong"):
            catalog.load(name)
    (host / "a.yaml").write_text("name: a\ndescription: edited")
    assert catalog.load("a").description == "edited"
    # A link that leads nowhere does not let the shipped profile through in its place.
    (host / "b.yaml").symlink_to(host / "nowhere")
    with pytest.raises(ProfileError, match="cannot be read"):
        catalog.load("b")

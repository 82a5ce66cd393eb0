# SPDX-License-Identifier: Apache-2.0
"""What masks match, on a folder of the test's own: no mounts, no root."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from monitor.daemon.view.patterns import Pattern, Reach, ancestors, outermost
from monitor.daemon.view.request import Identity, ViewError, ViewRequest
from monitor.daemon.view.targets import Search
from monitor.kernel import mounts
from monitor.policy.plan import MaskKind

HIDE = MaskKind.HIDE


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/b/c/.env", "a/.env", "a/x.pem", "a/b/y.pem", "new\nline/.env", "d/[odd]"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def search(tree: Path, *patterns: str, reach: Iterable[str] = ("",), limit: int = 100) -> Search:
    rules = [[(f"{tree}/{path}".rstrip("/"), True) for path in reach]]
    made = Search(Reach(rules), limit)
    made.run([(f"{tree}/{pattern}", HIDE) for pattern in patterns])
    return made


def matches(tree: Path, *patterns: str, reach: Iterable[str] = ("",)) -> set[str]:
    found = search(tree, *patterns, reach=reach).found
    return {os.path.relpath(path, tree) for path in found.targets}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a/.env", {"a/.env"}),
        ("a//.env", {"a/.env"}),
        ("none/.env", set()),
        ("a/.env/below", set()),
        ("*/.env", {"a/.env", "new\nline/.env"}),
        ("**/.env", {"a/.env", "a/b/c/.env", "new\nline/.env"}),
        ("**/**/.env", {"a/.env", "a/b/c/.env", "new\nline/.env"}),
        ("a/**", {"a"}),
        ("a/**/c/.env", {"a/b/c/.env"}),
        ("**/b/**/.env", {"a/b/c/.env"}),
        ("**/*.pem", {"a/x.pem", "a/b/y.pem"}),
        ("**/[xz].pem", {"a/x.pem"}),
        ("**/[!x].pem", {"a/b/y.pem"}),
        ("a/?.pem", {"a/x.pem"}),
        ("d/[[]odd]", {"d/[odd]"}),
        ("d/?odd[]x]", {"d/[odd]"}),
        ("d/?odd[!]", set()),
    ],
)
def test_patterns(tree: Path, pattern: str, expected: set[str]) -> None:
    assert matches(tree, pattern) == expected


def test_what_lies_in_a_hidden_folder_needs_no_mask_of_its_own(tree: Path) -> None:
    assert matches(tree, "a", "**/.env") == {"a", "new\nline/.env"}


def test_any_depth_stays_within_reach(tree: Path) -> None:
    assert matches(tree, "**/.env", reach=["a/b"]) == {"a/.env", "a/b/c/.env"}
    assert matches(tree, "**/c/.env", reach=["d"]) == set()


def test_links_are_followed_by_the_rules_not_by_the_walk(tree: Path) -> None:
    (tree / "to-b").symlink_to("a/b")
    (tree / "to-env").symlink_to("a/.env")
    (tree / "loop").symlink_to(".")
    (tree / "dangling").symlink_to("nowhere")
    (tree / "out").symlink_to("/etc/passwd")
    assert matches(tree, "to-b/c/.env") == {"a/b/c/.env"}
    assert matches(tree, "to-env") == {"a/.env"}
    assert matches(tree, "dangling", "out", "loop/loop/nothing") == set()
    assert matches(tree, "**/y.pem") == {"a/b/y.pem"}
    assert matches(tree, "loop/**/y.pem") == {"a/b/y.pem"}


def test_names_that_look_like_patterns_are_names(tree: Path) -> None:
    odd = tree / "**"
    (odd / "*").mkdir(parents=True)
    (odd / "*" / ".env").touch()
    (tree / "to-odd").symlink_to(odd)
    assert matches(tree, "to-odd") == {"**"}
    assert matches(tree, "to-odd/[*]/.env") == {"**/*/.env"}
    assert matches(tree, "[*][*]/[*]/.env") == {"**/*/.env"}


def test_a_link_and_a_second_name_are_noted(tree: Path) -> None:
    (tree / "to-env").symlink_to("a/.env")
    os.link(tree / "a/.env", tree / "second")
    notes = search(tree, "to-env").found.notes
    assert [note.split(f"{tree}/")[1].split(" ")[0] for note in notes] == ["to-env", "a/.env"]
    assert search(tree, "a/.env", "second").found.notes == []


def test_limits(tree: Path) -> None:
    with pytest.raises(ViewError, match="match more than 2 objects"):
        search(tree, "**/.env", limit=2)
    deep = tree
    for _ in range(210):
        deep = deep / "n"
    deep.mkdir(parents=True)
    with pytest.raises(ViewError, match="200 folders deep"):
        search(tree, "**/.env")


@pytest.mark.parametrize("text", ["a", "", "/a/../b", "./a", "/", "/**"])
def test_only_absolute_plain_patterns(text: str) -> None:
    with pytest.raises(ViewError):
        Pattern.parse(text, HIDE)


def test_every_link_must_grant() -> None:
    reach = Reach([[("/w", True), ("/usr", False)], [("/w/sub", True), ("/w", False)]])
    assert reach.touches("/w/x") and not reach.writes("/w/x")
    assert reach.writes("/w/sub/x") and not reach.touches("/usr/bin")
    assert reach.leads("/") and not reach.touches("/")


def test_paths() -> None:
    assert list(ancestors("/a/b")) == ["/a", "/"]


def test_mountinfo_names_are_unescaped() -> None:
    assert mounts._plain(rb"/a\040b\134040\011\012c") == "/a b\\040\t\nc"
    assert any(mount.point == "/" for mount in mounts.mounts())


def test_a_request_survives_its_journey() -> None:
    request = ViewRequest(
        Identity(1000, 1000, True),
        ((("/w\udcff", True), ("/usr", False)),),
        (("/w/**/.env", HIDE), ("/w/x", MaskKind.NO_EXEC)),
        own_proc=True,
        hide_run=False,
        own_terminals=True,
        read_only_rest=False,
        sockets=("/run/x",),
        mask_limit=7,
    )
    assert ViewRequest.from_json(request.to_json()) == request


def test_the_outermost_of_paths() -> None:
    """`/a-b` sorts before `/a/c`, and is not between the two."""
    assert outermost(["/a/c", "/a-b", "/a", "/b/c", "/b/cd", "/a"]) == [
        "/a",
        "/a-b",
        "/b/c",
        "/b/cd",
    ]
    assert outermost(["/x", "/"]) == ["/"]


def test_what_may_be_written_is_what_every_link_lists() -> None:
    reach = Reach(
        [
            [("/w", True), ("/r", False), ("/o", True)],
            [("/w/a", True), ("/w/b", True), ("/r", True), ("/o", False)],
        ]
    )
    assert reach.writable() == ["/w/a", "/w/b"]

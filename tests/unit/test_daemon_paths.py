# SPDX-License-Identifier: Apache-2.0
"""Names without symbolic links: only what root alone controls is followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monitor.daemon import paths

FOLDER, LINK, FILE = 0o040000, 0o120000, 0o100000


class Tree:
    """A file system that is not there: path -> (type and mode, owner, where a link leads)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries: dict[str, tuple[int, int, str]] = {"/": (FOLDER | 0o755, 0, "")}
        monkeypatch.setattr("monitor.daemon.paths.os.lstat", self.lstat)
        monkeypatch.setattr("monitor.daemon.paths.os.readlink", self.target)

    def folder(self, path: str, mode: int = 0o755, owner: int = 0) -> None:
        self.entries[path] = (FOLDER | mode, owner, "")

    def link(self, path: str, target: str, owner: int = 0) -> None:
        self.entries[path] = (LINK | 0o777, owner, target)

    def lstat(self, path: str) -> os.stat_result:
        try:
            mode, owner, _target = self.entries[path]
        except KeyError:
            raise FileNotFoundError(path) from None
        return os.stat_result((mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))

    def target(self, path: str) -> str:
        target = self.entries.get(path, (0, 0, ""))[2]
        if not target:
            raise OSError(22, "not a link", path)
        return target


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(monkeypatch)
    for path in ("/usr", "/usr/bin", "/etc", "/home", "/proc", "/etc/alternatives"):
        made.folder(path)
    made.folder("/tmp", 0o1777)
    made.folder("/home/alice", 0o755, 1000)
    made.link("/bin", "usr/bin")
    made.link("/usr/bin/cc", "/etc/alternatives/cc")
    made.link("/etc/alternatives/cc", "/usr/bin/gcc")
    made.link("/proc/self", "123")
    return made


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/", "/"),
        ("/usr/bin/sh", "/usr/bin/sh"),
        ("//usr/./bin//sh/", "/usr/bin/sh"),
        ("/usr/bin/../bin/sh", "/usr/bin/sh"),
        ("/../../etc", "/etc"),
        ("/bin/sh", "/usr/bin/sh"),
        ("/bin/cc", "/usr/bin/gcc"),
        ("/bin/../etc", "/usr/etc"),  # as the kernel goes: up from where the link led
        ("/nothing/of/the/kind", "/nothing/of/the/kind"),
        ("/proc/self/status", "/proc/self/status"),
    ],
)
def test_links_of_root_are_followed(tree: Tree, name: str, expected: str) -> None:
    assert paths.resolve(name) == expected


def test_links_of_others_are_not(tree: Tree) -> None:
    tree.link("/usr/bin/mine", "/etc/shadow", owner=1000)
    assert paths.resolve("/usr/bin/mine") == "/usr/bin/mine"
    tree.link("/home/alice/link", "/etc/shadow", owner=1000)
    assert paths.resolve("/home/alice/link") == "/home/alice/link"


@pytest.mark.parametrize("folder", ["/tmp", "/home/alice"])
def test_a_link_of_roots_where_others_may_write_is_not(tree: Tree, folder: str) -> None:
    """They can have moved it there, and can put another in its place."""
    tree.link(f"{folder}/link", "/etc/shadow")
    assert paths.resolve(f"{folder}/link") == f"{folder}/link"


def test_nor_one_beneath_such_a_folder(tree: Tree) -> None:
    tree.folder("/home/alice/roots")
    tree.link("/home/alice/roots/link", "/etc/shadow")
    assert paths.resolve("/home/alice/roots/link") == "/home/alice/roots/link"
    # Not through a link of root's either.
    tree.link("/usr/alice", "/home/alice")
    assert paths.resolve("/usr/alice/roots/link") == "/home/alice/roots/link"


def test_a_group_that_may_write_is_others(tree: Tree) -> None:
    tree.folder("/usr/local", 0o2775)
    tree.link("/usr/local/link", "/etc/shadow")
    assert paths.resolve("/usr/local/link") == "/usr/local/link"


def test_going_up_brings_trust_back(tree: Tree) -> None:
    assert paths.resolve("/home/alice/../../bin/cc") == "/usr/bin/gcc"


def test_a_loop_ends(tree: Tree) -> None:
    tree.link("/usr/one", "/usr/other")
    tree.link("/usr/other", "/usr/one")
    assert paths.resolve("/usr/one/x") in ("/usr/one/x", "/usr/other/x")


def test_a_relative_name_is_an_error(tree: Tree) -> None:
    with pytest.raises(ValueError, match="not an absolute path"):
        paths.resolve("bin/sh")


def test_this_hosts_own_links() -> None:
    resolved = paths.resolve("/bin/sh")
    if Path("/").stat().st_uid == 0 and Path("/bin").is_symlink():
        assert resolved.startswith("/usr/bin/")

# SPDX-License-Identifier: Apache-2.0
"""File rules: read, write, execute, deny and read_only, by every call that uses a file."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.sides import Case, area, check, check_record, expect, make, take

EACCES, EXDEV, EROFS, EBUSY = errno.EACCES, errno.EXDEV, errno.EROFS, errno.EBUSY

FILES = (
    "read/file", "read/sub/deep", "read/linked", "one", "one.neighbour", "none/file", "none/moved",
    "none/tree/leaf", "write/file", "write/old", "write/from", "write/here", "write/long",
    "write/mode", "write/gone", "write/empty/", "drop/old", "both/file",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(daemon: Daemon) -> Iterator[Path]:
    with area(daemon.user) as folder:
        yield folder


def refill(daemon: Daemon, place: Path) -> None:
    for entry in place.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    make(daemon.user, place, *FILES, "read/hollow/")
    (place / "write" / "link").symlink_to(place / "none" / "file")
    (place / "none" / "in").symlink_to(place / "read" / "file")


RULES = """
include: [base]
files:
  read: [{place}/read/**, {place}/one, {place}/both/**]
  write: [{place}/write/**, {place}/drop/**, {place}/both/**]
"""


def refused(name: str, code: str, verb: str, target: Path | str) -> Case:
    return Case(name, code, EACCES, verb, str(target), "landlock")


def allowed(name: str, code: str, verb: str, target: Path | str, rule: str) -> Case:
    return Case(name, code, 0, verb, str(target), rule=rule)


def cases(p: Path) -> list[Case]:
    w = p / "write"
    return [
        # Reading: a tree, one file, and what is beside them.
        allowed("read", f"read('{p}/read/file')", "file.open", p / "read/file", "files.read"),
        allowed("read deep", f"read('{p}/read/sub/deep')", "file.open", p / "read/sub/deep",
                "files.read"),
        allowed("read one", f"read('{p}/one')", "file.open", p / "one", "files.read"),
        allowed("list", f"os.listdir('{p}/read')", "file.open", p / "read", "files.read"),
        refused("read unlisted", f"read('{p}/none/file')", "file.open", p / "none/file"),
        refused("read neighbour", f"read('{p}/one.neighbour')", "file.open", p / "one.neighbour"),
        refused("list unlisted", f"os.listdir('{p}/none')", "file.open", p / "none"),
        refused("list above", f"os.listdir('{p}')", "file.open", p),
        refused("read what may be written", f"read('{w}/file')", "file.open", w / "file"),
        Case("read through a link out", f"read('{w}/link')", EACCES),
        Case("read through a link in", f"read('{p}/none/in')", 0),
        Case("read by descriptor of the folder",
             f"os.open('../none/file', os.O_RDONLY, dir_fd=os.open('{p}/read', os.O_PATH))",
             EACCES, "file.open", f"{p}/none/file", "landlock"),
        Case("read by openat2", f"""
path = ctypes.create_string_buffer(b'{p}/none/file')
call(437, ctypes.c_int(-100), path, struct.pack('=QQQ', 0, 0, 0), ctypes.c_size_t(24))""", EACCES),
        Case("read by /proc", f"read('/proc/self/root{p}/none/tree/leaf')", EACCES),
        # Writing.
        allowed("write", f"write('{w}/file')", "file.write", w / "file", "files.write"),
        allowed("create", f"write('{w}/new', os.O_CREAT)", "file.write", w / "new", "files.write"),
        allowed("truncate", f"os.truncate('{w}/long', 1)", "file.truncate", w / "long",
                "files.write"),
        allowed("open truncating", f"write('{w}/here', os.O_TRUNC)", "file.write", w / "here",
                "files.write"),
        refused("write", f"write('{p}/read/file')", "file.write", p / "read/file"),
        refused("append", f"write('{p}/read/sub/deep', os.O_APPEND)", "file.write",
                p / "read/sub/deep"),
        refused("write one", f"write('{p}/one')", "file.write", p / "one"),
        refused("write unlisted", f"write('{p}/none/file')", "file.write", p / "none/file"),
        refused("create where one may read", f"write('{p}/read/new', os.O_CREAT)", "file.write",
                p / "read/new"),
        refused("truncate", f"os.truncate('{p}/read/file', 0)", "file.truncate", p / "read/file"),
        Case("temporary file", f"os.open('{p}/read', os.O_TMPFILE | os.O_RDWR)", EACCES),
        # Names.
        allowed("unlink", f"os.unlink('{w}/gone')", "file.unlink", w / "gone", "files.write"),
        refused("unlink", f"os.unlink('{p}/read/file')", "file.unlink", p / "read/file"),
        allowed("mkdir", f"os.mkdir('{w}/made')", "file.mkdir", w / "made", "files.write"),
        refused("mkdir", f"os.mkdir('{p}/read/made')", "file.mkdir", p / "read/made"),
        allowed("rmdir", f"os.rmdir('{w}/empty')", "file.unlink", w / "empty", "files.write"),
        refused("rmdir", f"os.rmdir('{p}/read/hollow')", "file.unlink", p / "read/hollow"),
        refused("fifo", f"os.mkfifo('{p}/read/fifo')", "file.mkdir", p / "read/fifo"),
        allowed("fifo", f"os.mkfifo('{w}/fifo')", "file.mkdir", w / "fifo", "files.write"),
        allowed("rename", f"os.rename('{w}/old', '{w}/renamed')", "file.rename",
                f"{w}/old -> {w}/renamed", "files.write"),
        refused("rename", f"os.rename('{p}/read/sub', '{p}/read/other')", "file.rename",
                f"{p}/read/sub -> {p}/read/other"),
        Case("rename out", f"os.rename('{w}/from', '{p}/none/from')", EACCES, "file.rename",
             f"{w}/from -> {p}/none/from", "landlock"),
        Case("rename in, gaining", f"os.rename('{p}/none/moved', '{w}/stolen')", EACCES,
             "file.rename", f"{p}/none/moved -> {w}/stolen", "landlock"),
        Case("link in, gaining", f"os.link('{p}/read/linked', '{p}/both/linked')", EXDEV,
             "file.link", f"{p}/read/linked -> {p}/both/linked", "landlock"),
        Case("rename to where one may read too", f"os.rename('{p}/drop/old', '{p}/both/old')",
             EXDEV, "file.rename", f"{p}/drop/old -> {p}/both/old", "landlock"),
        allowed("link", f"os.link('{w}/file', '{w}/second')", "file.link",
                f"{w}/file -> {w}/second", "files.write"),
        allowed("symlink", f"os.symlink('/etc/passwd', '{w}/new-link')", "file.link",
                w / "new-link", "files.write"),
        refused("symlink", f"os.symlink('/etc/passwd', '{p}/read/new-link')", "file.link",
                p / "read/new-link"),
        # Landlock does not govern modes: the host's permissions decide.
        Case("chmod", f"os.chmod('{w}/mode', 0o600)", 0, "file.chmod", f"{w}/mode"),
    ]  # fmt: skip


def test_each_use_of_a_file(daemon: Daemon, place: Path) -> None:
    refill(daemon, place)
    name = daemon.profile("files", RULES.format(place=place))
    check(daemon, name, distinct(cases(place)), again=lambda: refill(daemon, place))


def distinct(table: list[Case]) -> list[Case]:
    """Cases get names of their own where two of a pair share one."""
    return [
        Case(
            f"{case.name} ({'refused' if case.errno else 'allowed'})", case.code, case.errno,
            case.verb, case.object, case.mechanism, case.rule, case.floor,
        )
        for case in table
    ]  # fmt: skip


EMPTY = """
include: [base]
files: {read: [], write: [], execute: []}
"""


def test_empty_lists_deny(daemon: Daemon, place: Path) -> None:
    refill(daemon, place)
    table = [
        refused("read", f"read('{place}/read/file')", "file.open", place / "read/file"),
        refused("write", f"write('{place}/write/file')", "file.write", place / "write/file"),
        refused("home", f"os.listdir('{daemon.user.home}')", "file.open", daemon.user.home),
        Case("what base gives", "read('/etc/passwd')", 0, "file.open", "/etc/passwd"),
    ]
    check(daemon, daemon.profile("empty", EMPTY), table)


def test_a_rule_for_one_file_follows_the_file_not_its_name(daemon: Daemon, place: Path) -> None:
    """Landlock grants what is there at launch; a new file under the name is another one."""
    refill(daemon, place)
    name = daemon.profile(
        "one-file",
        f"include: [base]\nfiles:\n  read: [{place}/write/file]\n  write: [{place}/write/**]\n",
    )
    table = [
        Case("read", f"read('{place}/write/file')"),
        Case("replace", f"os.rename('{place}/write/old', '{place}/write/file')"),
        Case("read anew", f"read('{place}/write/file')", EACCES),
    ]
    assert take(daemon, name, table).answers == {each.name: each.errno for each in table}


# -- masks ----------------------------------------------------------------------------------------

MASKS = """
include: [base]
files:
  read: [{place}/both/**]
  write: [{place}/both/**]
  deny: [{place}/both/.env, "{place}/both/**/*.pem", {place}/both/secret/**]
  read_only: [{place}/both/settings, {place}/both/hooks/**]
"""
MASKED = (
    "both/.env", "both/deep/er/key.pem", "both/deep/er/key.pub", "both/secret/inner", "both/free",
    "both/settings", "both/hooks/post-commit", "both/deep/free",
)  # fmt: skip


def masked(name: str, code: str, number: int, verb: str, target: Path | str, rule: str) -> Case:
    return Case(name, code, number, verb, str(target), "view", rule)


def mask_cases(b: Path) -> list[Case]:
    deny, read_only = "files.deny", "files.read_only"
    return [
        masked("read", f"read('{b}/.env')", EACCES, "file.open", b / ".env", deny),
        masked("write", f"write('{b}/.env')", EACCES, "file.write", b / ".env", deny),
        masked("glob", f"read('{b}/deep/er/key.pem')", EACCES, "file.open", b / "deep/er/key.pem",
               deny),
        Case("beside the glob", f"read('{b}/deep/er/key.pub')"),
        masked("folder", f"os.listdir('{b}/secret')", EACCES, "file.open", b / "secret", deny),
        Case("in the folder", f"read('{b}/secret/inner')", EACCES),
        masked("unlink", f"os.unlink('{b}/.env')", EBUSY, "file.unlink", b / ".env", deny),
        masked("move away", f"os.rename('{b}/.env', '{b}/x')", EBUSY, "file.rename",
               f"{b}/.env -> {b}/x", deny),
        # That it holds something masked is known to the file system only.
        Case("move the folder above away", f"os.rename('{b}/deep', '{b}/y')", EBUSY,
             "file.rename", f"{b}/deep -> {b}/y", "view", deny, foreseen=False),
        Case("read only: read", f"read('{b}/settings')", 0, "file.open", f"{b}/settings"),
        masked("read only: write", f"write('{b}/settings')", EROFS, "file.write", b / "settings",
               read_only),
        masked("read only: replace", f"os.rename('{b}/free', '{b}/settings')", EBUSY,
               "file.rename", f"{b}/free -> {b}/settings", read_only),
        masked("read only: new in the folder", f"write('{b}/hooks/new', os.O_CREAT)", EROFS,
               "file.write", b / "hooks/new", read_only),
        masked("read only: in the folder", f"write('{b}/hooks/post-commit')", EROFS, "file.write",
               b / "hooks/post-commit", read_only),
        masked("read only: move the folder", f"os.rename('{b}/hooks', '{b}/z')", EBUSY,
               "file.rename", f"{b}/hooks -> {b}/z", read_only),
        Case("free", f"write('{b}/deep/free')", 0, "file.write", f"{b}/deep/free"),
        Case("new beside", f"write('{b}/deep/new', os.O_CREAT)", 0, "file.write",
             f"{b}/deep/new"),
    ]  # fmt: skip


def test_masks_take_away_inside_a_tree(daemon: Daemon, place: Path) -> None:
    """Governed only, as a whole; observed one by one, since they take things from each other."""
    shutil.rmtree(place / "both", ignore_errors=True)
    make(daemon.user, place, *MASKED)
    name = daemon.profile("masks", MASKS.format(place=place))
    table = mask_cases(place / "both")
    governed = take(daemon, name, table)
    expect(governed, {case.name: case.errno for case in table})
    # Nothing of the host changed.
    assert [entry.name for entry in (place / "both/hooks").iterdir()] == ["post-commit"]
    assert (place / "both/.env").read_text() == "both/.env\n"
    for case in table:
        if case.verb:
            verdict, mechanism = ("deny", "view") if case.errno else ("allow", "")
            check_record(case, governed, verdict, mechanism)
    lenient = [case for case in table if "os." not in case.code or "listdir" in case.code]
    check(daemon, name, lenient, again=lambda: make(daemon.user, place, *MASKED))
    for case in table:
        if case not in lenient:
            shutil.rmtree(place / "both")
            make(daemon.user, place, *MASKED)
            observed = take(daemon, name, [case], observe=True)
            expect(observed, {case.name: 0})
            if case.errno and case.foreseen:
                check_record(case, observed, "would-deny", "view")

# SPDX-License-Identifier: Apache-2.0
# The calls themselves are what is tested:
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH208, PTH211
"""What the probes tell of files: opens by the object that was opened, other calls as they came."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitor.policy.syscalls import NUMBERS
from monitor.wire.events import FileEvent, FileOperation
from tests.support.observing import beneath, observed
from tests.support.probes import Probes, attempt, libc

# uapi/linux/sched.h, mount.h, fcntl.h
CLONE_NEWNS = 0x20000
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_RDONLY = 32, 4096, 16384, 1 << 18, 1
AT_FDCWD = -100
NOBODY = 65534

R, W, RW, CREATE, TRUNCATE = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of everybody's, with a short name."""
    made = Path(tempfile.mkdtemp(prefix="ri-files-"))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def kernel_device(path: Path) -> int:
    device = path.stat().st_dev
    return os.major(device) << 20 | os.minor(device)


def open_(path: str | bytes | Path, flags: int = R, mode: int = 0o666) -> None:
    os.close(os.open(path, flags, mode))


def syscall(name: str, *arguments: object) -> int:
    """The call itself, without the C library's ways; OSError."""
    made = [each if isinstance(each, bytes | None) else ctypes.c_long(each) for each in arguments]  # type: ignore[arg-type]
    result = int(libc.syscall(ctypes.c_long(NUMBERS[name]), *made))
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def mount(source: Path | str, target: Path | str, flags: int, kind: str = "none") -> None:
    arguments = [os.fsencode(str(each)) for each in (source, target, kind)]
    if libc.mount(*arguments, ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), "mount", str(target))


def own_mounts() -> None:
    if libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", MS_REC | MS_PRIVATE)


# -- opens that succeeded --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "write", "created"),
    [
        (R, False, False),
        (W, True, False),
        (RW, True, False),
        (W | TRUNCATE, True, False),
        (R | CREATE, False, False),
        (3, False, False),  # neither reading nor writing: for ioctl only
        (W | os.O_APPEND, True, False),
    ],
)
def test_how_a_file_was_opened(
    probes: Probes, folder: Path, flags: int, write: bool, created: bool
) -> None:
    path = folder / "file"
    path.touch()
    _result, events = observed(probes, lambda: open_(path, flags))
    (event,) = beneath(events, folder)
    assert (event.operation, event.path, event.target) == (FileOperation.OPEN, str(path), "")
    assert (event.write, event.created, event.claimed, event.errno) == (write, created, False, 0)
    assert (event.inode, event.device) == (path.stat().st_ino, kernel_device(path))


@pytest.mark.parametrize("flags", [R | CREATE, W | CREATE, RW | CREATE | os.O_EXCL])
def test_a_file_that_the_open_made(probes: Probes, folder: Path, flags: int) -> None:
    path = folder / "new"

    def action() -> None:
        open_(path, flags)
        open_(path, flags & ~os.O_EXCL)

    _result, events = observed(probes, action)
    first, second = beneath(events, folder)
    assert (first.created, second.created) == (True, False)
    assert first.write is second.write is (flags & os.O_ACCMODE != R)
    assert first.inode == second.inode == path.stat().st_ino


def test_every_call_that_opens(probes: Probes, folder: Path) -> None:
    name = os.fsencode(folder)

    def action() -> None:
        base = os.open(folder, os.O_PATH)
        how = (ctypes.c_uint64 * 3)(RW | CREATE, 0o600, 0)
        os.close(syscall("open", name + b"/open", RW | CREATE, 0o600))
        os.close(syscall("creat", name + b"/creat", 0o600))
        os.close(syscall("openat", base, b"openat", RW | CREATE, 0o600))
        os.close(syscall("openat2", base, b"openat2", ctypes.addressof(how), 24))

    _result, events = observed(probes, action)
    assert [(each.path, each.write, each.created) for each in beneath(events, folder)] == [
        (f"{folder}/{call}", True, True) for call in ("open", "creat", "openat", "openat2")
    ]


def test_a_path_descriptor_opens_nothing(probes: Probes, folder: Path) -> None:
    (folder / "file").touch()
    _result, events = observed(probes, lambda: open_(folder / "file", os.O_PATH))
    assert beneath(events, folder) == []


def test_the_object_is_told_and_not_the_name_that_was_used(probes: Probes, folder: Path) -> None:
    (folder / "sub").mkdir()
    path = folder / "sub" / "file"
    path.touch()
    (folder / "link").symlink_to("sub")
    (folder / "link2").symlink_to(path)
    ways = [
        f"{folder}/sub/../sub/./file",
        f"//{folder}//sub//file",
        f"{folder}/link/file",
        f"{folder}/link2",
        f"/proc/self/root{path}",
        f"/proc/self/cwd/{os.path.relpath(path, '/')}",
    ]

    def action() -> None:
        os.chdir("/")
        for way in ways:
            open_(way)
        os.chdir(folder / "sub")
        open_("file")
        descriptor = os.open(path, os.O_PATH)
        open_(f"/proc/self/fd/{descriptor}")

    _result, events = observed(probes, action)
    assert [each.path for each in beneath(events, folder)] == [str(path)] * (len(ways) + 2)


def test_a_hard_link_is_told_by_its_own_name(probes: Probes, folder: Path) -> None:
    (folder / "one").touch()
    os.link(folder / "one", folder / "two")
    _result, events = observed(probes, lambda: open_(folder / "two"))
    (event,) = beneath(events, folder)
    assert (event.path, event.inode) == (f"{folder}/two", (folder / "one").stat().st_ino)


def test_folders_and_devices(probes: Probes, folder: Path) -> None:
    def action() -> None:
        os.listdir(folder)
        os.listdir("/")
        open_("/dev/null", RW)

    _result, events = observed(probes, action)
    assert [each.path for each in beneath(events, folder)] == [str(folder)]
    assert "/dev/null" in [event.path for event in events if isinstance(event, FileEvent)]
    # The root of everything has no name.
    assert "/" in [event.path for event in events if isinstance(event, FileEvent)]


def test_what_has_no_name(probes: Probes, folder: Path) -> None:
    def action() -> None:
        reader, _writer = os.pipe()
        open_(f"/proc/self/fd/{reader}")
        memory = os.memfd_create("in memory")
        open_(f"/proc/self/fd/{memory}", RW)
        os.close(os.open(folder, os.O_TMPFILE | RW))

    _result, events = observed(probes, action)
    opened = [event for event in events if isinstance(event, FileEvent)]
    assert any(event.path.startswith("?/") for event in opened)
    assert any(event.path == "?/memfd:in memory" and event.write for event in opened)
    (unnamed,) = beneath(events, folder)
    assert unnamed.path == f"{folder}/#{unnamed.inode}"


def test_a_file_that_is_gone_keeps_its_name(probes: Probes, folder: Path) -> None:
    path = folder / "file"
    path.touch()

    def action() -> None:
        descriptor = os.open(path, R)
        path.unlink()
        open_(f"/proc/self/fd/{descriptor}")

    _result, events = observed(probes, action)
    opened = [each for each in beneath(events, folder) if each.operation is FileOperation.OPEN]
    assert [each.path for each in opened] == [str(path)] * 2


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 46, 47, 48, 49, 254, 255])
def test_names_of_every_length(probes: Probes, folder: Path, length: int) -> None:
    path = folder / ("n" * length)
    path.touch()
    _result, events = observed(probes, lambda: open_(path, RW))
    (event,) = beneath(events, folder)
    assert event.path == str(path)
    assert (event.inode, event.device, event.write) == (
        path.stat().st_ino, kernel_device(path), True,
    )  # fmt: skip


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", "grün".encode(), b" ", b"a" * 60 + b"\xff"])
def test_names_of_any_bytes(probes: Probes, folder: Path, name: bytes) -> None:
    path = os.fsencode(folder) + b"/" + name
    _result, events = observed(probes, lambda: open_(path, W | CREATE))
    (event,) = beneath(events, folder)
    assert os.fsencode(event.path) == path


def deep(folder: Path, names: list[str]) -> str:
    """A file in folders within folders, made step by step: its path may be longer than PATH_MAX."""
    here = os.open(folder, R)
    for name in names:
        os.mkdir(name, dir_fd=here)
        here, above = os.open(name, R, dir_fd=here), here
        os.close(above)
    os.close(os.open("file", W | CREATE, dir_fd=here))
    return "/".join([str(folder), *names, "file"])


@pytest.mark.parametrize(
    ("names", "whole"),
    [
        (["d"] * 50, True),
        (["d"] * 70, False),
        (["x" * 200] * 25, True),
        (["x" * 250] * 40, False),
    ],
    ids=["50 folders", "70 folders", "5,000 bytes", "10,000 bytes"],
)
def test_deep_paths(probes: Probes, folder: Path, names: list[str], whole: bool) -> None:
    path, events = observed(probes, lambda: deep(folder, names))
    files = [each for each in events if isinstance(each, FileEvent) and each.path.endswith("/file")]
    (event,) = files
    if whole:
        assert event.path == path
    else:
        # As far up as it was followed, and marked.
        assert event.path.startswith("?/")
        assert path.endswith(event.path[1:])
        assert len(event.path) > 64 * 2


def test_a_renamed_folder_has_its_new_name_at_once(probes: Probes, folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "file").touch()

    def action() -> None:
        open_(folder / "old" / "file")
        os.rename(folder / "old", folder / "new")
        open_(folder / "new" / "file")

    _result, events = observed(probes, action)
    opened = [each for each in beneath(events, folder) if each.operation is FileOperation.OPEN]
    assert [each.path for each in opened] == [f"{folder}/old/file", f"{folder}/new/file"]


def test_a_renamed_ancestor_has_its_new_name_two_seconds_later(
    probes: Probes, folder: Path
) -> None:
    (folder / "old" / "sub").mkdir(parents=True)
    (folder / "old" / "sub" / "file").touch()

    def action() -> None:
        open_(folder / "old" / "sub" / "file")
        os.rename(folder / "old", folder / "new")
        time.sleep(2.1)
        open_(folder / "new" / "sub" / "file")

    _result, events = observed(probes, action)
    opened = [each for each in beneath(events, folder) if each.operation is FileOperation.OPEN]
    assert [each.path for each in opened] == [f"{folder}/old/sub/file", f"{folder}/new/sub/file"]


def test_folders_that_were_made_anew_are_not_mixed_up(probes: Probes, folder: Path) -> None:
    """Inode numbers and memory are given out again at once."""

    def action() -> None:
        for number in range(50):
            made = folder / f"d{number}"
            made.mkdir()
            (made / "file").touch()
            (made / "file").unlink()
            made.rmdir()

    _result, events = observed(probes, action)
    opened = [each for each in beneath(events, folder) if each.operation is FileOperation.OPEN]
    assert [each.path for each in opened] == [f"{folder}/d{number}/file" for number in range(50)]


# -- mounts ----------------------------------------------------------------------------------------


def test_paths_go_over_mounts(probes: Probes, folder: Path) -> None:
    (folder / "source" / "sub").mkdir(parents=True)
    (folder / "source" / "sub" / "file").touch()
    (folder / "target").mkdir()
    (folder / "one").touch()
    (folder / "other").mkdir()

    def action() -> None:
        own_mounts()
        mount(folder / "source", folder / "target", MS_BIND)
        open_(folder / "target" / "sub" / "file")
        # A file over a file, a file system in a folder of the bound one, and one over that.
        mount(folder / "source" / "sub" / "file", folder / "one", MS_BIND)
        open_(folder / "one")
        for _layer in range(2):
            mount("none", folder / "target" / "sub", 0, "tmpfs")
        open_(folder / "target" / "sub" / "new", W | CREATE)
        os.listdir(folder / "target" / "sub")
        open_(folder / "source" / "sub" / "file")
        mount(folder / "target", folder / "other", MS_BIND | MS_REC)
        open_(folder / "other" / "sub" / "new")

    _result, events = observed(probes, action)
    assert [each.path for each in beneath(events, folder)] == [
        f"{folder}/target/sub/file",
        f"{folder}/one",
        f"{folder}/target/sub/new",
        f"{folder}/target/sub",
        f"{folder}/source/sub/file",
        f"{folder}/other/sub/new",
    ]


def test_a_changed_root_is_seen_through(probes: Probes, folder: Path) -> None:
    (folder / "jail").mkdir()
    (folder / "jail" / "file").touch()

    def action() -> None:
        os.chroot(folder / "jail")
        open_("/file")

    _result, events = observed(probes, action)
    assert f"{folder}/jail/file" in [each.path for each in beneath(events, folder)]


# -- other calls -----------------------------------------------------------------------------------

Call = Callable[[Path], object]


def at(folder: Path) -> int:
    return os.open(folder, os.O_PATH)


# What is done in a folder that holds `file` and `dir`; the operation, and the names it tells.
CHANGES: dict[str, tuple[Call, FileOperation, str, str]] = {
    "unlink": (lambda f: os.unlink(f / "file"), FileOperation.UNLINK, "file", ""),
    "rmdir": (lambda f: os.rmdir(f / "dir"), FileOperation.UNLINK, "dir", ""),
    "unlinkat": (lambda f: os.unlink("file", dir_fd=at(f)), FileOperation.UNLINK, "file", ""),
    "unlinkat dir": (lambda f: os.rmdir("dir", dir_fd=at(f)), FileOperation.UNLINK, "dir", ""),
    "rename": (lambda f: os.rename(f / "file", f / "to"), FileOperation.RENAME, "file", "to"),
    "renameat": (
        lambda f: os.rename("file", "to", src_dir_fd=at(f), dst_dir_fd=at(f)),
        FileOperation.RENAME, "file", "to",
    ),
    "renameat2": (
        lambda f: syscall("renameat2", at(f), b"file", at(f), b"dir/to", 1),
        FileOperation.RENAME, "file", "dir/to",
    ),
    "link": (lambda f: os.link(f / "file", f / "to"), FileOperation.LINK, "file", "to"),
    "linkat": (
        lambda f: os.link("file", "dir/to", src_dir_fd=at(f), dst_dir_fd=at(f)),
        FileOperation.LINK, "file", "dir/to",
    ),
    "symlink": (lambda f: os.symlink("anything", f / "to"), FileOperation.LINK, "to", ""),
    "symlinkat": (lambda f: os.symlink("/x", "to", dir_fd=at(f)), FileOperation.LINK, "to", ""),
    "mkdir": (lambda f: os.mkdir(f / "to"), FileOperation.MKDIR, "to", ""),
    "mkdirat": (lambda f: os.mkdir("to", dir_fd=at(f)), FileOperation.MKDIR, "to", ""),
    "mknod": (lambda f: os.mkfifo(f / "to"), FileOperation.MKDIR, "to", ""),
    "mknodat": (lambda f: os.mkfifo("to", dir_fd=at(f)), FileOperation.MKDIR, "to", ""),
    "chmod": (lambda f: os.chmod(f / "file", 0o600), FileOperation.CHMOD, "file", ""),
    "fchmodat": (
        lambda f: syscall("fchmodat", at(f), b"file", 0o600), FileOperation.CHMOD, "file", "",
    ),
    "fchmod": (
        lambda f: os.chmod(os.open(f / "file", R), 0o600), FileOperation.CHMOD, "file", "",
    ),
    "chown": (lambda f: os.chown(f / "file", -1, -1), FileOperation.CHMOD, "file", ""),
    "lchown": (lambda f: os.lchown(f / "file", -1, -1), FileOperation.CHMOD, "file", ""),
    "fchownat": (
        lambda f: os.chown("file", -1, -1, dir_fd=at(f)), FileOperation.CHMOD, "file", "",
    ),
    "fchown": (
        lambda f: os.chown(os.open(f / "file", R), -1, -1), FileOperation.CHMOD, "file", "",
    ),
    "setxattr": (
        lambda f: os.setxattr(f / "file", "user.x", b"y"), FileOperation.CHMOD, "file", "",
    ),
    "fsetxattr": (
        lambda f: os.setxattr(os.open(f / "file", R), "user.x", b"y"),
        FileOperation.CHMOD, "file", "",
    ),
    "truncate": (lambda f: os.truncate(f / "file", 0), FileOperation.TRUNCATE, "file", ""),
    "ftruncate": (
        lambda f: os.truncate(os.open(f / "file", W), 0), FileOperation.TRUNCATE, "file", "",
    ),
}  # fmt: skip
BY_DESCRIPTOR = {"fchmod", "fchown", "fsetxattr", "ftruncate"}


def furnished(folder: Path) -> Path:
    (folder / "dir").mkdir()
    (folder / "file").write_text("content")
    return folder


@pytest.mark.parametrize("name", CHANGES)
def test_changes_that_were_done(probes: Probes, folder: Path, name: str) -> None:
    act, operation, path, target = CHANGES[name]
    furnished(folder)
    _result, events = observed(probes, lambda: act(folder))
    (event,) = [
        each for each in beneath(events, folder) if each.operation is not FileOperation.OPEN
    ]
    assert (event.operation, event.path) == (operation, f"{folder}/{path}")
    assert event.target == (f"{folder}/{target}" if target else "")
    assert (event.errno, event.claimed) == (0, name not in BY_DESCRIPTOR)


@pytest.mark.parametrize("name", sorted(set(CHANGES) - BY_DESCRIPTOR - {"setxattr"}))
def test_changes_that_were_refused(probes: Probes, folder: Path, name: str) -> None:
    act, operation, path, target = CHANGES[name]
    furnished(folder)
    (folder / "file").chmod(0o644)
    (folder / "dir").chmod(0o755)
    folder.chmod(0o755)
    if name in {"chown", "lchown", "fchownat"}:
        act = {
            "chown": lambda f: os.chown(f / "file", NOBODY, -1),
            "lchown": lambda f: os.lchown(f / "file", NOBODY, -1),
            "fchownat": lambda f: os.chown("file", NOBODY, -1, dir_fd=at(f)),
        }[name]

    def action() -> int:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return attempt(lambda: act(folder))

    answer, events = observed(probes, action)
    assert answer in (errno.EACCES, errno.EPERM)
    (event,) = [each for each in beneath(events, folder) if each.errno]
    assert (event.operation, event.errno) == (operation, answer)
    assert event.path == f"{folder}/{path}"
    assert event.target == (f"{folder}/{target}" if target else "")
    assert event.claimed


def test_what_failed_without_being_refused_is_not_told(probes: Probes, folder: Path) -> None:
    def action() -> list[int]:
        return [
            attempt(lambda: open_(folder / "none")),
            attempt(lambda: os.unlink(folder / "none")),
            attempt(lambda: os.mkdir(folder)),
            attempt(lambda: syscall("openat", AT_FDCWD, 1, R)),
        ]

    answers, events = observed(probes, action)
    assert answers == [errno.ENOENT, errno.ENOENT, errno.EEXIST, errno.EFAULT]
    assert beneath(events, folder) == []


# -- opens and program starts that were refused ----------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "write", "created"),
    [
        (R, False, False),
        (W, True, False),
        (RW, True, False),
        (R | TRUNCATE, True, False),
        (W | CREATE, True, True),
    ],
)
@pytest.mark.parametrize("call", ["open", "openat", "openat2", "creat"])
def test_refused_opens_say_what_was_asked_for(
    probes: Probes, folder: Path, call: str, flags: int, write: bool, created: bool
) -> None:
    path = folder / "closed"
    path.touch(mode=0o600)
    path.chmod(0o600)
    name = os.fsencode(path)
    how = (ctypes.c_uint64 * 3)(flags, 0o600 if flags & CREATE else 0, 0)
    calls: dict[str, Callable[[], object]] = {
        "open": lambda: syscall("open", name, flags, 0o600),
        "openat": lambda: syscall("openat", at(folder), b"closed", flags, 0o600),
        "openat2": lambda: syscall("openat2", at(folder), b"closed", ctypes.addressof(how), 24),
        "creat": lambda: syscall("creat", name, 0o600),
    }

    def action() -> int:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return attempt(calls[call])

    answer, events = observed(probes, action)
    (event,) = beneath(events, folder)
    assert (event.operation, event.path) == (FileOperation.OPEN, str(path))
    assert event.errno == answer == errno.EACCES
    asked = (True, True) if call == "creat" else (write, created)
    assert (event.write, event.created, event.claimed) == (*asked, True)


def test_a_refused_path_is_told_as_it_was_given(probes: Probes, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "closed").touch()
    (folder / "sub" / "closed").chmod(0)
    long = "./" * 300 + "sub/closed"
    longest = "./" * 2030 + "sub/closed"
    names = ["sub/../sub/closed", "sub//closed", long, longest, f"{folder}/sub/closed"]

    def action() -> list[int]:
        os.chdir(folder)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return [attempt(lambda name=name: open_(name)) for name in names]  # type: ignore[misc]

    answers, events = observed(probes, action)
    assert answers == [errno.EACCES] * len(names)
    expected = [name if name.startswith("/") else f"{folder}/{name}" for name in names]
    assert [each.path for each in beneath(events, folder)] == expected


def test_two_long_names(probes: Probes, folder: Path) -> None:
    furnished(folder)
    folder.chmod(0o755)
    one, two = "./" * 1000 + "file", "./" * 1001 + "to"

    def action() -> int:
        os.chdir(folder)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return attempt(lambda: os.rename(one, two))

    answer, events = observed(probes, action)
    (event,) = beneath(events, folder)
    assert answer == event.errno == errno.EACCES
    assert (event.path, event.target) == (f"{folder}/{one}", f"{folder}/{two}")


def test_other_refusals(probes: Probes, folder: Path) -> None:
    furnished(folder)

    def action() -> dict[str, int]:
        own_mounts()
        mount(folder / "dir", folder / "dir", MS_BIND)
        (folder / "ro").mkdir()
        mount(folder, folder / "ro", MS_BIND)
        mount("none", folder / "ro", MS_BIND | MS_REMOUNT | MS_RDONLY)
        return {
            "busy": attempt(lambda: os.rename(folder / "dir", folder / "moved")),
            "other mount": attempt(lambda: os.rename(folder / "file", folder / "dir" / "file")),
            "read-only": attempt(lambda: open_(folder / "ro" / "file", W)),
            "read-only unlink": attempt(lambda: os.unlink(folder / "ro" / "file")),
        }

    answers, events = observed(probes, action)
    assert answers == {
        "busy": errno.EBUSY,
        "other mount": errno.EXDEV,
        "read-only": errno.EROFS,
        "read-only unlink": errno.EROFS,
    }
    refused = [each for each in beneath(events, folder) if each.errno]
    assert [(each.operation, each.errno, each.path, each.target) for each in refused] == [
        (FileOperation.RENAME, errno.EBUSY, f"{folder}/dir", f"{folder}/moved"),
        (FileOperation.RENAME, errno.EXDEV, f"{folder}/file", f"{folder}/dir/file"),
        (FileOperation.OPEN, errno.EROFS, f"{folder}/ro/file", ""),
        (FileOperation.UNLINK, errno.EROFS, f"{folder}/ro/file", ""),
    ]


def test_refused_program_starts(probes: Probes, folder: Path) -> None:
    program = folder / "program"
    shutil.copy("/usr/bin/true", program)
    program.chmod(0o644)

    def action() -> list[int]:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        descriptor = os.open(program, R)
        return [
            attempt(lambda: os.execv(program, ["x"])),
            attempt(lambda: os.execve(descriptor, ["x"], {})),
        ]

    answers, events = observed(probes, action)
    assert answers == [errno.EACCES] * 2
    refused = [each for each in beneath(events, folder) if each.errno]
    assert [(each.operation, each.path, each.errno) for each in refused] == [
        (FileOperation.EXEC, str(program), errno.EACCES)
    ] * 2


def test_a_refused_name_of_a_unix_socket(probes: Probes, folder: Path) -> None:
    folder.chmod(0o755)

    def action() -> list[int]:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        os.chdir(folder)
        with socket.socket(socket.AF_UNIX) as sock:
            return [
                attempt(lambda: sock.bind(f"{folder}/sock")),
                attempt(lambda: sock.bind("sock")),
            ]

    answers, events = observed(probes, action)
    assert answers == [errno.EACCES] * 2
    assert [(each.operation, each.path) for each in beneath(events, folder)] == [
        (FileOperation.MKDIR, f"{folder}/sock")
    ] * 2


def test_a_path_that_changes_under_the_call_is_marked_as_claimed(
    probes: Probes, folder: Path
) -> None:
    """The string is read when the call returns; a thread may have changed it by then."""
    program = folder / "race"
    source = folder / "race.c"
    source.write_text(RACE)
    subprocess.run(["gcc", "-O1", "-pthread", "-o", program, source], check=True)
    program.chmod(0o755)
    (folder / "closed").touch()
    (folder / "closed").chmod(0)

    def action() -> int:
        pid = os.fork()
        if pid == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.chdir(folder)
            os.execv(program, ["race"])
        return os.waitpid(pid, 0)[1]

    status, events = observed(probes, action)
    assert status == 0
    refused = [each for each in events if isinstance(each, FileEvent) and each.errno]
    assert len(refused) == 2000
    assert all(each.claimed for each in refused)


RACE = """
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
static char path[64] = "closed";
static volatile int done;
static void *flip(void *unused) {
	while (!done) { path[0] = 0; path[0] = 'c'; }
	return unused;
}
int main(void) {
	pthread_t thread;
	int refused = 0;
	pthread_create(&thread, 0, flip, 0);
	for (long i = 0; i < 2000000 && refused < 2000; i++)
		if (open(path, O_RDWR) < 0 && errno == EACCES)
			refused++;
	done = 1;
	pthread_join(thread, 0);
	return refused == 2000 ? 0 : 1;
}
"""

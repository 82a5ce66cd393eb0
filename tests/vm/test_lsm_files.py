# SPDX-License-Identifier: Apache-2.0
"""What the LSM programs decide on files, alone: no Landlock, no view, no system call filter.

Each case runs in an armed session, in an observed one, in one that is not armed, and outside.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from monitor.daemon.arming import Objects
from monitor.daemon.probes import lsm
from monitor.policy.action import Origin
from monitor.policy.plan import FileAccess, FileRule, MaskKind, MaskRule, Policy
from monitor.wire.events import DenyCause, FileEvent, FileOperation
from monitor.wire.file_rows import file_rows
from monitor.wire.layout import FILE_LINK_BITS, SessionFlag
from tests.support.probes import Governed, Inside, Probes, attempt, boottime, inside, libc, policy

READ, WRITE, EXECUTE = FileAccess.READ, FileAccess.WRITE, FileAccess.EXECUTE
HIDE, READ_ONLY, NO_EXEC = MaskKind.HIDE, MaskKind.READ_ONLY, MaskKind.NO_EXEC
DONE, REFUSED = 0, errno.EACCES

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not lsm.active(), reason="bpf is no active security module here"),
]


@pytest.fixture(scope="module")
def probes() -> Iterator[Probes]:
    made = Probes()
    try:
        yield made
    finally:
        made.clean()


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ri-lsm-", dir="/var/tmp")).resolve()
    for name in (
        "ws/file", "ws/sub/deep/file", "ws/.env", "ws/sub/.env", "ws/key.pem", "ws/pem", "ws/em",
        "ws/secret-1", "ws/a/b/held/file", "ws/.git/hooks/pre", "ws/.git/config", "ws/.git/HEAD",
        "ws/gone", "ws/gone-2", "ro/file", "ro/.env", "none/file", "one", "one.neighbour",
    ):  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    for name in ("ws/tool", "ws/program", "ro/program", "none/program", "run/program"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        shutil.copy("/bin/true", path)
    yield folder
    shutil.rmtree(folder)


def origin(text: str) -> Origin:
    return Origin("by-hand", "files", text, "by hand", 1)


def grant(path: Path | str, access: FileAccess, *, tree: bool = True) -> FileRule:
    return FileRule(str(path), tree, access, origin(str(path)))


def mask(pattern: str, kind: MaskKind) -> MaskRule:
    return MaskRule(pattern, kind, origin(pattern))


def rules_of(p: Path) -> Policy:
    """Writing in ws but for what is masked, reading in ro, one file, programs in run."""
    ws = p / "ws"
    # What a program needs to start at all.
    system = [grant(each, READ | EXECUTE) for each in ("/usr", "/lib", "/lib64", "/etc")]
    return replace(
        policy(),
        files=(
            *system,
            grant("/proc", READ),
            grant(ws, READ | WRITE | EXECUTE),
            grant(p / "ro", READ),
            grant(p / "one", READ, tree=False),
            grant(p / "run", READ | EXECUTE),
        ),
        masks=(
            mask(f"{ws}/**/.env", HIDE),
            mask(f"{ws}/**/*.pem", HIDE),
            mask(f"{ws}/secret*", HIDE),
            mask(f"{ws}/.git/hooks", READ_ONLY),
            mask(f"{ws}/.git/config", READ_ONLY),
            mask(f"{ws}/tool", NO_EXEC),
            mask(f"{ws}/a/*/held", HIDE),
            mask(f"{ws}/later/kept", HIDE),
        ),
    )


@contextmanager
def armed(probes: Probes, *policies: Policy, arm: bool = True, **more: Any) -> Iterator[Governed]:
    with probes.running(*policies, **more) as session:
        if arm:
            objects = Objects()
            rows = file_rows(policies, objects.find, objects.is_folder)
            assert not rows.unjudged
            assert not rows.left
            probes.tables.arms.arm(session.id, rows)
        yield session


def denials(probes: Probes, session: Governed) -> list[FileEvent]:
    return [
        event
        for event in probes.events(session)
        if isinstance(event, FileEvent) and event.cause is not None
    ]


def read(path: Path) -> Callable[[], object]:
    return lambda: os.read(os.open(path, os.O_RDONLY), 1)


def write(path: Path, flags: int = 0) -> Callable[[], object]:
    return lambda: os.write(os.open(path, os.O_WRONLY | flags), b"x")


def start(path: Path) -> Callable[[], object]:
    def act() -> object:
        child = os.posix_spawn(path, [str(path)], {})
        return os.waitpid(child, 0)

    return act


def map_code(path: Path) -> Callable[[], object]:
    def act() -> object:
        descriptor = os.open(path, os.O_RDONLY)
        return mmap.mmap(descriptor, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)

    return act


def protect_code(path: Path) -> Callable[[], object]:
    """Mapped for reading, then made executable."""

    def act() -> object:
        descriptor = os.open(path, os.O_RDONLY)
        libc.mmap.restype = ctypes.c_void_p
        where = libc.mmap(None, ctypes.c_size_t(4096), 1, 2, descriptor, ctypes.c_long(0))
        if libc.mprotect(ctypes.c_void_p(where), ctypes.c_size_t(4096), 5) < 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        return None

    return act


Action = Callable[[Path], Callable[[], object]]
Refusals = tuple[str, Action, FileOperation, DenyCause, int]
RULE, UNLISTED = DenyCause.RULE, DenyCause.UNLISTED
OPEN = FileOperation.OPEN

ALLOWED: list[tuple[str, Action]] = [
    ("read", lambda p: read(p / "ws/file")),
    ("read deep", lambda p: read(p / "ws/sub/deep/file")),
    ("write", lambda p: write(p / "ws/file")),
    ("create", lambda p: write(p / "ws/new", os.O_CREAT)),
    ("truncate", lambda p: write(p / "ws/file", os.O_TRUNC)),
    ("mkdir", lambda p: (p / "ws/folder").mkdir),
    ("unlink", lambda p: (p / "ws/gone").unlink),
    ("rename", lambda p: lambda: (p / "ws/gone-2").rename(p / "ws/sub/there")),
    ("symlink", lambda p: lambda: (p / "ws/link").symlink_to("anywhere")),
    ("link", lambda p: lambda: (p / "ws/hard").hardlink_to(p / "ws/file")),
    ("chmod", lambda p: lambda: (p / "ws/file").chmod(0o600)),
    ("read only", lambda p: read(p / "ro/file")),
    ("a name that is masked elsewhere only", lambda p: read(p / "ro/.env")),
    ("one file", lambda p: read(p / "one")),
    ("the end of a pattern alone", lambda p: read(p / "ws/pem")),
    ("less than the end of a pattern", lambda p: read(p / "ws/em")),
    ("read what may not be written", lambda p: read(p / "ws/.git/config")),
    ("read a program that may not run", lambda p: read(p / "ws/tool")),
    ("beside what is masked", lambda p: write(p / "ws/.git/HEAD")),
    ("list", lambda p: lambda: list((p / "ws").iterdir())),
    ("run", lambda p: start(p / "run/program")),
    ("run what may be written", lambda p: start(p / "ws/program")),
    ("map code", lambda p: map_code(p / "run/program")),
    ("map code that may be read", lambda p: map_code(p / "ro/program")),
    ("a pipe", lambda p: lambda: os.read(_filled_pipe(), 1)),
    ("a memory file again", lambda p: lambda: read(Path(f"/proc/self/fd/{os.memfd_create('m')}"))),
]  # fmt: skip
DENIED: list[Refusals] = [
    ("read unlisted", lambda p: read(p / "none/file"), OPEN, UNLISTED, -1),
    ("read neighbour", lambda p: read(p / "one.neighbour"), OPEN, UNLISTED, -1),
    ("list unlisted", lambda p: lambda: list((p / "none").iterdir()), OPEN, UNLISTED, -1),
    ("write what may be read", lambda p: write(p / "ro/file"), OPEN, UNLISTED, -1),
    ("create unlisted", lambda p: write(p / "ro/new", os.O_CREAT), OPEN, UNLISTED, -1),
    ("mkdir unlisted", lambda p: (p / "ro/new").mkdir,
     FileOperation.MKDIR, UNLISTED, -1),
    ("unlink unlisted", lambda p: (p / "ro/file").unlink,
     FileOperation.UNLINK, UNLISTED, -1),
    ("rename out", lambda p: lambda: (p / "ws/gone").rename(p / "none/gone"),
     FileOperation.RENAME, UNLISTED, -1),
    ("rename in", lambda p: lambda: (p / "none/file").rename(p / "ws/taken"),
     FileOperation.RENAME, UNLISTED, -1),
    ("link out", lambda p: lambda: (p / "ro/hard").hardlink_to(p / "ro/file"),
     FileOperation.LINK, UNLISTED, -1),
    ("truncate unlisted", lambda p: lambda: os.truncate(p / "ro/file", 0),
     FileOperation.TRUNCATE, UNLISTED, -1),
    ("chmod unlisted", lambda p: lambda: (p / "ro/file").chmod(0o600),
     FileOperation.CHMOD, UNLISTED, -1),
    ("chown unlisted", lambda p: lambda: os.chown(p / "ro/file", 1, 1),
     FileOperation.CHMOD, UNLISTED, -1),
    ("run unlisted", lambda p: start(p / "none/program"), OPEN, UNLISTED, -1),
    ("run what may be read", lambda p: start(p / "ro/program"), OPEN, UNLISTED, -1),
    ("masked anywhere", lambda p: read(p / "ws/.env"), OPEN, RULE, 0),
    ("masked deeper", lambda p: read(p / "ws/sub/.env"), OPEN, RULE, 0),
    ("masked, made new", lambda p: write(p / "ws/sub/deep/.env", os.O_CREAT), OPEN, RULE, 0),
    ("masked by its end", lambda p: read(p / "ws/key.pem"), OPEN, RULE, 1),
    ("masked by its start", lambda p: read(p / "ws/secret-1"), OPEN, RULE, 2),
    ("write into a masked folder", lambda p: write(p / "ws/.git/hooks/new", os.O_CREAT),
     OPEN, RULE, 3),
    ("write beneath a masked folder", lambda p: write(p / "ws/.git/hooks/pre"), OPEN, RULE, 3),
    ("write a masked file", lambda p: write(p / "ws/.git/config"), OPEN, RULE, 4),
    ("put another in its place", lambda p: lambda: (p / "ws/file").rename(p / "ws/.git/config"),
     FileOperation.RENAME, RULE, 4),
    ("rename a masked file", lambda p: lambda: (p / "ws/.env").rename(p / "ws/plain"),
     FileOperation.RENAME, RULE, 0),
    ("rename to a masked name", lambda p: lambda: (p / "ws/file").rename(p / "ws/x.pem"),
     FileOperation.RENAME, RULE, 1),
    ("link a masked file", lambda p: lambda: (p / "ws/plain").hardlink_to(p / "ws/.env"),
     FileOperation.LINK, RULE, 0),
    ("unlink a masked file", lambda p: (p / "ws/.git/config").unlink,
     FileOperation.UNLINK, RULE, 4),
    ("move what holds it", lambda p: lambda: (p / "ws/.git").rename(p / "ws/.got"),
     FileOperation.RENAME, RULE, 3),
    ("remove what would hold it", lambda p: lambda: _make_and_remove(p / "ws/later"),
     FileOperation.UNLINK, RULE, 7),
    ("make it later", lambda p: lambda: _make_within(p / "ws/later", "kept"), OPEN, RULE, 7),
    ("any name between", lambda p: read(p / "ws/a/b/held/file"), OPEN, RULE, 6),
    ("chmod a masked file", lambda p: lambda: (p / "ws/.git/config").chmod(0o600),
     FileOperation.CHMOD, RULE, 4),
    ("setxattr on a masked file",
     lambda p: lambda: os.setxattr(p / "ws/.git/config", "user.x", b"y"),
     FileOperation.CHMOD, RULE, 4),
    ("removexattr on a masked file",
     lambda p: lambda: os.removexattr(p / "ws/.git/config", "user.there"),
     FileOperation.CHMOD, RULE, 4),
    ("run a masked program", lambda p: start(p / "ws/tool"), OPEN, RULE, 5),
    ("map a masked program", lambda p: map_code(p / "ws/tool"), FileOperation.MAP, RULE, 5),
    ("make a mapped one executable", lambda p: protect_code(p / "ws/tool"),
     FileOperation.MAP, RULE, 5),
    ("by the loader", lambda p: lambda: _by_loader(p / "ws/tool"), FileOperation.MAP, RULE, 5),
]  # fmt: skip


def _filled_pipe() -> int:
    there, here = os.pipe()
    os.write(here, b"x")
    return there


def _make_and_remove(folder: Path) -> None:
    folder.mkdir()
    folder.rmdir()


def _make_within(folder: Path, name: str) -> None:
    folder.mkdir()
    os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))


def _by_loader(program: Path) -> None:
    """The dynamic loader maps what it is given."""
    loader = "/lib64/ld-linux-x86-64.so.2"
    child = os.posix_spawn(loader, [loader, str(program)], {})
    _pid, status = os.waitpid(child, 0)
    if status:
        raise PermissionError(errno.EACCES, "the loader failed")


@pytest.mark.parametrize(("name", "action"), ALLOWED, ids=[case[0] for case in ALLOWED])
def test_what_is_granted_goes_on(probes: Probes, place: Path, name: str, action: Action) -> None:
    act = action(place)
    with armed(probes, rules_of(place)) as session:
        assert inside(session, lambda: attempt(act)) == DONE
        assert denials(probes, session) == []


@pytest.mark.parametrize("case", DENIED, ids=[case[0] for case in DENIED])
def test_what_is_refused_is_refused_and_told(probes: Probes, place: Path, case: Refusals) -> None:
    _name, action, operation, cause, index = case
    act = action(place)
    with armed(probes, rules_of(place)) as session:
        assert inside(session, lambda: attempt(act)) == REFUSED
        [event] = denials(probes, session)
    assert (event.operation, event.cause, event.errno) == (operation, cause, errno.EACCES)
    assert event.rule == (index if cause is RULE else 0)
    assert event.path.startswith(str(place))


@pytest.mark.parametrize("case", DENIED, ids=[case[0] for case in DENIED])
def test_without_it_the_same_goes_on(probes: Probes, place: Path, case: Refusals) -> None:
    act = case[1](place)
    (place / "ws/.git/config").touch()
    os.setxattr(place / "ws/.git/config", "user.there", b"y")
    with armed(probes, rules_of(place), flags=SessionFlag.OBSERVE) as session:
        assert inside(session, lambda: attempt(act)) == DONE
        assert denials(probes, session) == []


def test_a_session_that_is_not_armed_is_not_judged(probes: Probes, place: Path) -> None:
    with armed(probes, rules_of(place), arm=False) as session:
        assert inside(session, lambda: attempt(read(place / "none/file"))) == DONE


def test_every_link_must_grant(probes: Probes, place: Path) -> None:
    """The second of two refuses; the record names it."""
    wide, narrow = rules_of(place), rules_of(place)
    wide = replace(wide, files=(*wide.files, grant(place / "none", READ)), masks=())
    with armed(probes, wide, narrow) as session:
        assert inside(session, lambda: attempt(read(place / "ro/file"))) == DONE
        assert inside(session, lambda: attempt(read(place / "none/file"))) == REFUSED
        assert inside(session, lambda: attempt(read(place / "ws/.env"))) == REFUSED
        events = denials(probes, session)
    assert [event.rule for event in events] == [1 << FILE_LINK_BITS, 1 << FILE_LINK_BITS]
    assert [event.cause for event in events] == [UNLISTED, RULE]


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"flags": SessionFlag.REVOKED}, DenyCause.DENY_ALL),
        ({"flags": SessionFlag.PAUSED}, DenyCause.CONDITION),
        ({"expires": 1}, DenyCause.EXPIRED),
    ],
    ids=["revoked", "paused", "expired"],
)
def test_standing_counts_for_every_open(
    probes: Probes, place: Path, more: dict[str, Any], cause: DenyCause
) -> None:
    with armed(probes, rules_of(place), **more) as session:
        assert inside(session, lambda: attempt(read(place / "ws/file"))) == REFUSED
        assert [event.cause for event in denials(probes, session)] == [cause]


@pytest.mark.parametrize("way", ["revoked", "expired"])
def test_what_is_open_ends_with_the_authority(probes: Probes, place: Path, way: str) -> None:
    """A descriptor that was opened before; a pipe goes on, so that it can say why."""
    ready, told = os.pipe()
    waits, go = os.pipe()

    def act() -> list[int]:
        descriptor = os.open(place / "ws/file", os.O_RDWR)
        found = [attempt(lambda: os.pread(descriptor, 1, 0))]
        os.write(told, b"x")
        os.read(waits, 1)
        found.append(attempt(lambda: os.pread(descriptor, 1, 0)))
        found += [attempt(lambda: os.pwrite(descriptor, b"y", 0)) for _turn in range(3)]
        return found

    with armed(probes, rules_of(place)) as session:
        process = Inside(session, act)
        os.read(ready, 1)
        if way == "revoked":
            probes.tables.add_flags(session.id, SessionFlag.REVOKED)
        else:
            probes.tables.set_expiry(session.id, boottime(-1))
        os.write(go, b"x")
        assert process.result() == [DONE, REFUSED, REFUSED, REFUSED, REFUSED]
        events = denials(probes, session)
    cause = DenyCause.DENY_ALL if way == "revoked" else DenyCause.EXPIRED
    # Once, and then counted.
    assert [(each.operation, each.cause) for each in events] == [(FileOperation.USE, cause)]
    assert events[0].path == str(place / "ws/file")
    for each in (ready, told, waits, go):
        os.close(each)


def test_rules_are_switched_in_one_step(probes: Probes, place: Path) -> None:
    """A session goes over to other rules while it runs, and back."""
    narrow = rules_of(place)
    wide = replace(narrow, files=(*narrow.files, grant(place / "none", READ)))
    objects = Objects()
    with armed(probes, narrow) as session:
        for rules, expected in ((wide, DONE), (narrow, REFUSED), (wide, DONE)):
            rows = file_rows([rules], objects.find, objects.is_folder)
            probes.tables.arms.arm(session.id, rows)
            assert inside(session, lambda: attempt(read(place / "none/file"))) == expected


def test_nothing_stays_behind(probes: Probes, place: Path) -> None:
    maps = probes.tables.arms._maps
    with armed(probes, rules_of(place)), armed(probes, rules_of(place)):
        assert len(list(maps["armed"])) == 2
        assert len(list(maps["file_rules"])) == 1, "sessions with the same rules share them"
    assert {name: len(list(table)) for name, table in maps.items()} == dict.fromkeys(maps, 0)


def test_the_canary_is_refused_everything(probes: Probes, place: Path) -> None:
    cgroup = probes.cgroup()
    assert inside(cgroup, lambda: attempt(read(place / "ws/file"))) == DONE
    probes.tables.arms.canary(cgroup.id, present=True)
    try:
        assert inside(cgroup, lambda: attempt(read(place / "ws/file"))) == REFUSED
    finally:
        probes.tables.arms.canary(cgroup.id, present=False)
        probes.end(cgroup)
    assert denials(probes, Governed(probes.root, (), ())) == []

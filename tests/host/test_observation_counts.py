# SPDX-License-Identifier: Apache-2.0
"""Aggregation of repeats, and the counting of what is lost: no action goes without a number."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.daemon.probes.ring import RingReader
from monitor.wire.events import AnyEvent, FileEvent, FileOperation, NetEvent
from monitor.wire.layout import SessionFlag
from tests.support.observing import beneath
from tests.support.probes import Probes, inside, policy, ports

REPEATS = policy(connect=[("::ffff:127.0.0.1/128", [ports(9)])])


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ri-counts-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def open_(path: Path | str, times: int = 1, flags: int = os.O_RDONLY) -> None:
    for _each in range(times):
        os.close(os.open(path, flags | os.O_CREAT))


def counts(events: list[AnyEvent], folder: Path) -> Counter[tuple[str, bool, bool]]:
    """How many opens each path had, by how it was opened."""
    found: Counter[tuple[str, bool, bool]] = Counter()
    for event in beneath(events, folder):
        found[event.path, event.write, event.created] += event.count
    return found


def test_the_first_is_told_and_then_they_are_counted(probes: Probes, folder: Path) -> None:
    path = folder / "file"
    path.touch()

    def action() -> None:
        open_(path, 10)
        open_(path, 5, os.O_RDWR)

    probes.events()
    with probes.running(policy()) as session:
        inside(session, action)
        first = beneath(probes.events(session), folder)
        assert [(each.path, each.write, each.count) for each in first] == [
            (str(path), False, 1),
            (str(path), True, 1),
        ]
        inside(session, action)
        assert beneath(probes.events(session), folder) == []
        rest = beneath(probes.reader.sweep(session.id), folder)
        assert {(each.path, each.write, each.count) for each in rest} == {
            (str(path), False, 19),
            (str(path), True, 9),
        }
        # The end is the end.
        assert probes.reader.sweep(session.id) == []


def test_every_one_is_told_where_the_profile_says_so(probes: Probes, folder: Path) -> None:
    path = folder / "file"
    path.touch()
    probes.events()
    with probes.running(policy(), flags=SessionFlag.EVERY) as session:
        inside(session, lambda: open_(path, 10))
        assert [each.count for each in beneath(probes.events(session), folder)] == [1] * 10
        assert probes.reader.sweep(session.id) == []


def test_sessions_are_counted_apart(probes: Probes, folder: Path) -> None:
    path = folder / "file"
    path.touch()
    probes.events()
    with probes.running(policy()) as one, probes.running(policy()) as other:
        inside(one, lambda: open_(path, 3))
        inside(other, lambda: open_(path, 5))
        assert len(beneath(probes.events(), folder)) == 2
        for session, count in ((one, 2), (other, 4)):
            (event,) = beneath(probes.reader.sweep(session.id), folder)
            assert (event.cgroup, event.count) == (session.id, count)


def test_refusals_are_never_only_counted(probes: Probes, folder: Path) -> None:
    closed = folder / "closed"
    closed.touch()
    closed.chmod(0)
    folder.chmod(0o755)

    def action() -> None:
        os.setresuid(65534, 65534, 65534)
        for _each in range(10):
            with pytest.raises(PermissionError):
                os.open(closed, os.O_RDONLY)

    probes.events()
    with probes.running(policy()) as session:
        inside(session, action)
        assert [each.errno for each in beneath(probes.events(session), folder)] == [13] * 10


def test_a_file_made_anew_is_another_one(probes: Probes, folder: Path) -> None:
    """The same name and, most likely, the same inode number."""
    path = folder / "file"

    def action() -> None:
        for _each in range(5):
            open_(path, 2, os.O_RDWR)
            path.unlink()

    probes.events()
    with probes.running(policy()) as session:
        inside(session, action)
        events = probes.events(session) + probes.reader.sweep(session.id)
        opened = [each for each in events if isinstance(each, FileEvent)
                  and each.operation is FileOperation.OPEN]  # fmt: skip
        assert counts(list(opened), folder) == {
            (str(path), True, True): 5,
            (str(path), True, False): 5,
        }


def test_connections_are_counted_by_destination(probes: Probes) -> None:
    def action() -> None:
        for _each in range(20):
            with socket.socket() as sock:
                sock.connect_ex(("127.0.0.1", 9))

    probes.events()
    with probes.running(REPEATS) as session:
        inside(session, action)
        (first,) = [each for each in probes.events(session) if isinstance(each, NetEvent)]
        (rest,) = [each for each in probes.reader.sweep(session.id) if isinstance(each, NetEvent)]
        assert (first.count, rest.count) == (1, 19)
        assert (rest.address, rest.port, rest.rule) == ("127.0.0.1", 9, first.rule)


def test_no_open_is_missing_when_slots_are_fought_over(probes: Probes, folder: Path) -> None:
    """More objects than slots: what a slot held is told with its count before it goes."""
    files, rounds = 20_000, 3
    paths = [str(folder / f"f{number}") for number in range(files)]
    # Long names take the other ring.
    paths += [str(folder / f"{number:060d}") for number in range(500)]
    for path in paths:
        Path(path).touch()

    def action() -> None:
        for _round in range(rounds):
            for path in paths:
                os.close(os.open(path, os.O_RDONLY))

    probes.events()
    with probes.running(policy()) as session:
        inside(session, action)
        events = probes.events(session) + probes.reader.sweep(session.id)
        assert probes.tables.lost(session.id) == 0
    found = counts(events, folder)
    assert len(found) == len(paths)
    assert set(found.values()) == {rounds}


def test_a_new_reader_adds_to_the_lost_what_was_only_counted(probes: Probes, folder: Path) -> None:
    path = folder / "file"
    path.touch()
    probes.events()
    with probes.running(policy()) as session:
        inside(session, lambda: open_(path, 4))
        probes.events()
        unread = int(sum(probes.reader._seen["count"][probes.reader._seen["cgroup"] == session.id]))
        assert unread >= 3
        second = RingReader(probes.instance)
        second.open()
        assert probes.tables.lost(session.id) == unread
        # It is told everything anew, directories too.
        inside(session, lambda: open_(path))
        events = [each for each in second.drain() if each.cgroup == session.id]
        assert [each.path for each in beneath(events, folder)] == [str(path)]
        second.close()


@pytest.mark.parametrize("ring", ["events", "details"])
def test_what_does_not_fit_is_counted_for_its_session(
    probes: Probes, folder: Path, ring: str
) -> None:
    name, times = ("file", 70_000) if ring == "events" else ("l" * 100, 20_000)
    path = folder / name
    path.touch()
    quiet = folder / "quiet"
    quiet.touch()
    probes.events()
    with (
        probes.running(policy(), flags=SessionFlag.EVERY) as noisy,
        probes.running(policy(), flags=SessionFlag.EVERY) as other,
    ):
        inside(other, lambda: open_(quiet, 100))
        inside(noisy, lambda: open_(path, times))
        events = probes.events()
        lost = probes.tables.lost(noisy.id)
        assert lost > 0
        mine = [each for each in events if each.cgroup == noisy.id]
        told = sum(1 for each in beneath(mine, folder))
        # All other records of the process could be lost as well.
        assert times - told <= lost <= times - told + 20
        assert len(beneath([each for each in events if each.cgroup == other.id], folder)) == 100
        assert probes.tables.lost(other.id) == 0
        # It goes on where there is room again.
        inside(noisy, lambda: open_(path))
        assert len(beneath(probes.events(noisy), folder)) == 1
        assert probes.tables.lost(noisy.id) == lost
    assert probes.reader.errors == 0


def test_counts_of_a_record_that_was_lost_are_lost_as_well(probes: Probes, folder: Path) -> None:
    """The first was dropped because the ring was full; the programs went on counting."""
    path = folder / "file"
    path.touch()
    noise = folder / "noise"
    noise.touch()
    probes.events()
    with (
        probes.running(policy(), flags=SessionFlag.EVERY) as noisy,
        probes.running(policy()) as session,
    ):
        inside(noisy, lambda: open_(noise, 70_000))
        inside(session, lambda: open_(path, 50))
        assert beneath(probes.events(session), folder) == []
        assert 1 <= probes.tables.lost(session.id) < 30
        before = probes.tables.lost(session.id)
        assert beneath(probes.reader.sweep(session.id), folder) == []
        assert probes.tables.lost(session.id) >= before + 49


def test_every_action_is_told_or_lost_whatever_was_full(probes: Probes, folder: Path) -> None:
    """Slots are fought over while the ring is full: their counts do not fit either."""
    files, rounds = 20_000, 3
    paths = [str(folder / f"f{number}") for number in range(files)]
    for path in paths:
        Path(path).touch()
    noise = folder / "noise"
    noise.touch()

    def action() -> None:
        for _round in range(rounds):
            for path in paths:
                os.close(os.open(path, os.O_RDONLY))

    probes.events()
    with (
        probes.running(policy(), flags=SessionFlag.EVERY) as noisy,
        probes.running(policy()) as session,
    ):
        inside(noisy, lambda: open_(noise, 60_000))
        inside(session, action)
        events = probes.events(session) + probes.reader.sweep(session.id)
        told = sum(counts(events, folder).values())
        lost = probes.tables.lost(session.id)
        assert lost > files
        assert files * rounds <= told + lost <= files * rounds + 100


def test_losses_without_room_for_their_session_are_counted_as_nobodys(
    probes: Probes, folder: Path
) -> None:
    path = folder / "file"
    path.touch()
    table = probes.tables._maps["lost"]
    others = []
    probes.events()
    with probes.running(policy(), flags=SessionFlag.EVERY) as session:
        try:
            with pytest.raises(OSError, match="full|space|long"):  # E2BIG
                for number in range(1, 10_000):
                    key = (1 << 60 | number).to_bytes(8, "little")
                    table.update(key, bytes(8))
                    others.append(key)
            assert probes.tables.lost(0) == 0
            inside(session, lambda: open_(path, 70_000))
            told = len(beneath(probes.events(session), folder))
            assert probes.tables.lost(session.id) == 0
            assert 70_000 - told <= probes.tables.lost(0) <= 70_000 - told + 20
        finally:
            for key in others:
                table.delete(key)
            table.update(bytes(8), bytes(8))

# SPDX-License-Identifier: Apache-2.0
"""The log on a disk that is really full, and on one that became read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.audit import head
from monitor.audit.query import Query
from monitor.audit.store import Store, StoreError
from monitor.audit.verify import Verification
from tests.support.audit import draft


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Leave no room at all."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


BATCH = [draft(object="/" + "x" * 500) for _each in range(500)]


def test_a_full_disk_loses_nothing_that_the_caller_keeps(disk: Path) -> None:
    log = Store(disk / "audit.db")
    log.append(BATCH)
    ballast = fill(disk)
    # What room there is within the pages that the log has already is used up first.
    written = len(BATCH)
    with pytest.raises(
        StoreError, match=r"cannot write the audit log .*: database or disk is full"
    ):
        while True:
            written += len(log.append(BATCH))
    for _again in range(3):
        with pytest.raises(StoreError):
            log.append(BATCH)
    assert log.last() == written
    # It can be read and verified, while the head cannot follow.
    assert len(log.query(Query(limit=10_000))) == written
    assert log.verify() == Verification(True, written)

    ballast.unlink()
    assert log.append(BATCH)[0].id == written + 1
    log.close()
    assert log.head_problem == ""
    reopened = Store(disk / "audit.db")
    assert reopened.verify() == Verification(True, written + len(BATCH))
    reopened.close()


def test_a_head_that_has_no_room_does_not_stop_the_log(disk: Path) -> None:
    log = Store(disk / "audit.db")
    log.append(BATCH)
    before = head.read(head.beside(log.path))
    ballast = fill(disk)
    log._keep_head()
    assert "No space left on device" in log.head_problem
    assert head.read(head.beside(log.path)) == before
    assert log.verify() == Verification(True, len(BATCH))
    ballast.unlink()
    log._keep_head()
    assert log.head_problem == ""
    log.close()


def test_a_log_cannot_be_opened_on_a_full_disk(disk: Path) -> None:
    Store(disk / "audit.db").close()
    ballast = fill(disk)
    with pytest.raises(StoreError, match="cannot open the audit log"):
        Store(disk / "audit.db")
    with pytest.raises(StoreError, match="cannot open the audit log"):
        Store(disk / "another.db")
    ballast.unlink()
    log = Store(disk / "audit.db")
    assert log.append(BATCH)[0].id == 1
    log.close()


def test_a_read_only_disk(disk: Path) -> None:
    log = Store(disk / "audit.db")
    log.append(BATCH)
    log.close()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(StoreError, match="cannot open the audit log .*Read-only file system"):
        Store(disk / "audit.db")
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    log = Store(disk / "audit.db")
    assert log.verify() == Verification(True, len(BATCH))
    log.close()

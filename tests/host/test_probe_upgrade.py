# SPDX-License-Identifier: Apache-2.0
"""Another version of the probes, loaded while a session runs."""

from __future__ import annotations

import errno
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from monitor.daemon.probes import pins
from monitor.daemon.probes.attachments import CGROUP_PROGRAMS
from monitor.daemon.probes.tables import KernelTables
from monitor.wire.layout import SessionFlag
from monitor.wire.rows import SessionRow
from tests.support.checkout import ROOT
from tests.support.probes import (
    UDP,
    Inside,
    Probes,
    inside,
    policy,
    ports,
    raw_connect,
    raw_sendto,
    sockaddr,
)

DONE, REFUSED, CLOSED = 0, errno.EPERM, errno.ECONNREFUSED
NARROW = policy(
    connect=[("::ffff:127.0.0.1/128", [ports(9), ports(9, protocol=UDP)])],
)


@pytest.fixture
def probes() -> Iterator[Probes]:
    made = Probes()
    try:
        yield made
    finally:
        made.clean()


@pytest.fixture
def another_version(tmp_path: Path) -> Callable[[str], str]:
    """Changes a source of the probes; the Python that makes the loader load it."""

    def change(source: str) -> str:
        shutil.copytree(ROOT / "probes", tmp_path / "probes")
        with (tmp_path / "probes" / source).open("a") as file:
            file.write(f"/* another version: {tmp_path} */\n")
        return f"from pathlib import Path\nloader.PROBES = Path({str(tmp_path / 'probes')!r})\n"

    return change


def both_connects() -> list[int]:
    """An allowed and a denied one."""
    answers = []
    for port in (9, 10):
        with socket.socket() as sock:
            answers.append(raw_connect(sock, sockaddr("127.0.0.1", port)))
    return answers


@pytest.mark.parametrize("changed", ["network.bpf.c", "include/maps.h"])
def test_an_upgrade_opens_no_moment(
    probes: Probes, another_version: Callable[[str], str], tmp_path: Path, changed: str
) -> None:
    """Whatever a running session was refused stays refused while another version is loaded.

    With the same layout its rows are taken over, and what is allowed goes on; with another one it
    is refused everything until the worker installs it again.
    """
    old = pins.current(probes.instance)
    stop = tmp_path / "stop"

    def hammer() -> dict[int, set[int]]:
        answers: dict[int, set[int]] = {9: set(), 10: set()}
        rounds = 0
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            while not stop.exists():
                rounds += 1
                for port, seen in answers.items():
                    seen.add(raw_sendto(sock, sockaddr("127.0.0.1", port)))
                    seen.add(raw_connect(sock, sockaddr("127.0.0.1", port)))
                    raw_connect(sock, sockaddr("0.0.0.0", 0, socket.AF_UNSPEC))
        assert rounds > 1000
        return answers

    with probes.running(NARROW) as session:
        hammering = Inside(session, hammer)
        try:
            printed = probes.load(another_version(changed))
        finally:
            stop.touch()
        answers = hammering.result()
        assert printed.startswith("compiled")
        assert answers[10] == {REFUSED}
        new = pins.current(probes.instance)
        assert new != old
        assert not old.exists()
        same_layout = changed == "network.bpf.c"
        assert answers[9] == ({DONE} if same_layout else {DONE, REFUSED})
        # What the worker does when it starts.
        probes.tables.close()
        probes.tables = KernelTables(probes.instance)
        probes.tables.open()
        if not same_layout:
            assert probes.tables.sessions() == set()
            probes.tables.install(session.id, [(session.policy_ids[0], NARROW)])
        assert probes.tables.session(session.id) == SessionRow(
            0, SessionFlag.NONE, session.policy_ids
        )
        assert inside(session, both_connects) == [CLOSED, REFUSED]
    assert set(probes.rows().values()) == {0}


def test_a_loader_that_died_between_two_versions_is_made_good(
    probes: Probes, another_version: Callable[[str], str]
) -> None:
    """Both versions complete: the next loader keeps its own, and the tables are its own."""
    change = another_version("network.bpf.c")
    # It dies where it would take the older version away.
    died = (
        "import os, shutil\nkept = shutil.rmtree\n"
        "loader.shutil.rmtree = lambda path, *more, **options: os._exit(0)"
        " if (path / 'complete').exists() else kept(path, *more, **options)\n"
    )
    root = pins.instance_folder(probes.instance)
    with probes.running(NARROW) as session:
        probes.load(change + died)
        assert sum((folder / pins.COMPLETE).exists() for folder in root.iterdir()) == 2
        assert probes.load(change).startswith("present")
        assert len(list(root.iterdir())) == 1
        probes.tables.close()
        probes.tables.open()
        assert inside(session, both_connects) == [CLOSED, REFUSED]


def test_loading_the_same_version_again_changes_nothing(probes: Probes) -> None:
    with probes.running(NARROW) as session:
        folder = pins.current(probes.instance)
        assert probes.load().startswith("present")
        assert pins.current(probes.instance) == folder
        assert inside(session, both_connects) == [CLOSED, REFUSED]


def test_the_pins_hold_without_any_process(probes: Probes) -> None:
    """Nobody holds a descriptor of the programs: only the pins do."""
    folder = pins.current(probes.instance)
    links = [path.name for path in folder.iterdir() if path.name.startswith("link_")]
    assert {f"link_{name}" for name in CGROUP_PROGRAMS} <= set(links)

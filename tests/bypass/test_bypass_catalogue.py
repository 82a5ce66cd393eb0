# SPDX-License-Identifier: Apache-2.0
"""Every way out of the catalogue in a real session: refused, recorded, and open without us."""

from __future__ import annotations

import signal
import subprocess

import pytest

from monitor.prove.case import KILLED, Case, Control
from monitor.prove.catalogue import CASES
from monitor.prove.trees import IN_TREES
from tests.bypass.conftest import Scene
from tests.support.daemon import wait_until

REFUSED = 10  # programs/attempt.py
# What a kernel answers that was built without something; int 0x80 is a fault then.
ABSENT = {"ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT"}


def last_record(scene: Scene) -> int:
    newest = scene.daemon.records(newest=1, limit=1)
    return int(newest[-1]["id"]) if newest else 0


def recorded(scene: Scene, after: int, verb: str, verdict: str) -> bool:
    return bool(scene.daemon.records(after=after, verb=verb, verdict=verdict))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_way_out_is_closed(scene: Scene, case: Case) -> None:
    command = case.command(scene.words)
    before = last_record(scene)
    scene.made.renew(case.profile)
    governed = scene.daemon.exec(case.profile, command, cwd=scene.made.folder(case.profile))
    told = f"{governed.stdout}{governed.stderr}"
    if case.expect == KILLED:
        assert governed.returncode == 128 + signal.SIGSYS, told
        assert "DONE" not in governed.stdout
    else:
        assert governed.returncode == REFUSED, told
        assert governed.stdout.splitlines()[-1] == f"REFUSED {case.expect}"
    if case.verb is not None:
        verb, verdict = case.verb, "allow" if case.expect == KILLED else "deny"
        wait_until(lambda: recorded(scene, before, verb, verdict))
    else:
        assert case.unrecorded
    if case in IN_TREES:
        records = scene.daemon.records(after=before, verb=case.verb or "", verdict="deny")
        assert {record["mechanism"] for record in records} == {"view"}
        assert all("{workspace}" in record["rule"] for record in records)
    free = without(scene, case, command)
    if case.control is not Control.OBSERVE and lacks(free):
        pytest.skip(f"this kernel has no {case.title}")
    assert free.returncode == 0, f"{free.stdout}{free.stderr}"
    assert free.stdout.splitlines()[-1].startswith("DONE")


def lacks(free: subprocess.CompletedProcess[str]) -> bool:
    """Whether even the bare run was told that there is no such thing."""
    said = free.stdout.split()[-1:] or [""]
    return said[0] in ABSENT or free.returncode == -signal.SIGSEGV


def without(scene: Scene, case: Case, command: list[str]) -> subprocess.CompletedProcess[str]:
    """The same with the control off; under --observe, what would have been refused is recorded."""
    if case.control is not Control.OBSERVE:
        return scene.bare(command, root=case.control is Control.ROOT)
    before = last_record(scene)
    folder = scene.made.folder(case.profile)
    free = scene.daemon.exec(case.profile, command, cwd=folder, observe=True)
    if case.verb is not None and case.observed:
        verb = case.verb
        wait_until(lambda: recorded(scene, before, verb, "would-deny"))
    return free


def test_every_case_is_told_apart() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


def test_an_open_for_ioctl_alone_is_the_filters(scene: Scene) -> None:
    """It fails on every file, so the rules on files have no part in it."""
    case = next(case for case in CASES if case.title == "open without access for ioctl")
    before = last_record(scene)
    scene.daemon.exec(case.profile, case.command(scene.words), cwd=scene.workspace)
    wait_until(lambda: recorded(scene, before, "file.write", "deny"))
    records = scene.daemon.records(after=before, verb="file.write", verdict="deny")
    assert {record["mechanism"] for record in records} == {"seccomp"}
    assert all("access mode 3" in record["reason"] for record in records)

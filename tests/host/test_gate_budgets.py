# SPDX-License-Identifier: Apache-2.0
"""Budgets that the gate keeps: program starts and removed names within a minute."""

from __future__ import annotations

import time

from tests.support.daemon import Daemon

BASE = """
include: [base]
files:
  read: ["{workspace}/**"]
  write: ["{workspace}/**"]
  execute: ["/usr/**"]
"""
STARTS = BASE + "limits: {execs_per_minute: 10}\n"
DELETES = BASE + "limits: {deletes_per_minute: 5}\n"


def start_of_minute() -> None:
    """Counts are of a minute of boottime: have one that does not end in the middle."""
    left = 60 - time.clock_gettime(time.CLOCK_BOOTTIME) % 60
    if left < 12:
        time.sleep(left + 0.1)


def test_starts_past_the_budget_are_refused(daemon: Daemon) -> None:
    script = "for i in $(seq 20); do /usr/bin/true && echo ran; done"
    daemon.profile("starts", STARTS)
    daemon.profile("free", BASE)
    assert daemon.exec("free", ["/usr/bin/bash", "-c", script]).stdout == "ran\n" * 20
    start_of_minute()
    done = daemon.exec("starts", ["/usr/bin/bash", "-c", script])
    # bash and seq are two of them.
    assert done.stdout == "ran\n" * 8, done.stderr
    session = daemon.sessions(everything=True)[-1]["id"]
    denied = daemon.records(session=session, verb="proc.exec", verdict="deny")
    assert denied
    assert {each["mechanism"] for each in denied} == {"budget"}


def test_removals_past_the_budget_are_refused(daemon: Daemon) -> None:
    script = (
        "import os\n"
        "def tried(act, *names):\n"
        "    try: act(*names); return 'done'\n"
        "    except PermissionError: return 'refused'\n"
        "for i in range(12): open(f'f{i}', 'w').close()\n"
        "os.mkdir('d')\n"
        "print(tried(os.unlink, 'f0'), tried(os.rmdir, 'd'), tried(os.rename, 'f1', 'new'),"
        " tried(os.rename, 'f2', 'f3'), tried(os.remove, 'f4'), tried(os.unlink, 'f5'),"
        " tried(os.unlink, 'f6'), tried(os.rename, 'f7', 'f8'), tried(os.rename, 'f9', 'other'))"
    )
    daemon.profile("deletes", DELETES)
    daemon.profile("free", BASE)
    python = ["/usr/bin/python3", "-c", script]
    clean = ["/usr/bin/bash", "-c", "rm -rf f* d new other"]
    assert daemon.exec("free", python).stdout == " ".join(["done"] * 9) + "\n"
    daemon.exec("free", clean)
    start_of_minute()
    done = daemon.exec("deletes", python)
    daemon.exec("free", clean)
    expected = "done done done done done done refused refused done\n"
    assert done.stdout == expected, done.stderr

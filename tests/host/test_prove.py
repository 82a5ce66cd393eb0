# SPDX-License-Identifier: Apache-2.0
"""`rictl doctor --prove`: every way out is closed and recorded, a hole is seen, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from monitor.kernel.cgroup import unified_mount
from monitor.prove.catalogue import CASES
from monitor.prove.scene import PARENT, PREFIX
from tests.support.checkout import ROOT
from tests.support.daemon import PYTHON, Daemon, wait_until


def left(pid: int) -> list[str]:
    """Files and cgroups that the run of `pid` made and that are still there."""
    places = (PARENT, unified_mount())
    return [str(path) for place in places for path in place.glob(f"{PREFIX}{pid}-*")]


def prove(daemon: Daemon, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(PYTHON), "-m", "monitor.cli.rictl", "doctor", "--prove", *options],
        cwd=ROOT,
        env={"RI_SOCKET": str(daemon.socket), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def test_every_way_out_is_closed_and_recorded(daemon: Daemon) -> None:
    process = prove(daemon, "--json")
    status, output, errors = finished(process)
    attempts: list[dict[str, Any]] = json.loads(output)["attempts"]
    bad = [each for each in attempts if each["result"] not in {"closed", "absent", "skipped"}]
    assert bad == [], json.dumps(bad, indent=1)
    assert (status, errors) == (0, "")
    assert len(attempts) == len(CASES)
    skipped = [each["technique"] for each in attempts if each["result"] == "skipped"]
    assert skipped == ["more ids than its own"]  # of user namespaces, which root's need not
    for each in attempts:
        if each["result"] == "closed":
            assert (each["record"] is None) is (each["unrecorded"] is not None), each
            assert each["source"], each
    numbers = [each["record"] for each in attempts if each["record"]]
    assert len(set(numbers)) == len(numbers), "a record shows one attempt only"
    assert left(process.pid) == []
    daemon.settled()


def test_a_user_tries_with_their_own_rights(daemon: Daemon) -> None:
    done = daemon.rictl_as(daemon.user, "doctor", "--prove")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "skipped" in done.stdout  # what only root can prepare
    assert "every one was closed" in done.stdout


def test_a_hole_is_seen(make_daemon: Any) -> None:
    """The base that the profiles of the attempts stand on opens something: they succeed."""
    folder = make_daemon()
    (folder.profiles / "base.yaml").write_text(
        (ROOT / "profiles" / "base.yaml").read_text()
        + "network: {connect: ['[::1]:1-65535', '[::1]:1-65535/udp']}\n"
    )
    folder.start()
    process = prove(folder, "--json", "--row", "22", "--row", "25")
    status, output, _errors = finished(process)
    attempts = json.loads(output)["attempts"]
    opened = {each["technique"] for each in attempts if each["result"] == "open"}
    assert status == 1
    assert opened == {"IPv6", "datagram over IPv6", "TCP fast open over IPv6"}
    assert left(process.pid) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_cleans_up_when_it_is_ended(daemon: Daemon, number: signal.Signals) -> None:
    process = prove(daemon)
    wait_until(lambda: len(left(process.pid)) == 2)
    wait_until(lambda: bool(daemon.sessions()))
    process.send_signal(number)
    status, _output, errors = finished(process)
    assert status != 0
    assert "Traceback" not in errors
    assert left(process.pid) == []
    daemon.settled()


def test_the_next_one_sweeps_what_a_killed_one_left(daemon: Daemon) -> None:
    process = prove(daemon)
    wait_until(lambda: len(left(process.pid)) == 2)
    process.kill()
    process.communicate()
    daemon.settled()
    assert len(left(process.pid)) == 2
    following = prove(daemon)
    wait_until(lambda: left(process.pid) == [])
    following.terminate()
    finished(following)
    assert left(following.pid) == []


def test_without_a_daemon_nothing_is_made(tmp_path: Path) -> None:
    command = [str(PYTHON), "-m", "monitor.cli.rictl", "doctor", "--prove"]
    environment = {"RI_SOCKET": str(tmp_path / "none"), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 3
    assert "cannot reach the daemon" in done.stderr


def test_bad_users_are_refused(daemon: Daemon) -> None:
    for name in ("root", "no-such-user", "a\x1bb"):
        done = daemon.rictl("doctor", "--prove", "--user", name)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    for options in (["--user", "nobody"], ["--row", "22"], ["--prove", "--row", "9999"]):
        assert daemon.rictl("doctor", *options).returncode == 2

# SPDX-License-Identifier: Apache-2.0
"""The keeper alone, with small workers: what it holds, and how it starts them again."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import ROOT
from tests.support.daemon import wait_until

PRELUDE = """
import os, signal, socket, sys, time
from monitor.daemon.kept import Kept
kept = Kept.from_environment()
"""


class Kept:
    """A keeper process whose worker is a script of the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, worker: str, loader: str = "pass", **environment: str) -> None:
        script = self.folder / "worker.py"
        script.write_text(PRELUDE + worker)
        settings: dict[str, Any] = {
            "loader": [sys.executable, "-c", loader],
            "worker": [sys.executable, str(script)],
            "environment": {"PYTHONPATH": str(ROOT), "FOLDER": str(self.folder)},
            "listen": {name: str(self.folder / f"{name}.sock") for name in ("api", "launch")},
            "lock": str(self.folder / "lock"),
        }
        keeper = ROOT / "monitor" / "daemon" / "keeper.py"
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(keeper), json.dumps(settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def lines(self, name: str = "log") -> list[str]:
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.communicate()


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.stop()


KEEPS = """
found = kept.fetch()
with open(os.environ["FOLDER"] + "/log", "a") as log:
    print(",".join(sorted(found)), file=log)
if "pipe" in found:
    os.write(found["pipe"], b"from the second")
    kept.drop("pipe")
    kept.ready()
    assert "pipe" not in kept.fetch()
    time.sleep(60)
read_end, write_end = os.pipe()
kept.store("pipe", write_end)
kept.store("read", read_end)
kept.ready()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_descriptors_outlive_a_killed_worker(keeper: Kept) -> None:
    keeper.start(KEEPS)
    wait_until(lambda: len(keeper.lines()) == 2)
    assert keeper.lines() == [
        "listen.api,listen.launch",
        "listen.api,listen.launch,pipe,read",
    ]
    keeper.stop()
    assert keeper.process.returncode == 0


def test_connections_wait_while_no_worker_runs(keeper: Kept) -> None:
    keeper.start(
        """
kept.ready()
found = kept.fetch()
first = not os.path.exists(os.environ["FOLDER"] + "/log")
open(os.environ["FOLDER"] + "/log", "a").close()
if first:
    os.kill(os.getpid(), signal.SIGKILL)
connection, _ = socket.socket(fileno=found["listen.api"]).accept()
connection.sendall(b"hello")
time.sleep(60)
"""
    )
    wait_until((keeper.folder / "log").exists)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(keeper.folder / "api.sock"))
        client.settimeout(10)
        assert client.recv(5) == b"hello"


def test_a_worker_that_keeps_dying_is_not_started_in_a_tight_loop(keeper: Kept) -> None:
    keeper.start(
        """
kept.ready()
with open(os.environ["FOLDER"] + "/log", "a") as log:
    print("start", file=log)
os._exit(1)
"""
    )
    time.sleep(2.5)
    assert 2 <= len(keeper.lines()) <= 6


@pytest.mark.parametrize(
    ("worker", "loader", "status"),
    [
        pytest.param("sys.exit(3)", "pass", 3, id="worker refuses"),
        pytest.param("kept.ready()", "import sys; sys.exit(4)", 4, id="loader refuses"),
    ],
)
def test_a_daemon_that_cannot_start_says_so(
    keeper: Kept, worker: str, loader: str, status: int
) -> None:
    keeper.start(worker, loader)
    assert keeper.process.wait(10) == status
    assert keeper.process.stdout is not None
    assert keeper.process.stdout.read() == ""


def test_a_second_keeper_of_the_same_folder_is_refused(keeper: Kept) -> None:
    keeper.start("kept.ready()\ntime.sleep(60)")
    assert keeper.process.stdout is not None
    assert keeper.process.stdout.readline() == "ready\n"
    second = Kept(keeper.folder)
    second.start("kept.ready()\ntime.sleep(60)")
    try:
        assert second.process.wait(10) == 1
        assert second.process.stderr is not None
        assert "a daemon runs already" in second.process.stderr.read()
    finally:
        second.stop()


def test_the_service_manager_is_told(keeper: Kept) -> None:
    path = keeper.folder / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        keeper.start(
            "kept.ready()\nkept.status('2 sessions')\ntime.sleep(60)", NOTIFY_SOCKET=str(path)
        )
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STATUS=2 sessions"]
        keeper.process.terminate()
        assert manager.recv(100) == b"STOPPING=1"


def test_a_stubborn_worker_is_killed_at_the_end(keeper: Kept) -> None:
    keeper.start("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nkept.ready()\ntime.sleep(60)")
    assert keeper.process.stdout is not None
    keeper.process.stdout.readline()
    keeper.process.send_signal(signal.SIGTERM)
    assert keeper.process.wait(20) == 1

# SPDX-License-Identifier: Apache-2.0
"""What the daemon itself costs: memory, its start, its restart, and the reading of records."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.corpus import Corpus
from bench.failure import BenchError
from demo.account import Account
from demo.governed import Daemon
from monitor.daemon.probes import pins
from monitor.daemon.probes.ring import RECORD
from monitor.kernel.ringbuffer import RingBuffer

_RATE = 20_000
_RATE_SECONDS = 5
_RESTART_SECONDS = 10.0
_HEALTHY_SECONDS = 2.5
_BACKLOG_SECONDS = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Records:
    """What reading records took: `load` of one core at `rate` records a second."""

    rate: float
    load: float
    lost: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """How fast a backlog goes, per second: out of the ring, and all the way into the log."""

    read: float
    stored: float


class UnixConnection(http.client.HTTPConnection):
    """HTTP to a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_RESTART_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _answers(daemon: Daemon) -> bool:
    connection = UnixConnection(daemon.socket)
    try:
        connection.request("GET", "/v1/sessions")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def memory_mebibytes(daemon: Daemon) -> float:
    """Resident memory of the worker."""
    for line in Path(f"/proc/{daemon.worker()}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise BenchError("the worker has no VmRSS")


def restart_milliseconds(daemon: Daemon) -> float:
    """From `kill -9` of the worker to the next one's first answer."""
    # The keeper makes one wait that died soon after its start.
    time.sleep(_HEALTHY_SECONDS)
    killed = daemon.worker()
    start = time.perf_counter()
    os.kill(killed, signal.SIGKILL)
    # Requests wait in the socket that the keeper holds; one under way is cut off and asked again.
    while not _answers(daemon):
        if time.perf_counter() - start > _RESTART_SECONDS:
            raise BenchError("no worker answers after kill -9")
        time.sleep(0.002)
    return (time.perf_counter() - start) * 1e3


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def reading(
    daemon: Daemon, account: Account, corpus: Corpus, launcher: Sequence[str], programs: Path
) -> Records:
    """Open 20,000 files a second in a session that records every one, and watch the worker.

    `launcher` must use a profile with `audit: every`.
    """
    worker = daemon.worker()
    before, start = processor_seconds(worker), time.perf_counter()
    argv = [*launcher, str(programs / "loads"), "open-rate", str(corpus.tree)]
    process = account.start(
        [*argv, str(_RATE), str(_RATE_SECONDS)], cwd=corpus.workspace, errors=subprocess.PIPE
    )
    output, errors = process.communicate(timeout=60)
    if process.returncode:
        raise BenchError(f"open-rate: exit status {process.returncode}: {errors.strip()}")
    # What is still in the ring is read within a moment, and belongs to it.
    time.sleep(0.5)
    taken = time.perf_counter() - start
    used = processor_seconds(worker) - before
    return Records(float(output.split()[-1]) / taken, used / taken, _lost(daemon))


def backlog(
    daemon: Daemon, account: Account, corpus: Corpus, launcher: Sequence[str], programs: Path
) -> Backlog:
    """Fill the ring while the worker is stopped; time a bare reader, then the worker."""
    worker = daemon.worker()
    go = corpus.workspace / "go"
    wait = f"echo up; until [ -e go ]; do sleep 0.1; done; {programs / 'loads'} open-many tree"
    process = account.start([*launcher, "sh", "-c", wait], cwd=corpus.workspace)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "up":
        raise BenchError("the session that fills the ring did not start")
    os.kill(worker, signal.SIGSTOP)
    try:
        go.touch()
        process.communicate(timeout=_BACKLOG_SECONDS)
        ring = RingBuffer(pins.current(daemon.instance) / "events")
        start = time.perf_counter()
        count = len(ring.fixed(RECORD, ring.produced).copy())
        read = count / (time.perf_counter() - start)
    finally:
        go.unlink(missing_ok=True)
        os.kill(worker, signal.SIGCONT)
    start = time.perf_counter()
    while ring.consumed != ring.produced:
        if time.perf_counter() - start > _BACKLOG_SECONDS:
            raise BenchError("the worker does not get through its backlog")
        time.sleep(0.005)
    stored = count / (time.perf_counter() - start)
    ring.close()
    return Backlog(read, stored)


def _lost(daemon: Daemon) -> int:
    lines = daemon.rictl("log", "--verb", "session.lost", "--json").splitlines()
    return len([line for line in lines if line.strip()])

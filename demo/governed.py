# SPDX-License-Identifier: Apache-2.0
"""A daemon of one's own, beside any that runs on this host, and the commands that talk to it.

The launcher is copied to where any user can read it: a checkout below /root cannot be.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.failure import DemoError

ROOT = Path(__file__).resolve().parents[1]
_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_BPFFS = Path("/sys/fs/bpf")


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running `ri-monitord`. `started_in` is the seconds from its start to `ready`."""

    instance: str
    folder: Path
    keeper: int
    started_in: float

    @property
    def socket(self) -> Path:
        return Path("/run", self.instance, "ri.sock")

    def launcher(self, *options: str) -> list[str]:
        """What goes before a command line so that it runs in a session of this daemon."""
        staged = _staged(self.instance)
        python = ["/usr/bin/python3", "-I", "-S", str(staged / "monitor/launch/ri_exec.py")]
        return ["/usr/bin/env", f"RI_SOCKET={self.socket}", *python, *options, "--"]

    def rictl(self, *arguments: str) -> str:
        """Output of `rictl`, run as root; raises DemoError when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "monitor.cli.rictl", *arguments],
            cwd=ROOT,
            env={**os.environ, "RI_SOCKET": str(self.socket)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"rictl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def worker(self) -> int:
        """The process id of the worker: the keeper's child."""
        children = Path(f"/proc/{self.keeper}/task/{self.keeper}/children").read_text().split()
        if not children:
            raise DemoError(f"the keeper (process {self.keeper}) has no worker")
        return int(children[-1])


def _staged(instance: str) -> Path:
    return Path("/run", f"{instance}-launcher")


def _stage_launcher(instance: str) -> None:
    staged = _staged(instance)
    shutil.rmtree(staged, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "monitor/launch", staged / "monitor/launch", ignore=ignored)
    shutil.copy(ROOT / "monitor/__init__.py", staged / "monitor")
    # As an installation has it: who runs it could not write what Python compiles.
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", str(staged)], check=True)
    subprocess.run(["chmod", "-R", "a+rX", str(staged)], check=True)


def _configure(instance: str, folder: Path, user: str, profiles: Sequence[Path]) -> Path:
    """Write configuration and delegations: `user` may use any profile that ships."""
    delegations = folder / "delegations.yaml"
    delegations.write_text(
        f'delegations:\n  - who: user:{user}\n    profiles: ["*"]\n    agents: ["*"]\n'
    )
    config = folder / "config.yaml"
    listed = "".join(f"  - {path}\n" for path in profiles)
    config.write_text(
        f"instance: {instance}\nstate: {folder / 'state'}\ntrust_domain: demo.invalid\n"
        f"profiles:\n{listed}delegations: {delegations}\n"
    )
    return config


@contextmanager
def daemon(
    folder: Path, user: str, instance: str = "ri-demo", profiles: Sequence[Path] = ()
) -> Iterator[Daemon]:
    """Start `ri-monitord` with its files in `folder`; stop it and unload its probes at the end.

    Raises DemoError with what the daemon printed where it does not get ready.
    """
    remove(instance)
    config = _configure(instance, folder, user, [*profiles, ROOT / "profiles"])
    _stage_launcher(instance)
    printed = folder / "daemon.txt"
    start = time.monotonic()
    with printed.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "monitor.cli.ri_monitord", "--config", str(config)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        _wait_until_ready(process, printed)
        yield Daemon(instance, folder, process.pid, time.monotonic() - start)
    finally:
        _stop(process)
        remove(instance)


def _wait_until_ready(process: subprocess.Popen[str], printed: Path) -> None:
    # The line comes, or the end of the output: a daemon that cannot start exits.
    assert process.stdout is not None
    timer = threading.Timer(_START_SECONDS, process.kill)
    timer.start()
    try:
        for line in process.stdout:
            if line.strip() == "ready":
                return
    finally:
        timer.cancel()
    process.wait()
    raise DemoError(f"ri-monitord did not get ready:\n{printed.read_text().strip()}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def remove(instance: str) -> None:
    """Take away what an instance leaves on purpose when its daemon stops: pins and cgroups."""
    shutil.rmtree(_BPFFS / instance, ignore_errors=True)
    for mount in _cgroup2_mounts():
        for folder, _, _ in os.walk(mount / instance, topdown=False):
            cgroup = Path(folder)
            if (cgroup / "cgroup.kill").exists():
                (cgroup / "cgroup.kill").write_text("1")
            _remove_cgroup(cgroup)
    for path in (_staged(instance), Path("/run", instance)):
        shutil.rmtree(path, ignore_errors=True)


def _remove_cgroup(cgroup: Path) -> None:
    for _ in range(50):
        try:
            cgroup.rmdir()
        except OSError:
            time.sleep(0.02)
        else:
            return


def _cgroup2_mounts() -> list[Path]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    fields = [line.split() for line in lines]
    return [Path(field[4]) for field in fields if field[field.index("-") + 1] == "cgroup2"]

# SPDX-License-Identifier: Apache-2.0
"""A real ri-monitord for tests: an instance of its own, and the commands that talk to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from monitor.daemon.packets.base import table_name
from monitor.kernel.cgroup import legacy_mount, unified_mount
from monitor.kernel.tracing import BPFFS
from tests.support.checkout import ROOT

PYTHON = ROOT / ".venv" / "bin" / "python"
SETTLE_SECONDS = 10.0


class User:
    """An ordinary user of this host, made for the tests."""

    def __init__(self, name: str) -> None:
        entry = pwd.getpwnam(name)
        self.name = name
        self.uid = entry.pw_uid
        self.gid = entry.pw_gid
        self.home = Path(entry.pw_dir)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("ri", timeout=30)
        self.path = path

    def connect(self) -> None:
        if self.sock is None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self.path))


@contextlib.contextmanager
def acting_as(user: User | None) -> Iterator[None]:
    """Act with the credentials of `user`: the kernel reports them to whom we connect."""
    if user is None:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


class Daemon:
    """A running ri-monitord, and the commands that talk to it."""

    def __init__(self, user: User, config: dict[str, Any] | None = None) -> None:
        self.instance = f"rit{secrets.token_hex(4)}"
        # Not under pytest's own folder: that is closed to ordinary users.
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.instance}-"))
        self.folder.chmod(0o755)
        self.user = user
        self.socket = self.folder / "run" / "ri.sock"
        self.state = self.folder / "state"
        self.profiles = self.folder / "profiles"
        self.profiles.mkdir()
        self.process: subprocess.Popen[str] | None = None
        self.delegations = self.folder / "delegations.yaml"
        self.write(self.delegations, delegations_for(user))
        self.config = self.folder / "config.yaml"
        settings = {
            "instance": self.instance,
            "socket": str(self.socket),
            "state": str(self.state),
            "trust_domain": "test.example",
            "profiles": [str(self.profiles), str(ROOT / "profiles")],
            "delegations": str(self.delegations),
            "keys": str(self.folder / "keys"),
        }
        self.write(self.config, settings | (config or {}))

    @staticmethod
    def write(path: Path, document: Any) -> None:
        """Write a file of the daemon's as YAML."""
        with path.open("w", encoding="utf-8") as file:
            YAML().dump(document, file)

    # -- its life ------------------------------------------------------------------------------

    def start(self, *wrapper: str) -> float:
        """Start (by a wrapper command) and wait for `ready`; the seconds it took."""
        began = time.monotonic()
        line = self._launch(wrapper)
        assert line == "ready\n", f"the daemon did not start:\n{self.log_text()}"
        return time.monotonic() - began

    def refuses(self, *wrapper: str) -> tuple[int, str]:
        """Start where it must not come up: (exit status, what it said)."""
        assert self._launch(wrapper) == "", "the daemon started"
        assert self.process is not None
        return self.process.wait(SETTLE_SECONDS), self.log_text()

    def _launch(self, wrapper: Sequence[str]) -> str:
        """The first line of what it prints."""
        command = [str(PYTHON), "-m", "monitor.cli.ri_monitord", "--config", str(self.config)]
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*wrapper, *command],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
            )
        assert self.process.stdout is not None
        with self.process.stdout as output:
            return output.readline()

    def log_text(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")

    def stop(self) -> int:
        """SIGTERM and wait; the exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(SETTLE_SECONDS * 2)

    def worker_pid(self) -> int:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def kill_worker(self) -> None:
        """kill -9 of the worker; returns before the next one is there."""
        os.kill(self.worker_pid(), signal.SIGKILL)

    def restart_worker(self) -> None:
        """kill -9 of the worker, and wait until the next one answers."""
        dead = self.worker_pid()
        self.kill_worker()
        self.wait_for_worker(dead)

    def wait_for_worker(self, dead: int) -> None:
        """Wait until another worker than `dead` answers."""

        def answers() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return bool(self.status()["pid"] != dead)
            return False

        wait_until(answers)

    @contextlib.contextmanager
    def without_worker(self) -> Iterator[int]:
        """No worker lives in here: it is killed, and the keeper kept from starting the next.

        Yields the pid of the dead one; at the end the next one has been waited for.
        """
        assert self.process is not None
        dead = self.worker_pid()
        self.process.send_signal(signal.SIGSTOP)
        os.kill(dead, signal.SIGKILL)
        wait_until(lambda: "State:\tZ" in Path(f"/proc/{dead}/status").read_text())
        try:
            yield dead
        finally:
            self.process.send_signal(signal.SIGCONT)
        self.wait_for_worker(dead)

    def clean(self) -> None:
        """Leave nothing of the instance on the host, whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(SETTLE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        root = unified_mount() / self.instance
        if root.exists():
            (root / "cgroup.kill").write_text("1")
            wait_until(lambda: "populated 0" in (root / "cgroup.events").read_text())
        for mount in (unified_mount(), legacy_mount("pids"), legacy_mount("memory")):
            if mount is not None and (mount / self.instance).is_dir():
                for folder, _names, _files in os.walk(mount / self.instance, topdown=False):
                    os.rmdir(folder)  # noqa: PTH106 - as os.walk names it
        for name in (self.instance, f"{self.instance}.check"):
            table = ["nft", "delete", "table", "inet", table_name(name)]
            subprocess.run(table, capture_output=True)  # it is there where the daemon was killed
        shutil.rmtree(BPFFS / self.instance, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- what a test does with it --------------------------------------------------------------

    def profile(self, name: str, text: str) -> str:
        """Put a profile where the daemon finds it; its name."""
        (self.profiles / f"{name}.yaml").write_text(f"name: {name}\n{text}", encoding="utf-8")
        return name

    def exec_command(
        self, profile: str | None, argv: Sequence[str | Path], *options: str, observe: bool = False
    ) -> list[str]:
        """The command line of ri-exec."""
        command = ["/usr/bin/python3", "-I", "-S", str(ROOT / "monitor" / "launch" / "ri_exec.py")]
        command += ["--profile", profile] if profile else []
        command += ["--observe"] if observe else []
        return [*command, *options, "--", *map(str, argv)]

    def spawn(
        self,
        profile: str | None,
        argv: Sequence[str | Path],
        *options: str,
        user: User | None = None,
        observe: bool = False,
        **more: Any,
    ) -> subprocess.Popen[str]:
        """Start ri-exec as `user` (the daemon's own by default); pipes unless `more` says else."""
        who = user or self.user
        arguments: dict[str, Any] = {
            "user": who.uid,
            "group": who.gid,
            "extra_groups": [],
            "cwd": who.home,
            "env": self.environment(who),
            "text": True,
            "errors": "surrogateescape",  # names that a session made may be any bytes
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        command = self.exec_command(profile, argv, *options, observe=observe)
        return subprocess.Popen(command, **(arguments | more))

    def exec(
        self,
        profile: str | None,
        argv: Sequence[str | Path],
        *options: str,
        user: User | None = None,
        observe: bool = False,
        timeout: float = 60.0,
        **more: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run ri-exec to its end."""
        process = self.spawn(profile, argv, *options, user=user, observe=observe, **more)
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def environment(self, user: User) -> dict[str, str]:
        return {
            "RI_SOCKET": str(self.socket),
            "HOME": str(user.home),
            "USER": user.name,
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
        }

    def request(
        self, method: str, path: str, body: Any = None, user: User | None = None
    ) -> tuple[int, Any]:
        """One API request, as root or as `user`: (status, decoded body)."""
        connection = UnixConnection(self.socket)
        with acting_as(user):
            connection.connect()
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if response.getheader("Content-Type", "").startswith("application/json"):
            return response.status, json.loads(data)
        return response.status, data.decode()

    def status(self) -> dict[str, Any]:
        status, body = self.request("GET", "/v1/status")
        assert status == 200, body
        return dict(body)

    def doctor(self) -> dict[str, Any]:
        status, body = self.request("GET", "/v1/doctor")
        assert status == 200, body
        return dict(body)

    def details(self, number: int) -> dict[str, Any]:
        """The details of one record."""
        status, body = self.request("GET", f"/v1/records/{number}")
        assert status == 200, body
        return dict(body["record"]["details"])

    def launched(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """The session that `process`, a ri-exec, runs, once CMD runs in it."""
        found: list[dict[str, Any]] = []

        def runs() -> bool:
            assert process.poll() is None, process.communicate()
            found[:] = [
                session
                for session in self.sessions()
                if session["state"] == "running" and _parent(session["pid"]) == process.pid
            ]
            return bool(found)

        wait_until(runs)
        return found[0]

    def cgroup(self, session: str) -> Path:
        return unified_mount() / self.instance / session

    def records(self, user: User | None = None, **filters: str | float) -> list[dict[str, Any]]:
        """What `GET /v1/records` answers."""
        query = "&".join(f"{name}={value}" for name, value in filters.items())
        status, body = self.request("GET", f"/v1/records?{query}", user=user)
        assert status == 200, body
        return list(body["records"])

    def sessions(self, everything: bool = False, user: User | None = None) -> list[dict[str, Any]]:
        status, body = self.request("GET", f"/v1/sessions?all={int(everything)}", user=user)
        assert status == 200, body
        return list(body["sessions"])

    def settled(self) -> None:
        """Wait until every session has ended and been taken down."""
        wait_until(lambda: not self.sessions())

    def rictl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"RI_SOCKET": str(self.socket), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        return subprocess.run(
            [str(PYTHON), "-m", "monitor.cli.rictl", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=ROOT,
            env=environment,
        )

    def rictl_as(self, user: User, *arguments: str) -> subprocess.CompletedProcess[str]:
        """rictl as `user`, in their home."""
        return subprocess.run(
            [str(PYTHON), "-m", "monitor.cli.rictl", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=user.home,
            env=self.environment(user) | {"PYTHONPATH": str(ROOT)},
            user=user.uid,
            group=user.gid,
            extra_groups=[],
        )


def _parent(pid: int) -> int:
    """The parent of a process, 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def delegations_for(user: User) -> dict[str, Any]:
    """Delegations that let `user` do everything but run as root."""
    return {
        "delegations": [
            {
                "who": f"user:{user.name}",
                "profiles": ["*"],
                "agents": ["*"],
                "observe": True,
                "profile_files": True,
                "max_ttl": "8h",
            }
        ]
    }


def wait_until(condition: Callable[[], bool], seconds: float = SETTLE_SECONDS) -> None:
    """Poll until `condition` holds; AssertionError past `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s: {condition}"
        time.sleep(0.02)

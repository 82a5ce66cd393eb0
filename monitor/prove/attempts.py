# SPDX-License-Identifier: Apache-2.0
"""Makes the attempts, each in a session of its own, and judges what came of them by the log."""

from __future__ import annotations

import os
import pwd
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from monitor.prove.case import BARE, KILLED, PYTHON, ROOT, Case, Control
from monitor.prove.scene import Scene

LAUNCHER = Path(__file__).resolve().parents[1] / "launch" / "ri_exec.py"
NO_SESSION = 125
HOST = "host"
REFUSED = 10  # programs/attempt.py
SECONDS = 60
SOON_SECONDS = 2.0  # a record is usually there by then
RECORD_SECONDS = 20.0
# What a kernel answers that was built without something.
ABSENT = {"ENOSYS", "EAFNOSUPPORT", "EPROTONOSUPPORT"}
# Before Linux 6.7 no hook sees the name of a unix socket: no session can make one.
INSTEAD = {"net.unix": "net.socket"}

# Words that a scene may lack, and why.
MISSING = {
    "setuid": "only root can prepare it",
    "delegated": "only root can prepare it",
    "namespace": "a session that root starts has no user namespace",
}

# Asks the daemon for records of an agent: by agent, verb and verdict.
Records = Callable[[str, str, str], Sequence[Mapping[str, Any]]]


class Result(Enum):
    """What became of an attempt; the last three are failures."""

    CLOSED = "closed"
    ABSENT = "absent"  # this kernel has no such thing, governed or not
    SKIPPED = "skipped"  # the scene lacks what it takes
    OPEN = "open"  # it succeeded
    UNRECORDED = "unrecorded"
    FAILED = "failed"  # no session, or the program could not try


FAILURES = (Result.OPEN, Result.UNRECORDED, Result.FAILED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """`told` is the errno's name, or the reason; `record` the id of what was recorded, 0: none."""

    case: Case
    result: Result
    told: str
    record: int = 0
    mechanism: str = ""


# What must succeed, or the refusals of the rest would show nothing.
ALLOWED = tuple(
    Case(0, title, "", program, "", None, BARE)
    for title, program in (
        ("what is allowed is reached", ("connect_tcp.py", "127.0.0.1", "{port}")),
        ("what is allowed is read", ("read_paths.py", "{own}")),
    )
)


@dataclass(frozen=True, slots=True)
class Attempts:
    """One run. `user`: whom the sessions run as where root asks for them."""

    scene: Scene
    socket: str
    user: pwd.struct_passwd
    records: Records

    def run(self, cases: Iterable[Case]) -> Iterator[Outcome]:
        """Make the attempts one after another; what cannot succeed as it should comes first."""
        label = f"prove/{secrets.token_hex(4)}"
        broken = False
        for number, case in enumerate(ALLOWED):
            done = self._govern(case, f"{label}/allowed{number}")
            if done.returncode:
                broken = True
                yield Outcome(case, Result.FAILED, _said(done))
        if broken:
            return  # refusals would show nothing
        for number, case in enumerate(cases):
            yield self._try(case, f"{label}/{number}")

    def _try(self, case: Case, agent: str) -> Outcome:
        try:
            case.command(self.scene.words)
        except KeyError as word:
            return Outcome(case, Result.SKIPPED, MISSING[word.args[0]])
        self.scene.renew(case.profile)
        try:
            done = self._govern(case, agent)
        except subprocess.TimeoutExpired:
            return Outcome(case, Result.FAILED, f"it did not end within {SECONDS} s")
        told = _refusal(case, done)
        if told is None:
            succeeded = done.stdout.rstrip().rpartition("\n")[2].startswith("DONE")
            return Outcome(case, Result.OPEN if succeeded else Result.FAILED, _said(done))
        if case.verb is None:
            return Outcome(case, Result.CLOSED, told)
        found = self._recorded(case, agent, SOON_SECONDS)
        if found is None:
            if self._is_absent(case):
                return Outcome(case, Result.ABSENT, "this kernel has no such thing")
            found = self._recorded(case, agent, RECORD_SECONDS)
        if found is None:
            return Outcome(case, Result.UNRECORDED, told)
        return Outcome(case, Result.CLOSED, told, int(found["id"]), str(found["mechanism"]))

    def _govern(self, case: Case, agent: str) -> subprocess.CompletedProcess[str]:
        """The attempt in a session of its own."""
        folder = self.scene.folder(case.profile)
        options = ["--profile", str(self._profile(case.profile)), "--agent", agent]
        options += ["--workspace", str(folder), "--purpose", f"prove: {case.title}", "--ttl", "5m"]
        if os.geteuid() == 0:
            options += ["--user", self.user.pw_name]
        command = [PYTHON, "-I", "-S", str(LAUNCHER), *options, "--"]
        return _run([*command, *case.command(self.scene.words)], folder, self._environment())

    def _profile(self, name: str) -> Path:
        path = self.scene.workspace.parent / f"{name}.yaml"
        if not path.exists():
            path.write_text(f"name: {name}\n{self.scene.profiles[name]}", encoding="utf-8")
        return path

    def _environment(self) -> dict[str, str]:
        """Nothing of the caller's own: an attempt must not depend on it."""
        return {
            "RI_SOCKET": self.socket,
            "HOME": self.user.pw_dir,
            "USER": self.user.pw_name,
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
        }

    def _recorded(self, case: Case, agent: str, seconds: float) -> Mapping[str, Any] | None:
        """The record of the attempt, waited for."""
        verb = case.verb or ""
        verdict = "allow" if case.expect == KILLED else "deny"
        deadline = time.monotonic() + seconds
        while True:
            found = [
                record
                for each in (verb, INSTEAD.get(verb))
                for record in (self.records(agent, each, verdict) if each else ())
                if self._shows(case, record)
            ]
            if found:
                # Of several names that were tried, one whose refusal is put down to us.
                return next((each for each in found if each["mechanism"] != HOST), found[0])
            if time.monotonic() > deadline:
                return None
            time.sleep(0.02)

    def _shows(self, case: Case, record: Mapping[str, Any]) -> bool:
        """Whether a record is of the attempt: interpreters are refused files of their own too."""
        what = str(record["object"])
        if case.expect == KILLED:
            return "SIGSYS" in what
        if not str(record["verb"]).startswith("file."):
            return True
        words = case.command(self.scene.words)[2:]
        places = [word for word in words if word.startswith("/")]
        return any(place in what or os.path.realpath(place) in what for place in places)

    def _is_absent(self, case: Case) -> bool:
        """Whether even without a session the kernel says that there is no such thing."""
        if case.control is Control.OBSERVE:
            return False
        others: dict[str, Any] = {}
        if os.geteuid() == 0 and case.control is not ROOT:
            others = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
        command = case.command(self.scene.words)
        free = _run(command, self.scene.folder(case.profile), self._environment(), **others)
        said = free.stdout.split()[-1:] or [""]
        return said[0] in ABSENT or free.returncode == -signal.SIGSEGV


def _refusal(case: Case, done: subprocess.CompletedProcess[str]) -> str | None:
    """How it was refused; None where it was not."""
    if case.expect == KILLED:
        killed = done.returncode == 128 + signal.SIGSYS and "DONE" not in done.stdout
        return KILLED if killed else None
    if done.returncode != REFUSED:
        return None
    told = done.stdout.rstrip().rpartition("\n")[2].removeprefix("REFUSED ")
    # Another errno than the one that is promised is refused all the same.
    return told if told == case.expect else f"{told}, not {case.expect}"


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a program's output that says most."""
    lines = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).split("\n")
    said = [line for line in lines if line.strip()] or [f"exit status {done.returncode}"]
    first = done.returncode == NO_SESSION
    return said[0 if first else -1].strip()[:200]


def _run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], **others: Any
) -> subprocess.CompletedProcess[str]:
    """Run to its end; what is still there after an exception is killed."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=SECONDS,
        check=False,
        **others,
    )

# SPDX-License-Identifier: Apache-2.0
"""Allowed and denied side by side: tables of actions that one session takes, and their records.

Each table runs twice: governed, where its answers are the expected ones and each refusal has its
record; and under --observe, where every refusal succeeds and is recorded as `would-deny`. So a test
that would pass with enforcement switched off fails.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon, User, wait_until

# What a table's actions may use. An answer is an errno, 0 where the action was done.
DRIVER = """
import ctypes, errno, fcntl, json, os, signal, socket, stat, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(ctypes.c_long(number), *arguments) < 0:
        raise OSError(ctypes.get_errno(), "system call")
def read(path):
    with open(path, "rb") as file:
        return file.read()
def write(path, flags=0):
    os.close(os.open(path, os.O_WRONLY | flags, 0o644))
def run(path, *arguments):
    child = os.fork()
    if child == 0:
        try:
            os.execv(path, [path, *arguments])
        except OSError as error:
            os._exit(error.errno)
    status = os.waitpid(child, 0)[1]
    if os.waitstatus_to_exitcode(status):
        raise OSError(os.waitstatus_to_exitcode(status), path)
def connect(host, port, kind=socket.SOCK_STREAM, family=None):
    with socket.socket(family or family_of(host), kind) as sock:
        sock.settimeout(5)
        sock.connect((host, port))
def family_of(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET
def send(host, port):
    with socket.socket(family_of(host), socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (host, port))
def bind(host, port, kind=socket.SOCK_STREAM, listen=False):
    with socket.socket(family_of(host), kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        if listen:
            sock.listen()
def unix(path, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.connect(path)
answers = {}
for name, code in json.loads(TABLE):
    try:
        exec(code, globals())
    except OSError as error:
        answers[name] = error.errno
    else:
        answers[name] = 0
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Case:
    """One action: Python for the driver, the errno it ends with, and the record of a refusal.

    `floor`: it is refused under --observe as well, because the floor does it. Not `foreseen`: the
    reference cannot tell without the file system, so that an observed session does not either.
    """

    name: str
    code: str
    errno: int = 0
    verb: str = ""
    object: str = ""
    mechanism: str = ""
    rule: str = ""
    floor: bool = False
    foreseen: bool = True


@dataclass(frozen=True)
class Run:
    """A finished session: what the driver answered and what was recorded."""

    answers: dict[str, int]
    records: list[dict[str, Any]] = field(repr=False)
    session: dict[str, Any] = field(repr=False)

    def matching(self, **fields: str) -> list[dict[str, Any]]:
        return [
            record
            for record in self.records
            if all(record[name] == value for name, value in fields.items())
        ]


def last_session(daemon: Daemon) -> dict[str, Any]:
    """The session that was made last; it has ended and its records are kept."""
    daemon.settled()
    return max(daemon.sessions(everything=True), key=lambda session: session["id"])


def records_of(daemon: Daemon, session: dict[str, Any]) -> list[dict[str, Any]]:
    """Every record of a session."""
    records: list[dict[str, Any]] = []
    while True:
        after = records[-1]["id"] if records else 0
        more = daemon.records(session=session["id"], after=after, limit=1000)
        if not more:
            return records
        records += more


def take(
    daemon: Daemon, profile: str, cases: Iterable[Case], *options: str, observe: bool = False,
    **more: Any,
) -> Run:  # fmt: skip
    """One session that takes the action of each case."""
    table = json.dumps([(case.name, case.code) for case in cases])
    with tempfile.TemporaryFile("w+") as script:
        script.write(f"TABLE = {table!r}\n{DRIVER}")
        script.seek(0)
        python = ["/usr/bin/python3", "-I", "-S", "-"]
        done = daemon.exec(profile, python, *options, observe=observe, stdin=script, **more)
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    session = last_session(daemon)
    return Run(json.loads(done.stdout), records_of(daemon, session), session)


def check(
    daemon: Daemon, profile: str, cases: Sequence[Case], *options: str, again: Any = None,
    **more: Any,
) -> tuple[Run, Run]:  # fmt: skip
    """Run the table governed and observed, and compare. `again` puts things back in between."""
    governed = take(daemon, profile, cases, *options, **more)
    if again is not None:
        again()
    observed = take(daemon, profile, cases, *options, observe=True, **more)
    expect(governed, {case.name: case.errno for case in cases})
    expect(observed, {case.name: case.errno if case.floor else 0 for case in cases})
    for case in cases:
        if not case.verb:
            continue
        assert not case.errno or case.mechanism, f"{case.name}: a refusal has a mechanism"
        check_record(case, governed, "deny" if case.errno else "allow", case.mechanism)
        if case.floor:
            check_record(case, observed, "deny", case.mechanism)
        elif case.errno and case.foreseen:
            check_record(case, observed, "would-deny", case.mechanism)
        elif not case.errno:
            check_record(case, observed, "allow", case.mechanism)
    return governed, observed


def expect(run: Run, answers: dict[str, int]) -> None:
    """AssertionError that names each case whose answer is another one."""
    wrong = {
        name: f"{_name(run.answers[name])}, not {_name(number)}"
        for name, number in answers.items()
        if run.answers[name] != number
    }
    assert not wrong, wrong


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number)) if number else "done"


def check_record(case: Case, run: Run, verdict: str, mechanism: str) -> None:
    about = run.matching(verb=case.verb, object=case.object)
    shown = [(record["verdict"], record["mechanism"], record["rule"]) for record in about]
    near = [(record["verb"], record["object"], record["verdict"], record["mechanism"])
            for record in run.records
            if record["verb"] == case.verb or record["object"] == case.object]  # fmt: skip
    found = [
        record
        for record in about
        if record["verdict"] == verdict
        and mechanism in {"", record["mechanism"]}
        and case.rule in record["rule"]
    ]
    assert found, (case.name, verdict, mechanism, case.rule, shown, near[-12:])
    for record in found:
        assert record["chain"] == run.session["chain"]
        assert "\n" not in record["reason"]
        assert record["reason"]


@contextmanager
def area(user: User) -> Iterator[Path]:
    """A folder of `user`'s outside of home and workspace."""
    folder = Path(tempfile.mkdtemp(prefix="ri-area-", dir="/var/tmp"))
    folder.chmod(0o755)
    os.chown(folder, user.uid, user.gid)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def make(user: User, base: Path, *names: str) -> None:
    """Files (folders where a name ends in /) of `user`'s under `base`."""
    for name in names:
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(f"{name}\n")
    for path in (base, *base.rglob("*")):
        os.chown(path, user.uid, user.gid, follow_symlinks=False)


__all__ = ["Case", "Run", "area", "check", "errno", "last_session", "make", "records_of", "take",
           "wait_until"]  # fmt: skip

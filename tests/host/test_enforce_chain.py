# SPDX-License-Identifier: Apache-2.0
"""A profile that extends another only narrows: every link must allow, in every mechanism."""

from __future__ import annotations

import errno
import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.sides import Case, area, check, last_session, make, records_of, take

EACCES, EPERM, EROFS = errno.EACCES, errno.EPERM, errno.EROFS


@pytest.fixture(scope="module")
def place(daemon: Daemon) -> Iterator[Path]:
    with area(daemon.user) as folder:
        make(daemon.user, folder, "both/file", "outer/file", "inner/file", "both/masked-outer",
             "both/masked-inner")  # fmt: skip
        for name in ("both", "outer", "inner"):
            shutil.copy("/usr/bin/true", folder / name / "tool")
        make(daemon.user, folder)
        yield folder


@pytest.fixture(scope="module")
def listening() -> Iterator[list[int]]:
    """Three ports that somebody listens on: of both links, of the outer one, of the inner one."""
    with ExitStack() as stack:
        found = []
        for _ in range(3):
            sock = stack.enter_context(socket.socket())
            sock.bind(("127.0.0.1", 0))
            sock.listen(64)
            found.append(sock.getsockname()[1])
        yield found


def write_profiles(daemon: Daemon, place: Path, listening: list[int]) -> str:
    both, outer, inner = listening
    daemon.profile(
        "outer",
        f"""
include: [base]
files:
  read: [{place}/both/**, {place}/outer/**]
  write: [{place}/both/**, {place}/outer/**]
  execute: [{place}/both/**, {place}/outer/**]
  read_only: [{place}/both/masked-outer]
network:
  connect: ["127.0.0.1:{both}", "127.0.0.1:{outer}"]
  unix: [/run/ri-both, /run/ri-outer]
limits: {{ttl: 1h, processes: 20, open_files: 100}}
environment:
  scrub: [OUTER_SCRUBS]
  set: {{WHO: outer, FROM_OUTER: "1"}}
  keep: ["*_KEPT", "FOR_*"]
""",
    )
    return daemon.profile(
        "inner",
        f"""
extends: outer
include: [base]
files:
  read: [{place}/both/**, {place}/inner/**]
  write: [{place}/both/**, {place}/inner/**]
  execute: [{place}/both/**, {place}/inner/**]
  read_only: [{place}/both/masked-inner]
network:
  connect: ["127.0.0.1:{both}", "127.0.0.1:{inner}"]
  unix: [/run/ri-both, /run/ri-inner]
limits: {{ttl: 30m, processes: 40, open_files: 50}}
environment: {{scrub: [INNER_SCRUBS], set: {{WHO: inner}}, keep: [INNER_KEPT, "FOR_*"]}}
""",
    )


def cases(p: Path, listening: list[int]) -> list[Case]:
    table = [
        Case("both: read", f"read('{p}/both/file')", 0, "file.open", f"{p}/both/file"),
        Case("both: write", f"write('{p}/both/file')", 0, "file.write", f"{p}/both/file"),
        Case("both: run", f"run('{p}/both/tool')", 0, "proc.exec", f"{p}/both/tool"),
        Case("masked by outer", f"write('{p}/both/masked-outer')", EROFS, "file.write",
             f"{p}/both/masked-outer", "view", "files.read_only"),
        Case("masked by inner", f"write('{p}/both/masked-inner')", EROFS, "file.write",
             f"{p}/both/masked-inner", "view", "files.read_only"),
        Case("both: connect", f"connect('127.0.0.1', {listening[0]})", 0, "net.connect",
             f"127.0.0.1:{listening[0]}/tcp"),
    ]  # fmt: skip
    for number, link in enumerate(("outer", "inner"), 1):
        table += [
            Case(f"{link}: read", f"read('{p}/{link}/file')", EACCES, "file.open",
                 f"{p}/{link}/file", "landlock"),
            Case(f"{link}: write", f"write('{p}/{link}/file')", EROFS, "file.write",
                 f"{p}/{link}/file", "view"),
            Case(f"{link}: run", f"run('{p}/{link}/tool')", EACCES, "proc.exec",
                 f"{p}/{link}/tool", "landlock"),
            Case(f"{link}: connect", f"connect('127.0.0.1', {listening[number]})", EPERM,
                 "net.connect", f"127.0.0.1:{listening[number]}/tcp", "cgroup-bpf"),
        ]  # fmt: skip
    return table


def test_every_link_must_allow(daemon: Daemon, place: Path, listening: list[int]) -> None:
    name = write_profiles(daemon, place, listening)
    governed, _observed = check(daemon, name, cases(place, listening))
    # Each refusal says whose rules were too narrow: what `outer` alone lists, `inner` refuses.
    for record in governed.records:
        if record["verdict"] == "deny" and f"{place}/outer/" in record["object"]:
            assert "of inner " in record["reason"], record["reason"]
        if record["verdict"] == "deny" and f"{place}/inner/" in record["object"]:
            assert "of outer " in record["reason"], record["reason"]


def test_unix_names_are_a_conjunction(daemon: Daemon, place: Path, listening: list[int]) -> None:
    name = write_profiles(daemon, place, listening)
    table = [
        Case("both", "unix('/run/ri-both')", errno.ENOENT),
        Case("outer", "unix('/run/ri-outer')", EPERM),
        Case("inner", "unix('/run/ri-inner')", EPERM),
    ]
    assert take(daemon, name, table).answers == {case.name: case.errno for case in table}
    observed = take(daemon, name, table, observe=True)
    assert set(observed.answers.values()) == {errno.ENOENT}
    alone = take(daemon, "outer", table[:2])
    assert set(alone.answers.values()) == {errno.ENOENT}


FACTS = """
import json, os, resource
count = 0
try:
    while count < 60:
        if os.fork() == 0:
            import time
            time.sleep(30)
            os._exit(0)
        count += 1
except OSError:
    pass
print(json.dumps({"environ": dict(os.environ), "forks": count,
    "files": resource.getrlimit(resource.RLIMIT_NOFILE)}))
"""


def test_limits_and_environment(daemon: Daemon, place: Path, listening: list[int]) -> None:
    """The least of each limit; kept is what every link keeps, scrubbed what any scrubs.

    What an outer link sets no inner one sets otherwise.
    """
    name = write_profiles(daemon, place, listening)
    names = ("INNER_SCRUBS", "OUTER_SCRUBS", "INNER_KEPT", "OUTER_KEPT", "FOR_BOTH")
    environment = daemon.environment(daemon.user) | dict.fromkeys(names, "1")
    command = ["/usr/bin/python3", "-I", "-S", "-c", FACTS]
    done = daemon.exec(name, command, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    session = last_session(daemon)
    assert 15 <= found["forks"] < 20
    assert found["files"] == [50, 50]
    assert abs(session["expires"] - session["created"] - 1800) < 1
    environ = found["environ"]
    assert {each for each in names if each in environ} == {"INNER_KEPT", "FOR_BOTH"}
    assert environ["WHO"] == "outer"
    assert environ["FROM_OUTER"] == "1"


def test_a_wide_profile_does_not_widen_what_it_extends(daemon: Daemon, place: Path) -> None:
    daemon.profile("nothing", "files: {read: [/usr/**, /lib/**, /lib64/**, /etc/ld.so.cache], "
                   "execute: [/usr/**, /lib/**, /lib64/**]}\n")  # fmt: skip
    name = daemon.profile(
        "greedy",
        "extends: nothing\nfiles: {read: [/**], write: [/**], execute: [/**]}\n"
        "network: {connect: ['any:*', 'any:*/udp'], bind: ['any:*']}\n",
    )
    table = [
        Case("read", f"read('{place}/both/file')", EACCES, "file.open", f"{place}/both/file",
             "landlock"),
        Case("write", f"write('{place}/both/file')", EROFS, "file.write", f"{place}/both/file",
             "view"),
        Case("socket", "socket.socket().close()", EPERM, "net.socket"),
        Case("system", "read('/usr/bin/true')", 0, "file.open", "/usr/bin/true"),
    ]  # fmt: skip
    governed = take(daemon, name, table)
    assert governed.answers["read"] == EACCES
    assert governed.answers["write"] == EROFS
    assert governed.answers["socket"] in {EPERM, EACCES, errno.EAFNOSUPPORT}
    assert governed.answers["system"] == 0
    observed = take(daemon, name, table, observe=True)
    assert set(observed.answers.values()) == {0}


def test_a_section_that_is_absent_is_taken_over(daemon: Daemon, place: Path) -> None:
    """What the inner profile says nothing about is the outer one's, not nothing."""
    daemon.profile("given", f"include: [base]\nfiles: {{read: [{place}/both/**]}}\n")
    name = daemon.profile("silent", "extends: given\nlimits: {processes: 50}\n")
    table = [
        Case("read", f"read('{place}/both/file')", 0, "file.open", f"{place}/both/file"),
        Case("not", f"read('{place}/outer/file')", EACCES, "file.open", f"{place}/outer/file",
             "landlock"),
    ]  # fmt: skip
    check(daemon, name, table)


def test_eight_links_at_most(daemon: Daemon) -> None:
    daemon.profile("link-1", "include: [base]\n")
    for number in range(2, 10):
        daemon.profile(f"link-{number}", f"extends: link-{number - 1}\ninclude: [base]\n")
    assert daemon.exec("link-8", ["/usr/bin/true"]).returncode == 0
    refused = daemon.exec("link-9", ["/usr/bin/true"])
    assert refused.returncode == 125
    assert "8" in refused.stderr
    session = last_session(daemon)
    assert session["profile"] == "link-8"
    assert records_of(daemon, session)[0]["verb"] == "session.launch"


@pytest.mark.parametrize(
    ("first", "second"),
    [("extends: b", "extends: a"), ("include: [b]", "include: [a]")],
    ids=["extends", "include"],
)
def test_cycles_are_refused(daemon: Daemon, first: str, second: str) -> None:
    daemon.profile("a", first + "\n")
    daemon.profile("b", second + "\n")
    done = daemon.exec("a", ["/usr/bin/true"])
    assert done.returncode == 125
    assert "a" in done.stderr
    assert "b" in done.stderr

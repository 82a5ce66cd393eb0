# SPDX-License-Identifier: Apache-2.0
"""Program rules: what files.execute grants and exec.deny takes away, by every way to start one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.sides import Case, area, check, last_session, make, records_of

EACCES = errno.EACCES

RULES = """
include: [base]
files:
  read: [{p}/**]
  write: [{p}/made/**]
  execute: [{p}/bin/**, {p}/one]
exec:
  deny: [{p}/bin/denied, /usr/bin/sleep]
"""

BY_DESCRIPTOR = """
child = os.fork()
if child == 0:
    try:
        os.execve(os.open('{path}', os.O_PATH), ['it'], {{}})
    except OSError as error:
        os._exit(error.errno)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
if status:
    raise OSError(status, 'execveat')
"""


@pytest.fixture(scope="module")
def place(daemon: Daemon) -> Iterator[Path]:
    with area(daemon.user) as folder:
        make(daemon.user, folder, "bin/", "made/", "other/")
        for name in ("bin/free", "bin/denied", "one", "two", "other/tool"):
            shutil.copy("/usr/bin/true", folder / name)
        (folder / "bin/link").symlink_to("denied")
        (folder / "bin/out").symlink_to(folder / "other/tool")
        for name, interpreter in (
            ("free-script", folder / "bin/free"),
            ("denied-script", folder / "bin/denied"),
            ("other-script", folder / "other/tool"),
        ):
            (folder / "bin" / name).write_text(f"#!{interpreter}\n")
            (folder / "bin" / name).chmod(0o755)
        make(daemon.user, folder)
        yield folder


def cases(p: Path) -> list[Case]:
    execute, deny = "files.execute", "exec.deny"
    return [
        Case("granted", f"run('{p}/bin/free')", 0, "proc.exec", f"{p}/bin/free", rule=execute),
        Case("granted alone", f"run('{p}/one')", 0, "proc.exec", f"{p}/one", rule=execute),
        Case("not granted", f"run('{p}/two')", EACCES, "proc.exec", f"{p}/two", "landlock"),
        Case("not granted, elsewhere", f"run('{p}/other/tool')", EACCES, "proc.exec",
             f"{p}/other/tool", "landlock"),
        Case("by a link", f"run('{p}/bin/out')", EACCES),
        Case("by descriptor", BY_DESCRIPTOR.format(path=p / "two"), errno.EPERM, floor=True),
        Case("as an interpreter", f"run('{p}/bin/other-script')", EACCES),
        Case("a script", f"run('{p}/bin/free-script')", 0, "proc.exec", f"{p}/bin/free"),
        Case("of the system", "run('/usr/bin/true')", 0, "proc.exec", "/usr/bin/true",
             rule=execute),
        Case("denied", f"run('{p}/bin/denied')", EACCES, "proc.exec", f"{p}/bin/denied", "view",
             deny),
        Case("denied, of the system", "run('/usr/bin/sleep', '0')", EACCES, "proc.exec",
             "/usr/bin/sleep", "view", deny),
        Case("denied by another name", f"run('{p}/bin/../bin/./denied')", EACCES),
        Case("denied by a link", f"run('{p}/bin/link')", EACCES),
        Case("denied by a link of its own",
             f"os.symlink('{p}/bin/denied', '{p}/made/link')\nrun('{p}/made/link')", EACCES),
        Case("denied by /proc", f"run('/proc/self/root{p}/bin/denied')", EACCES),
        Case("denied by descriptor", BY_DESCRIPTOR.format(path=p / "bin/denied"),
             errno.EPERM, floor=True),
        Case("denied as an interpreter", f"run('{p}/bin/denied-script')", EACCES),
        Case("denied may be read", f"read('{p}/bin/denied')", 0, "file.open", f"{p}/bin/denied"),
        Case("what is written does not run",
             f"write('{p}/made/tool', os.O_CREAT)\nos.chmod('{p}/made/tool', 0o755)\n"
             f"run('{p}/made/tool')", EACCES, "proc.exec", f"{p}/made/tool", "landlock"),
    ]  # fmt: skip


def test_each_way_to_start_a_program(daemon: Daemon, place: Path) -> None:
    name = daemon.profile("exec", RULES.format(p=place))

    def again() -> None:
        for entry in (place / "made").iterdir():
            entry.unlink()
        # Observed, the empty file is started: it must be a program.
        shutil.copy("/usr/bin/true", place / "made/tool")
        (place / "made/tool").chmod(0o755)
        os.chown(place / "made/tool", daemon.user.uid, daemon.user.gid)

    check(daemon, name, cases(place), again=again)


def test_no_other_name_can_be_made_for_what_is_taken_away(daemon: Daemon, place: Path) -> None:
    """The mask is a mount: no link leaves it. (One that stands at launch is another name.)"""
    rules = RULES.replace("[{p}/made/**]", "[{p}/made/**, {p}/bin/**]")
    name = daemon.profile("exec-links", rules.format(p=place))
    table = [
        Case("link", f"os.link('{place}/bin/denied', '{place}/bin/hard')", errno.EXDEV,
             "file.link", f"{place}/bin/denied -> {place}/bin/hard", "view", "exec.deny"),
        Case("rename", f"os.rename('{place}/bin/denied', '{place}/bin/moved')", errno.EBUSY,
             "file.rename", f"{place}/bin/denied -> {place}/bin/moved", "view", "exec.deny"),
    ]  # fmt: skip
    check(daemon, name, table)
    (place / "bin/hard").unlink()
    (place / "bin/moved").rename(place / "bin/denied")


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        pytest.param(["{p}/bin/free"], 0, id="granted"),
        pytest.param(["{p}/two"], 126, id="not granted"),
        pytest.param(["{p}/bin/denied"], 126, id="denied"),
        pytest.param(["{p}/bin/none"], 127, id="not there"),
        pytest.param(["sh", "-c", "exit 7"], 7, id="its own status"),
        pytest.param(["sh", "-c", "kill -TERM $$"], 143, id="a signal"),
        pytest.param(["ri-no-such-program"], 127, id="not in PATH"),
    ],
)
def test_the_command_itself(daemon: Daemon, place: Path, argv: list[str], status: int) -> None:
    name = daemon.profile("exec", RULES.format(p=place))
    done = daemon.exec(name, [part.format(p=place) for part in argv])
    assert done.returncode == status, done.stderr
    if status == 126:
        assert "ri-exec" in done.stderr
        records = records_of(daemon, last_session(daemon))
        denied = [record for record in records if record["verdict"] == "deny"]
        assert [(record["verb"], record["object"]) for record in denied] == [
            ("proc.exec", argv[0].format(p=place))
        ]
        observed = daemon.exec(name, [part.format(p=place) for part in argv], observe=True)
        assert observed.returncode == 0, observed.stderr


def test_an_empty_list_runs_nothing(daemon: Daemon) -> None:
    name = daemon.profile("no-programs", "files:\n  read: [/**]\n  execute: []\n")
    done = daemon.exec(name, ["/usr/bin/true"])
    assert done.returncode == 126
    assert daemon.exec(name, ["/usr/bin/true"], observe=True).returncode == 0

# SPDX-License-Identifier: Apache-2.0
"""Rules on the arguments of a program hold for it under all of its names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon

GIT, COPY = "/usr/bin/git", "/usr/lib/git-core/git"
PUSH = {"path": GIT, "args": ["...", "push", "..."], "sha256": True, "why": "it leaves"}
REFUSED = 126

pytestmark = pytest.mark.skipif(not Path(COPY).exists(), reason="needs git as Debian ships it")


def write(daemon: Daemon, name: str, **sections: Any) -> str:
    """A profile under which git may be run, and what is in the workspace."""
    files = {
        "read": ["{workspace}/**"],
        "write": ["{workspace}/**", "/dev/null"],
        "execute": ["{workspace}/**", "/usr/**", "/lib/**", "/lib64/**"],
    }
    profile = {"name": name, "include": ["base"], "files": files}
    Daemon.write(daemon.profiles / f"{name}.yaml", profile | sections)
    return name


@pytest.fixture(scope="module")
def held(daemon: Daemon) -> str:
    return write(daemon, "no-push", exec={"deny": [PUSH]})


@pytest.fixture(scope="module")
def free(daemon: Daemon) -> str:
    return write(daemon, "may-push")


def status(daemon: Daemon, profile: str, script: str) -> int:
    """The exit status of the last command of `script`."""
    done = daemon.exec(profile, ["/bin/bash", "-c", f"{script} >/dev/null 2>&1; echo $?"])
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(
    "script",
    [
        f"{GIT} push",
        f"{GIT} -C . push origin",
        f"{COPY} push",
        "/usr/lib/git-core/git-push",
        f"(exec -a git-push {GIT})",
        f"(exec -a /x/y/git-push {COPY})",
        f"ln -sf {GIT} here; ./here push",
        f"cp {GIT} mine; ./mine push",
        f"cp {GIT} git-push; ./git-push",
        f"{GIT} push < /dev/null & wait $!",
    ],
)
def test_no_name_goes_round(daemon: Daemon, held: str, free: str, script: str) -> None:
    assert status(daemon, held, script) == REFUSED
    assert status(daemon, free, script) != REFUSED


@pytest.mark.parametrize(
    "script", [f"{GIT} --version", "/usr/lib/git-core/git-version", f"{COPY} -C / version"]
)
def test_other_calls_go_on(daemon: Daemon, held: str, script: str) -> None:
    assert status(daemon, held, script) == 0


OUTSIDE = {"path": "/usr/bin/ls", "outside": "{workspace}"}


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (".", False),
        ("-l", False),
        ("./in", False),
        ("..", True),
        ("in/../..", True),
        ("/etc", True),
        ("out", True),
        ("in/out", True),
        ("not-there", False),
        ("out/not-there", True),
        ("--ignore=/etc in", True),
        ("-I/etc in", True),
        ("-- -x", False),
    ],
)
def test_outside_of_a_folder(daemon: Daemon, arguments: str, refused: bool) -> None:
    """`out` and `in/out` are links that lead out of the workspace."""
    profile = write(daemon, "stays", exec={"deny": [OUTSIDE]})
    script = f"mkdir -p in; ln -sfn /usr out; ln -sfn /usr in/out; /usr/bin/ls {arguments}"
    assert (status(daemon, profile, script) == REFUSED) is refused

# SPDX-License-Identifier: Apache-2.0
"""Program starts in a gated session: rules on arguments, decided by the gate, held by the kernel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, wait_until

ECHO = "/usr/bin/echo"
NO_SECRET = {"path": ECHO, "args": ["...", "secret", "..."], "why": "it must not be said"}


def write(daemon: Daemon, name: str, **sections: Any) -> str:
    """A profile that lets everything be read and run, with these sections."""
    profile = {
        "name": name,
        "include": ["base"],
        "files": {
            "read": ["{workspace}/**", "/proc/**"],
            "write": ["{workspace}/**", "/dev/null"],
            "execute": ["{workspace}/**", "/usr/**", "/bin/**", "/lib/**", "/lib64/**"],
        },
    }
    Daemon.write(daemon.profiles / f"{name}.yaml", profile | sections)
    return name


@pytest.fixture(scope="module")
def quiet(daemon: Daemon) -> str:
    return write(daemon, "quiet", exec={"deny": [NO_SECRET]})


@pytest.fixture(scope="module")
def loud(daemon: Daemon) -> str:
    """The same without the rule."""
    return write(daemon, "loud")


def test_arguments_decide(daemon: Daemon, quiet: str, loud: str) -> None:
    """The same program starts with some arguments and not with others."""
    assert daemon.exec(loud, [ECHO, "a", "secret"]).stdout == "a secret\n"
    assert daemon.exec(quiet, [ECHO, "a", "word"]).stdout == "a word\n"
    refused = daemon.exec(quiet, [ECHO, "a", "secret"])
    assert refused.returncode == 126, refused.stderr
    assert refused.stdout == ""
    script = f"{ECHO} fine; {ECHO} the secret; echo $?; /usr/bin/env {ECHO} secret; echo $?"
    done = daemon.exec(quiet, ["/bin/sh", "-c", script])
    assert done.stdout == "fine\n126\n126\n", done.stderr
    record = daemon.records(session=daemon.sessions(everything=True)[-1]["id"], verdict="deny")[-1]
    assert (record["verb"], record["object"]) == ("proc.exec", ECHO)
    assert record["mechanism"] == "gate"
    assert "secret" in record["rule"] or "exec.deny" in record["rule"]

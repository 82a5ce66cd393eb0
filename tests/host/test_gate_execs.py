# SPDX-License-Identifier: Apache-2.0
"""Program starts in a gated session: rules on arguments, decided by the gate, held by the kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, User

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
def programs(daemon: Daemon) -> Path:
    """Programs that no session can write: `good` and `bad` say so, `races` races."""
    folder = daemon.folder / "programs"
    folder.mkdir()
    source = Path(__file__).parent / "programs" / "exec_races.c"
    subprocess.run(["cc", "-O1", "-pthread", "-o", folder / "races", source], check=True)
    for name in ("good", "bad"):
        code = f'#include <unistd.h>\nint main(void) {{ return write(1, "{name}\\n", {len(name) + 1}) < 0; }}'
        file = folder / f"{name}.c"
        file.write_text(code)
        subprocess.run(["cc", "-o", folder / name, file], check=True)
    folder.chmod(0o755)
    return folder


def racing(daemon: Daemon, programs: Path, **sections: Any) -> dict[str, Any]:
    """The sections of a profile under which the programs may be run."""
    return {
        "files": {
            "read": ["{workspace}/**", "/proc/**", f"{programs}/**"],
            "write": ["{workspace}/**", "/dev/null"],
            "execute": ["{workspace}/**", "/usr/**", "/lib/**", "/lib64/**", f"{programs}/**"],
        },
        **sections,
    }


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


TRIES = 700
RACES = {
    "argv-thread": ("public", "secret", ECHO, "secret"),
    "argv-vm": ("public", "secret", ECHO, "secret"),
    "path-thread": ("{programs}/good", "{programs}/bad", "-", "bad"),
    "path-vm": ("{programs}/good", "{programs}/bad", "-", "bad"),
    "symlink": ("one", "two", "-", "bad"),
}


@pytest.mark.parametrize("mode", RACES)
def test_races_gain_nothing(daemon: Daemon, programs: Path, user: User, mode: str) -> None:
    """What was decided on is what runs, however fast it is changed in between."""
    deny = {"deny": [NO_SECRET, {"path": f"{programs}/bad", "args": ["..."]}]}
    held = write(daemon, f"held-{mode}", **racing(daemon, programs, exec=deny))
    free = write(daemon, f"free-{mode}", **racing(daemon, programs))
    good, bad, program, lost = RACES[mode]
    words = [mode, str(TRIES), good, bad, program]
    words = [word.format(programs=programs) for word in words]
    for name, target in (("one", "good"), ("two", "bad")):
        link = user.home / name
        link.unlink(missing_ok=True)
        link.symlink_to(programs / target)
        os.lchown(link, user.uid, user.gid)
    won = Counter(daemon.exec(free, [programs / "races", *words]).stdout.split())
    assert won[lost] > 0, won  # there is a race to be won
    kept = Counter(daemon.exec(held, [programs / "races", *words], timeout=200).stdout.split())
    assert kept[lost] == 0, kept
    assert sum(kept.values()) == TRIES, kept
    assert len(kept) > 1, kept

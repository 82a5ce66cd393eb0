# SPDX-License-Identifier: Apache-2.0
"""Program starts in a gated session: decided by the gate, held by the kernel."""

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
        code = f'#include <stdio.h>\nint main(void) {{ return puts("{name}") < 0; }}'
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


def test_a_shared_working_directory_gains_nothing(
    daemon: Daemon, programs: Path, user: User
) -> None:
    """A rule on where arguments lead is about the directory in which the program then runs."""
    for name in ("in", "out"):
        folder = user.home / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "name").write_text(f"{name}\n")
        os.chown(folder, user.uid, user.gid)
    rule = {"path": "/usr/bin/cat", "outside": "{workspace}/in"}
    held = write(daemon, "cat-held", **racing(daemon, programs, exec={"deny": [rule]}))
    free = write(daemon, "cat-free", **racing(daemon, programs))
    words = ["folder", "300", str(user.home / "in"), str(user.home / "out"), "/usr/bin/cat"]
    won = Counter(daemon.exec(free, [programs / "races", *words]).stdout.split())
    assert won["out"] > 0, won
    kept = Counter(daemon.exec(held, [programs / "races", *words], timeout=200).stdout.split())
    assert kept["out"] == 0, kept
    # Without somebody who shares it, the rule itself.
    script = f"cd {user.home}/in && cat name; cd {user.home}/out && cat name; echo $?"
    assert daemon.exec(held, ["/bin/sh", "-c", script]).stdout == "in\n126\n"


def test_every_way_to_name_a_program(daemon: Daemon, programs: Path, user: User) -> None:
    """Links, descriptors, scripts, the loader: what counts is the file, and what it is given."""
    deny = {"deny": [NO_SECRET, {"path": f"{programs}/bad", "args": ["..."], "sha256": True}]}
    held = write(daemon, "ways-held", **racing(daemon, programs, exec=deny))
    free = write(daemon, "ways-free", **racing(daemon, programs))
    home = user.home
    shutil.copy(programs / "bad", home / "copy")
    script = home / "script"
    script.write_text(f"#!{ECHO} secret\n")
    chain = home / "chain"
    chain.write_text(f"#!{script}\n")
    for file in (home / "copy", script, chain):
        file.chmod(0o755)
        os.chown(file, user.uid, user.gid)
    memory = (
        "import os; f = os.memfd_create('m', 0); os.write(f, open('" + str(programs / "bad") + "',"
        " 'rb').read()); os.execv(f'/proc/self/fd/{f}', ['m'])"
    )
    ways = [
        [str(home / "copy")],
        [str(script)],
        [str(chain)],
        ["/usr/bin/python3", "-c", memory],
        ["/usr/bin/env", "-C", str(programs), "./../programs/bad"],
        ["/usr/bin/env", "-C", "/proc/self/cwd", ECHO, "secret"],
    ]
    for way in ways:
        passed = daemon.exec(free, way)
        assert "bad" in passed.stdout or "secret" in passed.stdout, (way, passed)
        refused = daemon.exec(held, way)
        assert refused.returncode != 0, (way, refused)
        assert "bad\n" not in refused.stdout and "secret" not in refused.stdout, (way, refused)
    loader = "/lib64/ld-linux-x86-64.so.2"
    assert daemon.exec(free, [loader, ECHO, "secret"]).stdout == "secret\n"
    refused = daemon.exec(held, [loader, ECHO, "secret"])
    assert (refused.returncode, refused.stdout) == (126, "")
    # A program that runs itself again, as many do.
    again = "import os, sys; os.execv('/proc/self/exe', ['python3', '-c', 'print(1)'])"
    assert daemon.exec(held, ["/usr/bin/python3", "-c", again]).stdout == "1\n"


def test_long_lists_of_arguments(daemon: Daemon, quiet: str) -> None:
    """All of a list is compared, up to what the kernel can; longer ones are refused."""
    code = (
        "import subprocess, sys; n = int(sys.argv[1]);"
        f"r = subprocess.run(['{ECHO}', *['word'] * n, sys.argv[2]], capture_output=True);"
        "print(r.returncode, len(r.stdout))"
    )

    def tried(count: int, last: str) -> str:
        return daemon.exec(quiet, ["/usr/bin/python3", "-c", code, str(count), last]).stdout

    assert tried(20_000, "end") == f"0 {20_000 * 5 + 4}\n"
    assert tried(20_000, "secret") != f"0 {20_000 * 5 + 7}\n"
    assert not tried(40_000, "end").startswith("0 ")


def test_a_parent_in_vfork(daemon: Daemon, quiet: str) -> None:
    """posix_spawn(3) shares memory until the child has started its program."""
    code = (
        f"import os; p = os.posix_spawn('{ECHO}', ['echo', 'fine'], os.environ);"
        "print(os.waitpid(p, 0)[1], flush=True)\n"
        f"try: os.posix_spawn('{ECHO}', ['echo', 'secret'], os.environ)\n"
        "except PermissionError: print('refused')"
    )
    assert daemon.exec(quiet, ["/usr/bin/python3", "-c", code]).stdout == "fine\n0\nrefused\n"

# SPDX-License-Identifier: Apache-2.0
"""What CMD inherits: its environment, descriptors, rights, and nothing else."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, User

PYTHON = "/usr/bin/python3"

RULES = """
include: [base]
environment:
  keep: [KEPT, "KEEP_*", SECRET_KEPT]
  scrub: ["KEEP_*_PRIVATE"]
  set: {SET: "{workspace}/value", KEPT_ELSEWHERE: replaced}
"""


def python(daemon: Daemon, profile: str, code: str, **more: Any) -> Any:
    done = daemon.exec(profile, [PYTHON, "-I", "-S", "-c", code], **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ENVIRON = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.mark.parametrize("observe", [False, True], ids=["governed", "observed"])
def test_environment(daemon: Daemon, observe: bool) -> None:
    name = daemon.profile("environment", RULES)
    given = daemon.environment(daemon.user) | {
        "KEPT": "1",
        "KEEP_THIS": "2",
        "KEEP_THIS_PRIVATE": "3",
        "OTHER": "4",
        "SECRET_KEPT": "5",
        "KEEP_SECRET": "8",
        "LD_PRELOAD": "",
        "PYTHONPATH": "/tmp",
        "GIT_DIR": "/tmp",
        "AWS_SECRET_ACCESS_KEY": "6",
        "SSH_AUTH_SOCK": "/tmp/agent",
        "KEPT_ELSEWHERE": "7",
        "LC_ALL": "C.UTF-8",
    }
    found = python(daemon, name, ENVIRON, env=given, observe=observe)
    assert found["KEPT"] == "1"
    assert found["KEEP_THIS"] == "2"
    assert found["SET"] == f"{daemon.user.home}/value"
    assert found["KEPT_ELSEWHERE"] == "replaced"
    assert found["PATH"] == given["PATH"]
    assert found["HOME"] == given["HOME"]
    # Kept by its full name, although the profile that is included scrubs such names.
    assert found["SECRET_KEPT"] == "5"
    # Scrubbed by this profile, by the one it includes, and named nowhere.
    gone = {"KEEP_THIS_PRIVATE", "KEEP_SECRET", "OTHER", "LD_PRELOAD", "PYTHONPATH", "GIT_DIR",
            "AWS_SECRET_ACCESS_KEY", "SSH_AUTH_SOCK", "RI_SOCKET"}  # fmt: skip
    assert gone & set(found) == set()


def test_names_that_are_no_names(daemon: Daemon) -> None:
    """An environment of bytes, and of entries without `=`, is nothing to fail at."""
    name = daemon.profile("environment", RULES)
    command = daemon.exec_command(name, ["/usr/bin/env"])
    environment = {os.fsencode(key): os.fsencode(value)
                   for key, value in daemon.environment(daemon.user).items()}  # fmt: skip
    environment |= {b"KEEP_\xff\xfe": b"\xfa\xfb", b"\xff\xfe": b"1", b"KEEP_NEW": b"a\nb"}
    done = subprocess.run(
        command,
        env=environment,
        cwd=daemon.user.home,
        user=daemon.user.uid,
        group=daemon.user.gid,
        extra_groups=[],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"KEEP_\xff\xfe=\xfa\xfb\n" in done.stdout
    assert b"KEEP_NEW=a\nb\n" in done.stdout
    assert b"\n\xff\xfe=" not in done.stdout


DESCRIPTORS = """
import json, os
found = {}
for name in os.listdir("/proc/self/fd"):
    try:
        found[name] = os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        pass
print(json.dumps(found))
"""


def test_no_descriptor_comes_in(daemon: Daemon, tmp_path: Path) -> None:
    """Only the three standard ones, also where the caller leaves more of them open."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with secret.open() as file, socket.socket(socket.AF_UNIX) as sock:
        kept = (file.fileno(), sock.fileno(), os.dup2(file.fileno(), 900))
        name = daemon.profile("environment", RULES)
        found = python(daemon, name, DESCRIPTORS, pass_fds=kept)
        bare = subprocess.run(
            [PYTHON, "-I", "-S", "-c", DESCRIPTORS], pass_fds=kept, capture_output=True, text=True
        )
        os.close(900)
    assert set(found) == {"0", "1", "2"}
    assert len(json.loads(bare.stdout)) == 6


STATUS = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({name: value.split() for name, value in status.items()}
    | {"cwd": os.getcwd(), "sid": os.getsid(0), "umask": os.umask(0)}))
"""


def test_rights(daemon: Daemon) -> None:
    name = daemon.profile("environment", RULES)
    found = python(daemon, name, STATUS)
    user = daemon.user
    assert found["NoNewPrivs"] == ["1"]
    assert found["Seccomp"] == ["2"]
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(found[kind][0], 16) == 0
    assert set(found["Uid"]) == {str(user.uid)}
    assert set(found["Gid"]) == {str(user.gid)}
    assert found["cwd"] == str(user.home)
    blocked, ignored = (int(found[name][0], 16) for name in ("SigBlk", "SigIgn"))
    assert blocked == 0
    # Python ignores these two by itself; make(1) starts everything with glibc's own, 32, ignored.
    by_python = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    # A shell without job control starts what it puts into the background with these ignored.
    by_a_shell = 1 << signal.SIGINT - 1 | 1 << signal.SIGQUIT - 1
    assert ignored & 0x7FFFFFFF & ~(by_python | by_a_shell) == 0


def test_setuid_programs_gain_nothing(daemon: Daemon, tmp_path: Path) -> None:
    folder = Path("/var/tmp") / f"ri-setuid-{os.getpid()}"
    folder.mkdir()
    try:
        program = folder / "id"
        program.write_bytes(Path("/usr/bin/id").read_bytes())
        program.chmod(0o4755)
        name = daemon.profile(
            "setuid", f"include: [base]\nfiles:\n  read: [{folder}/**]\n  execute: [{folder}/**]\n"
        )
        # Under --observe as well: no_new_privs is the floor's.
        for observe in (False, True):
            done = daemon.exec(name, [program, "-u"], observe=observe)
            assert done.stdout == f"{daemon.user.uid}\n"
        outside = subprocess.run(
            [program, "-u"], user=daemon.user.uid, capture_output=True, text=True
        )
        assert outside.stdout == "0\n"
    finally:
        (folder / "id").unlink()
        folder.rmdir()


def test_root_runs_as_the_user_it_names(daemon: Daemon) -> None:
    """Started by root, CMD has the named user's ids and groups, and no capability."""
    root, home = User("root"), daemon.user.home
    name = daemon.profile("environment", RULES)
    argv = [PYTHON, "-I", "-S", "-c", STATUS]
    done = daemon.exec(name, argv, "--user", daemon.user.name, user=root, cwd=home)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["Uid"]) == {str(daemon.user.uid)}
    assert set(found["Gid"]) == {str(daemon.user.gid)}
    groups = os.getgrouplist(daemon.user.name, pwd.getpwnam(daemon.user.name).pw_gid)
    assert sorted(map(int, found["Groups"])) == sorted(groups)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"):
        assert int(found[kind][0], 16) == 0
    refused = daemon.exec(name, ["/usr/bin/true"], user=root, cwd=home)
    assert refused.returncode == 125
    assert "--user" in refused.stderr


def test_run_as_root_has_no_capability(daemon: Daemon) -> None:
    name = daemon.profile("as-root", "include: [base]\nrun_as: root\n")
    done = daemon.exec(name, [PYTHON, "-I", "-S", "-c", STATUS], user=User("root"), cwd="/")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["Uid"]) == {"0"}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"):
        assert int(found[kind][0], 16) == 0

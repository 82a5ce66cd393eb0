# SPDX-License-Identifier: Apache-2.0
"""The systemd unit's restrictions leave the daemon all it needs.

systemd is not run here. What its settings mean to the kernel is done by hand, read from the unit
itself: capabilities, no_new_privs, read-only folders, umask, and system calls that fail as the
filters of the settings make them fail.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from monitor.daemon.config import Config
from monitor.kernel.libc import CLONE_NEWNS
from tests.support.checkout import ROOT
from tests.support.daemon import PYTHON, Daemon, User, wait_until

UNIT = ROOT / "packaging" / "ri-monitord.service"
# uapi/linux/sched.h
NAMESPACES = {
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "mnt": CLONE_NEWNS,
}
CLOCK = ("settimeofday", "clock_settime", "adjtimex", "clock_adjtime")
MODULES = ("init_module", "finit_module", "delete_module")
HOST_NAME = ("sethostname", "setdomainname")
SET_ID_BITS = (0o4000, 0o2000)
MODE_ARGUMENT = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "mkdir": 1, "mkdirat": 2}

CONFINE = """
set -e
mount --make-rslave /
for folder in /usr /etc /boot; do
    mount --bind "$folder" "$folder"
    mount -o remount,bind,ro "$folder"
done
mount -t tmpfs none /usr/lib/modules || true
umask "$1"
bounding="$2"
shift 2
exec setpriv --no-new-privs --inh-caps -all --bounding-set "$bounding" "$@"
"""


def settings() -> dict[str, list[str]]:
    """The unit's settings; one that stands several times has all its words."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found[name] += value.split()
    return found


def restrict() -> None:
    """Refuse system calls as the unit's settings would; run in the process that becomes it."""
    import seccomp

    unit = settings()
    rules = seccomp.SyscallFilter(seccomp.ALLOW)
    families = {socket.AddressFamily[each].value for each in unit["RestrictAddressFamilies"]}
    for family in range(64):
        if family not in families:
            argument = seccomp.Arg(0, seccomp.EQ, family)
            rules.add_rule(seccomp.ERRNO(errno.EAFNOSUPPORT), "socket", argument)
    for name, flag in NAMESPACES.items():
        if name not in unit["RestrictNamespaces"]:
            for call, index in (("unshare", 0), ("clone", 0), ("setns", 1)):
                argument = seccomp.Arg(index, seccomp.MASKED_EQ, flag, flag)
                rules.add_rule(seccomp.ERRNO(errno.EPERM), call, argument)
    rules.add_rule(seccomp.ERRNO(errno.EPERM), "setns", seccomp.Arg(1, seccomp.EQ, 0))
    rules.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    rules.add_rule(seccomp.ERRNO(errno.EPERM), "personality", seccomp.Arg(0, seccomp.NE, 0))
    for call in (*CLOCK, *MODULES, *HOST_NAME):
        rules.add_rule(seccomp.ERRNO(errno.EPERM), call)
    for call, index in MODE_ARGUMENT.items():
        for bit in SET_ID_BITS:
            argument = seccomp.Arg(index, seccomp.MASKED_EQ, bit, bit)
            rules.add_rule(seccomp.ERRNO(errno.EPERM), call, argument)
    rules.load()


def wrapper() -> list[str]:
    """The command that holds the one behind it to what the unit says."""
    unit = settings()
    capabilities = [each.removeprefix("CAP_").lower() for each in unit["CapabilityBoundingSet"]]
    bounding = ",".join(["-all", *(f"+{each}" for each in capabilities)])
    code = (
        "import os, sys; from tests.host.test_packaging_unit import restrict; restrict();"
        " os.execv(sys.argv[1], sys.argv[1:])"
    )
    confine = ["unshare", "--mount", "/bin/sh", "-c", CONFINE, "sh", *unit["UMask"], bounding]
    return [*confine, str(PYTHON), "-c", code]


@pytest.fixture(scope="module")
def held(user: User) -> Iterator[Daemon]:
    made = Daemon(user)
    try:
        made.start(*wrapper())
        yield made
    finally:
        made.clean()


def test_the_unit_takes_what_this_test_stands_for() -> None:
    unit = settings()
    yes = ("NoNewPrivileges", "ProtectKernelModules", "ProtectClock", "ProtectHostname")
    for name in (*yes, "LockPersonality", "RestrictSUIDSGID"):
        assert unit[name] == ["yes"], name
    assert unit["ProtectSystem"] == ["full"]
    assert unit["ReadWritePaths"] == [f"-{Config().keys}"]
    assert set(unit["RestrictNamespaces"]) == {"user", "mnt"}


def test_the_daemon_really_is_held_to_it(held: Daemon) -> None:
    status = Path(f"/proc/{held.worker_pid()}/status").read_text().splitlines()
    facts = dict(line.split(":\t") for line in status if ":\t" in line)
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"
    everything = Path("/proc/self/status").read_text()
    assert f"CapBnd:\t{facts['CapBnd']}" not in everything


def test_a_session_runs_is_refused_frozen_and_ended(held: Daemon, user: User) -> None:
    held.profile(
        "unit",
        'include: [base]\nfiles:\n  read: ["{workspace}/**"]\n  write: ["{workspace}/**"]\n'
        '  deny: ["{workspace}/secret"]\nnetwork:\n  connect: ["127.0.0.1:1"]\n',
    )
    (user.home / "secret").write_text("key")
    (user.home / "secret").chmod(0o644)
    done = held.exec("unit", ["/bin/sh", "-c", "cat secret; cat /etc/shadow; echo done"])
    assert done.stdout == "done\n", done.stderr
    wait_until(lambda: len(held.records(verdict="deny")) >= 2)
    mechanisms = {record["mechanism"] for record in held.records(verdict="deny")}
    assert {"view", "landlock"} <= mechanisms
    process = held.spawn("unit", ["/bin/sleep", "600"])
    wait_until(lambda: [each["state"] for each in held.sessions()] == ["running"])
    identity = held.sessions()[0]["id"]
    for verb in ("freeze", "thaw", "kill"):
        assert held.rictl(verb, identity).returncode == 0
    process.communicate(timeout=20)
    held.settled()
    assert held.rictl("doctor").returncode == 0
    assert held.rictl("log", "verify").returncode == 0


def test_programs_files_and_connections_are_asked_about(held: Daemon, user: User) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    held.profile(
        "asks",
        'include: [base]\nfiles:\n  read: ["{workspace}/**"]\n  ask: ["{workspace}/key"]\n'
        f'exec:\n  ask: [/usr/bin/id]\nnetwork:\n  ask: ["127.0.0.1:{port}"]\n',
    )
    (user.home / "key").write_text("asked\n")
    (user.home / "key").chmod(0o644)
    script = f"id -u; cat key; exec 3<>/dev/tcp/127.0.0.1/{port} && echo there"
    process = held.spawn("asks", ["/bin/bash", "-c", script])
    seen = []
    for _ask in range(3):
        wait_until(lambda: bool(held.request("GET", "/v1/asks")[1]["asks"]), 30)
        (ask,) = held.request("GET", "/v1/asks")[1]["asks"]
        seen.append(ask["verb"])
        assert held.rictl("approve", ask["id"]).returncode == 0
    output, errors = process.communicate(timeout=30)
    listener.close()
    assert output == f"{user.uid}\nasked\nthere\n", errors
    assert seen == ["proc.exec", "file.open", "net.connect"]
    (gate,) = (
        each.pid
        for each in psutil.Process(held.worker_pid()).children()
        if "monitor.daemon.gate.process" in each.cmdline()
    )
    assert os.sched_getscheduler(gate) == os.SCHED_RR


def test_the_restrictions_of_this_test_bite() -> None:
    code = (
        "import socket, errno; from tests.host.test_packaging_unit import restrict; restrict()\n"
        "try: socket.socket(socket.AF_VSOCK)\n"
        "except OSError as error: print(errno.errorcode[error.errno])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout == "EAFNOSUPPORT\n", done.stderr

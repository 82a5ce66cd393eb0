# SPDX-License-Identifier: Apache-2.0
"""What a launched child really wears, read from /proc and its cgroup before CMD may start.

The child says that it is confined; this is what the kernel says. Landlock's layers show nowhere in
/proc: their number in the facts is the child's word. Source: proc_pid_status(5),
proc_pid_fdinfo(5), uapi/linux/seccomp.h.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.kernel.cgroup import Cgroup

SECCOMP_MODE_FILTER = 2
STANDARD = {0, 1, 2}
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
PROC = Path("/proc")


class NotWorn(Exception):
    """The child does not wear what it must; the message says what was found."""


@dataclass(frozen=True, slots=True)
class Status:
    """Of /proc/PID/status, what matters here. `uids` and `gids`: real, effective, saved, fs."""

    parent: int
    tracer: int
    threads: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    no_new_privs: int
    seccomp: int
    filters: int
    capabilities: Mapping[str, int]

    @classmethod
    def read(cls, pid: int) -> Status:
        """The status of process `pid`; OSError where it is gone."""
        lines = (PROC / str(pid) / "status").read_bytes().decode("utf-8", "replace").splitlines()
        found = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}

        def numbers(name: str) -> tuple[int, ...]:
            return tuple(int(word) for word in found.get(name, ()))

        try:
            return cls(
                parent=numbers("PPid")[0],
                tracer=numbers("TracerPid")[0],
                threads=numbers("Threads")[0],
                uids=numbers("Uid"),
                gids=numbers("Gid"),
                groups=numbers("Groups"),
                no_new_privs=numbers("NoNewPrivs")[0],
                seccomp=numbers("Seccomp")[0],
                filters=numbers("Seccomp_filters")[0],
                capabilities={
                    name: int(found[name][0], 16) for name in (*CAPABILITY_SETS, "CapBnd")
                },
            )
        except (IndexError, KeyError) as error:
            # A zombie's status is shorter.
            raise ProcessLookupError(f"process {pid} has ended") from error


@dataclass(frozen=True, slots=True)
class Expected:
    """What the child must wear. `filters`: how many seccomp filters it wore before ours.

    `groups` None: the caller's own. `bounded`: its bounding set could be emptied, and must be.
    `namespace`: its mount namespace since the view was made, None without a view.
    """

    launcher: int
    uid: int
    gid: int
    groups: tuple[int, ...] | None
    filters: int
    bounded: bool
    namespace: str | None
    cgroup: Path


def namespace(pid: int) -> str:
    """The mount namespace of process `pid`, as `mnt:[NUMBER]`."""
    return str((PROC / str(pid) / "ns" / "mnt").readlink())


def check(pid: int, expected: Expected) -> dict[str, Any]:
    """The facts for the launch record. NotWorn; OSError where the process is gone."""
    status = Status.read(pid)
    mounts = namespace(pid)
    kept = _kept_descriptors(pid)
    members = Cgroup(expected.cgroup).processes()
    groups = status.groups if expected.groups is None else expected.groups
    capabilities = {name: status.capabilities[name] for name in CAPABILITY_SETS}
    if expected.bounded:
        capabilities["CapBnd"] = status.capabilities["CapBnd"]
    wanted = (
        ("parent", status.parent, expected.launcher),
        ("tracer", status.tracer, 0),
        ("threads", status.threads, 1),
        ("user ids", set(status.uids), {expected.uid}),
        ("group ids", set(status.gids), {expected.gid}),
        ("groups", set(status.groups), set(groups)),
        ("no_new_privs", status.no_new_privs, 1),
        ("seccomp mode", status.seccomp, SECCOMP_MODE_FILTER),
        ("seccomp filters", status.filters, expected.filters + 1),
        ("capabilities", capabilities, dict.fromkeys(capabilities, 0)),
        ("mount namespace", mounts, expected.namespace or mounts),
        ("descriptors kept", kept, STANDARD),
        ("processes of the cgroup", members, [pid]),
    )
    wrong = [f"{what} {found}, must be {due}" for what, found, due in wanted if found != due]
    if wrong:
        raise NotWorn("; ".join(wrong))
    return {
        "no_new_privs": True,
        "seccomp_filters": status.filters,
        "uid": expected.uid,
        "gid": expected.gid,
        "groups": sorted(set(status.groups)),
        "capabilities": {name: f"{value:x}" for name, value in status.capabilities.items()},
        "cgroup": str(expected.cgroup),
        "mount_namespace": mounts,
        "descriptors": sorted(kept),
    }


def _kept_descriptors(pid: int) -> set[int]:
    """Those that do not close when CMD is executed."""
    kept = set()
    for file in (PROC / str(pid) / "fdinfo").iterdir():
        lines = (line.partition(":") for line in file.read_text().splitlines())
        fields = {name: value for name, _, value in lines}
        if not int(fields["flags"], 8) & os.O_CLOEXEC:
            kept.add(int(file.name))
    return kept

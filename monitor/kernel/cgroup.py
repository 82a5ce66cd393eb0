# SPDX-License-Identifier: Apache-2.0
"""cgroup v2: the instance's root, sessions' cgroups, freeze, kill, and limits on processes.

The mount point is found in mountinfo: hybrid hosts have it at /sys/fs/cgroup/unified. Where the
pids or memory controller lives in a v1 hierarchy, its limit is set there. Source: cgroups(7),
Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
CONTROLLERS = ("pids", "memory")
# A session that others may run in keeps its own processes in a folder of this name, where limits
# live in cgroup v2: a cgroup there holds processes, or limits those beneath it.
OWN = "own"


def _mounts() -> list[tuple[str, str, str]]:
    """(mount point, type, super options) of every mount, from proc_pid_mountinfo(5)."""
    mounts = []
    for line in MOUNTINFO.read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split(" ", 2)
        mounts.append((before.split(" ")[4], kind, options))
    return mounts


def unified_mount() -> Path:
    """Where cgroup2 is mounted; OSError where it is not."""
    for point, kind, _options in _mounts():
        if kind == "cgroup2":
            return Path(point)
    raise FileNotFoundError("no cgroup2 file system is mounted: mount one at /sys/fs/cgroup")


def limits_are_unified() -> bool:
    """Whether limits live in cgroup v2, at least one of them."""
    return bool(
        set(CONTROLLERS) & set((unified_mount() / "cgroup.controllers").read_text().split())
    )


def legacy_mount(controller: str) -> Path | None:
    """Where `controller` is mounted as cgroup v1, or None."""
    for point, kind, options in _mounts():
        if kind == "cgroup" and controller in options.split(","):
            return Path(point)
    return None


def instance_root(instance: str) -> Path:
    """The cgroup that holds an instance's sessions; made when absent, controllers handed down."""
    mount = unified_mount()
    root = mount / instance
    root.mkdir(exist_ok=True)
    for parent in (mount, root):
        _hand_down(parent)
    return root


def _hand_down(parent: Path) -> None:
    """Let the cgroups beneath `parent` have limits, as far as those live in cgroup v2."""
    available = (parent / "cgroup.controllers").read_text().split()
    for controller in CONTROLLERS:
        if controller in available:
            (parent / "cgroup.subtree_control").write_text(f"+{controller}")


def within(instance: str, pid: int) -> Path | None:
    """The cgroup of process `pid`, where it is one beneath the instance's; OSError: it is gone."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith(f"0::/{instance}/"):
            return unified_mount() / line.removeprefix("0::/")
    return None


def holds(instance: str, pid: int) -> bool:
    """Whether process `pid` is in a session of the instance; OSError where it is gone."""
    return within(instance, pid) is not None


def announce_move() -> None:
    """Have the kernel get ready to move a process, which `Cgroup.enter` would else wait for.

    A move takes a lock that every fork and exit holds for reading (cgroup_threadgroup_rwsem). The
    first to take it waits for an RCU grace period, some 10 ms; who comes soon after does not. So
    this one moves the calling process to where it is. Blocks; meant for a thread.
    """
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            own = unified_mount() / line.removeprefix("0::").lstrip("/")
            (own / "cgroup.procs").write_text(str(os.getpid()))


def _no_limit(legacy: Path | None) -> str:
    """How a memory limit is taken off: v1 has a number for it."""
    return "max" if legacy is None else "-1"


class Cgroup:
    """One session's cgroup: `path` in the unified hierarchy, and v1 twins for limits.

    What is done to it is done to the cgroups beneath it as well.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def home(self) -> Path:
        """Where the session's own processes are."""
        own = self.path / OWN
        return own if own.is_dir() else self.path

    @property
    def id(self) -> int:
        """The id that BPF programs see of its processes: the inode number of their folder."""
        return self.home.stat().st_ino

    def create(self, *, shared: bool = False) -> None:
        """`shared`: others are to be made beneath it, with limits of their own."""
        self.path.mkdir(mode=0o755)
        if shared:
            (self.path / OWN).mkdir(mode=0o755)
            _hand_down(self.path)

    def others(self) -> list[Cgroup]:
        """The cgroups of sessions directly beneath it."""
        return [Cgroup(each) for each in self.path.iterdir() if each.is_dir() and each.name != OWN]

    def _limit_file(self, controller: str, unified: str, legacy: str) -> tuple[Path, Path | None]:
        """The limit's file, and the v1 folder that processes must join for it (None: v2)."""
        if (self.path / unified).exists():
            return self.path / unified, None
        mount = legacy_mount(controller)
        if mount is None:
            raise FileNotFoundError(f"this host has no {controller} controller to hold a limit")
        folder = mount / self.path.relative_to(unified_mount())
        return folder / legacy, folder

    def limit(self, processes: int | None, memory: int | None) -> None:
        """Set the limits; None leaves one off. Memory in bytes. Before `enter`."""
        wanted = (
            ("pids", "pids.max", "pids.max", processes),
            ("memory", "memory.max", "memory.limit_in_bytes", memory),
        )
        for controller, unified, legacy, value in wanted:
            if value is None:
                continue
            file, folder = self._limit_file(controller, unified, legacy)
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
            file.write_text(str(value))

    def relimit(self, processes: int | None, memory: int | None) -> None:
        """Set the limits of a cgroup whose processes run; None takes one off.

        FileNotFoundError: without a limit at its start, it has no v1 twin to hold one.
        """
        wanted = (
            ("pids", "pids.max", "pids.max", processes, "max"),
            ("memory", "memory.max", "memory.limit_in_bytes", memory, None),
        )
        for controller, unified, legacy, value, none in wanted:
            try:
                file, folder = self._limit_file(controller, unified, legacy)
            except FileNotFoundError:
                if value is None:
                    continue
                raise
            if folder is not None and not folder.is_dir() and value is None:
                continue
            file.write_text(str(value) if value is not None else none or _no_limit(folder))

    def _legacy_twins(self) -> list[Path]:
        relative = self.path.relative_to(unified_mount())
        mounts = (legacy_mount("pids"), legacy_mount("memory"))
        return [mount / relative for mount in mounts if mount and (mount / relative).is_dir()]

    def enter(self, pid: int) -> None:
        """Move process `pid` in (with the limits' v1 twins, where there are any)."""
        for folder in (*self._legacy_twins(), self.home):
            (folder / "cgroup.procs").write_text(str(pid))

    def processes(self) -> list[int]:
        """Its own ones."""
        return [int(line) for line in (self.home / "cgroup.procs").read_text().split()]

    def _event(self, name: str) -> bool:
        text = (self.path / "cgroup.events").read_text()
        return dict(line.split() for line in text.splitlines())[name] == "1"

    def populated(self) -> bool:
        return self._event("populated")

    def frozen(self) -> bool:
        return self._event("frozen")

    def freezing(self) -> bool:
        """Whether it was told to freeze, with or without having got there."""
        return (self.path / "cgroup.freeze").read_text().strip() == "1"

    def freeze(self) -> None:
        (self.path / "cgroup.freeze").write_text("1")

    def thaw(self) -> None:
        (self.path / "cgroup.freeze").write_text("0")

    def kill(self) -> None:
        """SIGKILL to every process, forks included (cgroup.kill, since Linux 5.14)."""
        (self.path / "cgroup.kill").write_text("1")

    def wait(self, name: str, value: bool, seconds: float) -> bool:
        """Wait until event `name` ("populated", "frozen") is `value`; False past `seconds`."""
        deadline = time.monotonic() + seconds
        while self._event(name) is not value:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True

    def remove(self) -> None:
        """Remove the cgroup and its twins; they must be empty."""
        for folder in (*self._legacy_twins(), self.path / OWN, self.path):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                continue

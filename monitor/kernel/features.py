# SPDX-License-Identifier: Apache-2.0
"""What this host's kernel can enforce: each feature is asked for, never guessed from a version."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from monitor.kernel.cgroup import legacy_mount, unified_mount
from monitor.kernel.libc import NR_BPF, NR_LANDLOCK_CREATE_RULESET, NR_SECCOMP, syscall

BTF = Path("/sys/kernel/btf/vmlinux")
USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
# Debian's and Ubuntu's switches against user namespaces of ordinary users; absent elsewhere.
USER_NAMESPACE_SWITCHES = {
    Path("/proc/sys/kernel/unprivileged_userns_clone"): "1",
    Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"): "0",
}

# uapi/linux/landlock.h
LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_ABI_TRUNCATE = 3  # without it, write rules cannot hold truncate(2)

# uapi/linux/seccomp.h
SECCOMP_GET_ACTION_AVAIL = 2
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_USER_NOTIF = 0x7FC00000

# uapi/linux/bpf.h
BPF_MAP_CREATE = 0
BPF_MAP_TYPE_RINGBUF = 27
RING_BYTES = 4096

# uapi/linux/capability.h, and what each is for.
CAPABILITIES = {
    "CAP_SYS_ADMIN": (21, "cgroups, mount namespaces and BPF programs"),
    "CAP_NET_ADMIN": (12, "cutting sockets and attaching network programs"),
    "CAP_KILL": (5, "ending sessions"),
    "CAP_SETUID": (7, "the identity maps of a session's namespace"),
    "CAP_SETGID": (6, "the identity maps of a session's namespace"),
    "CAP_SYS_CHROOT": (18, "entering the mount namespace of a session"),
    "CAP_SYS_PTRACE": (19, "reading back what a launched process wears"),
    "CAP_DAC_OVERRIDE": (1, "entering sessions of other users"),
}


@dataclass(frozen=True, slots=True)
class Features:
    """Each field says whether the kernel gives it; `landlock_abi` 0 means it has none."""

    landlock_abi: int
    seccomp: bool
    cgroup2: Path | None
    cgroup_kill: bool
    pids_limit: bool
    memory_limit: bool
    ring_buffer: bool
    btf: bool
    unix_hooks: bool
    user_namespaces: bool
    capabilities: frozenset[str]


def probe(unix_hooks: bool) -> Features:
    """Ask this kernel. `unix_hooks` comes from the loader, which reads the kernel's BTF."""
    mount = _unified()
    controllers = (mount / "cgroup.controllers").read_text().split() if mount else []
    return Features(
        landlock_abi=landlock_abi(),
        seccomp=seccomp_action(SECCOMP_RET_KILL_PROCESS),
        cgroup2=mount,
        cgroup_kill=mount is not None and _cgroup_kill(mount),
        pids_limit="pids" in controllers or legacy_mount("pids") is not None,
        memory_limit="memory" in controllers or legacy_mount("memory") is not None,
        ring_buffer=_ring_buffer(),
        btf=BTF.exists(),
        unix_hooks=unix_hooks,
        user_namespaces=_user_namespaces(),
        capabilities=_effective_capabilities(),
    )


def problems(features: Features) -> tuple[str, ...]:
    """What the daemon cannot do without, each with what to do about it; empty: all is there."""
    found = []
    if features.cgroup2 is None:
        found.append("no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup")
    elif not features.cgroup_kill:
        found.append("cgroup.kill is missing: the kernel must be 5.14 or later")
    if features.landlock_abi < LANDLOCK_ABI_TRUNCATE:
        found.append(
            f"Landlock has ABI {features.landlock_abi} and must have {LANDLOCK_ABI_TRUNCATE}:"
            " boot a kernel with CONFIG_SECURITY_LANDLOCK and `landlock` in its lsm= list"
        )
    if not features.seccomp:
        found.append("seccomp filters are missing: the kernel needs CONFIG_SECCOMP_FILTER")
    if not features.btf:
        found.append(f"{BTF} is missing: the kernel needs CONFIG_DEBUG_INFO_BTF")
    if not features.ring_buffer:
        found.append("BPF ring buffers cannot be made: run as root on a kernel with CONFIG_BPF")
    for name, (_number, purpose) in CAPABILITIES.items():
        if name not in features.capabilities:
            found.append(f"{name} is missing: it is needed for {purpose}")
    return tuple(found)


def landlock_abi() -> int:
    """The Landlock ABI, 0 where there is none or it is switched off."""
    try:
        return syscall(
            NR_LANDLOCK_CREATE_RULESET,
            None,
            ctypes.c_size_t(0),
            ctypes.c_uint32(LANDLOCK_CREATE_RULESET_VERSION),
        )
    except OSError:
        return 0


def seccomp_action(number: int) -> bool:
    """Whether a filter may answer with this action."""
    action = ctypes.c_uint32(number)
    try:
        syscall(
            NR_SECCOMP,
            ctypes.c_uint(SECCOMP_GET_ACTION_AVAIL),
            ctypes.c_uint(0),
            ctypes.byref(action),
        )
    except OSError:
        return False
    return True


def _unified() -> Path | None:
    try:
        return unified_mount()
    except OSError:
        return None


def _cgroup_kill(mount: Path) -> bool:
    """The root cgroup has no cgroup.kill, so look in any child; make one where there is none."""
    child = next((path for path in mount.iterdir() if path.is_dir()), None)
    if child is not None:
        return (child / "cgroup.kill").exists()
    child = mount / f"ri-probe-{os.getpid()}"
    child.mkdir()
    try:
        return (child / "cgroup.kill").exists()
    finally:
        child.rmdir()


def _ring_buffer() -> bool:
    attributes = (ctypes.c_uint32 * 18)(BPF_MAP_TYPE_RINGBUF, 0, 0, RING_BYTES)
    try:
        fd = syscall(
            NR_BPF,
            ctypes.c_int(BPF_MAP_CREATE),
            attributes,
            ctypes.c_uint(ctypes.sizeof(attributes)),
        )
    except OSError:
        return False
    os.close(fd)
    return True


def _user_namespaces() -> bool:
    for switch, allowing in USER_NAMESPACE_SWITCHES.items():
        if switch.exists() and switch.read_text().strip() != allowing:
            return False
    return USER_NAMESPACES.exists() and int(USER_NAMESPACES.read_text()) > 0


def _effective_capabilities() -> frozenset[str]:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            mask = int(line.split()[1], 16)
            return frozenset(
                name for name, (number, _) in CAPABILITIES.items() if mask >> number & 1
            )
    return frozenset()

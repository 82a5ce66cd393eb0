# SPDX-License-Identifier: Apache-2.0
"""The doctor's rows for what the kernel gives by itself, from its features."""

from __future__ import annotations

from monitor.daemon.api.control import Control
from monitor.kernel import sockdiag
from monitor.kernel.features import USER_NAMESPACE_SWITCHES, USER_NAMESPACES, Features

# Landlock ABIs, Documentation/userspace-api/landlock.rst
ABI_IOCTL = 5
ABI_SCOPE = 6


def floor(features: Features) -> list[Control]:
    abi = features.landlock_abi
    return [
        Control(
            "system calls",
            "seccomp",
            features.seccomp,
            "dangerous and unknown calls are refused, other architectures are killed",
            "boot a kernel with CONFIG_SECCOMP_FILTER",
            "Linux 3.5",
        ),
        Control(
            "files",
            "Landlock",
            abi > 0,
            f"read, write, truncate, by path (ABI {abi})",
            "boot a kernel with CONFIG_SECURITY_LANDLOCK and `landlock` in its lsm= list",
            "Linux 6.2",
        ),
        Control(
            "programs",
            "Landlock",
            abi > 0,
            "execve by path; a program that may be read can be run through the dynamic loader",
            "as for files",
            "Linux 5.13",
        ),
        Control(
            "device ioctl",
            "Landlock",
            abi >= ABI_IOCTL,
            "ioctl on devices only where writing is granted",
            "boot Linux 6.10 or later; until then a device that may be opened takes every ioctl"
            " but those the system call filter refuses",
            "Linux 6.10",
        ),
        Control(
            "signals, abstract sockets",
            "Landlock scope",
            abi >= ABI_SCOPE,
            "signals and abstract unix sockets stay within the session",
            "boot Linux 6.12 or later; until then a session can signal other processes of its user",
            "Linux 6.12",
        ),
        Control(
            "view",
            "mount namespace",
            features.user_namespaces,
            "deny inside an allowed tree, /run hidden, /proc with the session's own processes",
            _namespaces_missing(),
            "Linux 5.12",
        ),
        Control(
            "environment",
            "ri-exec",
            True,
            "descriptors closed, variables scrubbed, capabilities dropped, no_new_privs",
        ),
    ]


def _namespaces_missing() -> str:
    for switch, allowing in USER_NAMESPACE_SWITCHES.items():
        if switch.exists() and switch.read_text().strip() != allowing:
            name = str(switch.relative_to("/proc/sys")).replace("/", ".")
            return (
                f"user namespaces of ordinary users are forbidden: sysctl {name}={allowing}, or"
                " let the profile say `may_lack: [view]`"
            )
    if not USER_NAMESPACES.exists():
        return "boot a kernel with CONFIG_USER_NS"
    return "user namespaces are switched off: sysctl user.max_user_namespaces=65536"


def limits(features: Features) -> list[Control]:
    return [
        Control(
            "processes",
            "cgroup pids",
            features.pids_limit,
            "processes and threads of a session",
            "enable the pids controller: a profile with this limit is refused, others have none",
            "Linux 4.5",
        ),
        Control(
            "memory",
            "cgroup memory",
            features.memory_limit,
            "memory of a session",
            "enable the memory controller (cgroup_enable=memory): a profile with this limit is"
            " refused",
            "Linux 4.5",
        ),
    ]


def ending(features: Features) -> list[Control]:
    return [
        Control(
            "freeze, kill",
            "cgroup",
            features.cgroup_kill,
            "every process of a session at once, forks included",
            "boot Linux 5.14 or later",
            "Linux 5.14",
        ),
        Control(
            "cutting connections",
            "sock_diag",
            sockdiag.can_destroy(),
            "open sockets are destroyed when a session ends",
            "boot a kernel with CONFIG_INET_DIAG_DESTROY",
            "Linux 5.7",
        ),
    ]

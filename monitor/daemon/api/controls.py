# SPDX-License-Identifier: Apache-2.0
"""The controls that the doctor tells of: a row each, from what kernel and worker say.

A row that is active says what it does and since when; one that is not says what to do.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from monitor.daemon.api.control import Control
from monitor.daemon.api.floor_controls import ending, floor, limits
from monitor.daemon.context import Context
from monitor.daemon.facts import HostFacts
from monitor.daemon.probes import pins
from monitor.daemon.probes.attachments import CALL_EXITS, CGROUP_PROGRAMS, RAW_TRACEPOINTS
from monitor.kernel import fanotify
from monitor.kernel.features import (
    SECCOMP_RET_USER_NOTIF,
    Features,
    seccomp_action,
)

STAT = Path("/proc/stat")
LSM = "lsm_"  # before the names of hooks

# Names of the programs that are attached, and since when (Unix seconds).
Links = Mapping[str, float]


def every(context: Context, host: HostFacts, links: Links) -> tuple[Control, ...]:
    """All of them. What the kernel gives by itself is there since it was booted."""
    booted = boot_time()
    features = context.features
    kernel = (*floor(features), *limits(features), *ending(features))
    ours = (
        *_waiting(context),
        *_live(features, links),
        *_packets(context),
        *_names(context, links),
        *_lsm(host, links),
        *_records(context, links),
    )
    return (
        *(_since(each, booted) for each in kernel),
        *(_since(each, context.since) for each in ours),
    )


def _since(control: Control, moment: float) -> Control:
    if not control.active:
        return replace(control, active_since=None)
    return control if control.active_since else replace(control, active_since=moment)


def attached(instance: str) -> Links:
    """The programs of an instance; a pin is as old as the attachment."""
    try:
        folder = pins.current(instance)
    except FileNotFoundError:
        return {}
    found = {}
    for path in folder.iterdir():
        if path.name.startswith("link_"):
            with contextlib.suppress(OSError):  # a new version takes its place
                found[path.name.removeprefix("link_")] = path.stat().st_mtime
    return found


def boot_time() -> float:
    """When the kernel was booted, in Unix seconds; proc_stat(5), btime."""
    for line in STAT.read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _live(features: Features, links: Links) -> list[Control]:
    absent = sorted(set(CGROUP_PROGRAMS) - set(links))
    return [
        Control(
            "network",
            "cgroup-BPF",
            not absent,
            "connect, send, bind and socket by address, port and protocol; what is established"
            " ends with the session's authority",
            f"not attached: {', '.join(absent)}; restart the daemon",
            "Linux 5.8",
            max((links[name] for name in CGROUP_PROGRAMS if name in links), default=None),
        ),
        Control(
            "unix sockets",
            "cgroup-BPF",
            features.unix_hooks,
            "connect and send by the socket's name",
            "boot Linux 6.7 or later; until then only the view hides sockets, those under /run",
            "Linux 6.7",
            links.get("ri_connect_unix"),
        ),
    ]


def _records(context: Context, links: Links) -> list[Control]:
    recording = context.recording
    unseen = silent(links)
    absent = sorted(set(RAW_TRACEPOINTS) - set(links))
    calls = sum(len(calls.split()) for calls in CALL_EXITS.values())
    return [
        Control(
            "what happens is seen",
            "tracepoints",
            not absent,
            f"processes, files, network; refusals of {calls - len(unseen)} calls",
            f"not attached: {', '.join(absent)}; restart the daemon",
            "Linux 5.8",
            max((links[name] for name in RAW_TRACEPOINTS if name in links), default=None),
        ),
        Control(
            "audit log",
            "hash chain",
            not recording.problem,
            f"{recording.store.last()} records" if not recording.problem else "",
            f"{recording.problem}; {recording.waiting} records wait in memory",
        ),
    ]


def silent(links: Links) -> list[str]:
    """Calls whose exits no probe reads: this kernel does not have them."""
    return sorted(
        call
        for program, calls in CALL_EXITS.items()
        for call in calls.split()
        if f"{program}_{call}" not in links
    )


def _waiting(context: Context) -> list[Control]:
    """What is decided on while a call or an open waits."""
    gated = seccomp_action(SECCOMP_RET_USER_NOTIF)
    return [
        Control(
            "program arguments, asks",
            "seccomp notification",
            gated and context.gates.pid > 0,
            "program starts by their arguments, connections that are asked about, removed names",
            "boot a kernel with SECCOMP_RET_USER_NOTIF"
            if not gated
            else "the gate is being started again: see the daemon's standard error",
            "Linux 5.19",
        ),
        Control(
            "opens that wait, labels by files",
            "fanotify",
            _can_wait(),
            "files of `ask` and of labels, and denied names that appear after launch",
            "boot a kernel with CONFIG_FANOTIFY_ACCESS_PERMISSIONS; a profile with such rules is"
            " refused",
            "Linux 5.15",
        ),
    ]


def _can_wait() -> bool:
    try:
        os.close(fanotify.permission_group())
    except OSError:
        return False
    return True


def _packets(context: Context) -> list[Control]:
    held = context.packets
    repaired = f"; put in place again {held.repairs} times" if held.repairs else ""
    return [
        Control(
            "packets",
            "nftables",
            not held.problem,
            "what leaves and reaches the sockets of a session, under the cgroup programs; from"
            f" other hosts by network.expose only{repaired}",
            f"{held.problem}; sessions go without, as their launch records say: install"
            " python3-nftables, boot a kernel with CONFIG_NFT_SOCKET",
            "Linux 5.13",
        )
    ]


def _names(context: Context, links: Links) -> list[Control]:
    return [
        Control(
            "names",
            "resolver, cgroup-BPF",
            not context.names.problem and "ri_connect4" in links,
            "look-ups are answered by the daemon's resolver, for names that a rule lists",
            context.names.problem or "the probes are not in place: restart the daemon",
            "Linux 5.8",
            links.get("ri_connect4"),
        )
    ]


def _lsm(host: HostFacts, links: Links) -> list[Control]:
    hooks = [moment for name, moment in links.items() if name.startswith(LSM)]
    return [
        Control(
            "files, programs, sockets, as they are used",
            "BPF LSM",
            bool(hooks),
            f"{len(hooks)} hooks: by inode and name, at every use",
            _lsm_missing(host),
            "Linux 5.7",
            min(hooks, default=None),
        )
    ]


def _lsm_missing(host: HostFacts) -> str:
    """What to do, as exactly as this host lets it be said."""
    if host.lsms is None:
        return "not known: securityfs is not mounted: mount -t securityfs none /sys/kernel/security"
    if "bpf" in host.lsms:
        return "bpf is among the security modules, but no hook is attached: restart the daemon"
    # `capability` is always there and cannot be listed.
    listed = ",".join([*(each for each in host.lsms if each != "capability"), "bpf"])
    return (
        f"boot with `lsm={listed}` on the kernel command line (GRUB_CMDLINE_LINUX in"
        " /etc/default/grub, then update-grub); until then a denied name that appears after launch"
        " can be opened for a moment"
    )

# SPDX-License-Identifier: Apache-2.0
"""What this host enforces: each control, its mechanism, and what to do where it is missing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from monitor.daemon import facts
from monitor.daemon.context import Context
from monitor.daemon.probes import pins
from monitor.daemon.probes.attachments import CALL_EXITS, CGROUP_PROGRAMS, RAW_TRACEPOINTS
from monitor.kernel import sockdiag
from monitor.kernel.features import USER_NAMESPACE_SWITCHES, USER_NAMESPACES, Features, problems

# Landlock ABIs, Documentation/userspace-api/landlock.rst
ABI_IOCTL = 5
ABI_SCOPE = 6
LATER = "comes with a later release"


@dataclass(frozen=True, slots=True)
class Control:
    """One control. `since`: the kernel that first gave its mechanism; `missing`: what to do."""

    name: str
    mechanism: str
    active: bool
    detail: str = ""
    missing: str = ""
    since: str = ""


def diagnose(context: Context) -> dict[str, Any]:
    """The document of /v1/doctor."""
    host = facts.host_facts()
    links = _links(context.config.instance)
    controls = [
        *_floor(context.features),
        *_live(context.features, links),
        *_limits(context.features),
        *_ending(context.features),
        *_records(context, links),
        *_later(host),
    ]
    return {
        "controls": [asdict(control) for control in controls],
        "problems": _problems(context, links),
        "notes": _notes(context, host, links),
    }


def _links(instance: str) -> frozenset[str]:
    """Names of the programs that are attached."""
    try:
        folder = pins.current(instance)
    except FileNotFoundError:
        return frozenset()
    names = (path.name for path in folder.iterdir())
    return frozenset(name.removeprefix("link_") for name in names if name.startswith("link_"))


def _floor(features: Features) -> list[Control]:
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


def _live(features: Features, links: frozenset[str]) -> list[Control]:
    absent = sorted(set(CGROUP_PROGRAMS) - links)
    return [
        Control(
            "network",
            "cgroup-BPF",
            not absent,
            "connect, send, bind and socket by address, port and protocol; what is established"
            " ends with the session's authority",
            f"not attached: {', '.join(absent)}; restart the daemon",
            "Linux 5.8",
        ),
        Control(
            "unix sockets",
            "cgroup-BPF",
            features.unix_hooks,
            "connect and send by the socket's name",
            "boot Linux 6.7 or later; until then only the view hides sockets, those under /run",
            "Linux 6.7",
        ),
    ]


def _limits(features: Features) -> list[Control]:
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


def _ending(features: Features) -> list[Control]:
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


def _records(context: Context, links: frozenset[str]) -> list[Control]:
    recording = context.recording
    silent = _silent(links)
    absent = sorted(set(RAW_TRACEPOINTS) - links)
    calls = sum(len(calls.split()) for calls in CALL_EXITS.values())
    return [
        Control(
            "what happens is seen",
            "tracepoints",
            not absent,
            f"processes, files, network; refusals of {calls - len(silent)} calls",
            f"not attached: {', '.join(absent)}; restart the daemon",
            "Linux 5.8",
        ),
        Control(
            "audit log",
            "hash chain",
            not recording.problem,
            f"{recording.store.last()} records" if not recording.problem else "",
            f"{recording.problem}; {recording.waiting} records wait in memory",
        ),
    ]


def _silent(links: frozenset[str]) -> list[str]:
    """Calls whose exits no probe reads: this kernel does not have them."""
    return sorted(
        call
        for program, calls in CALL_EXITS.items()
        for call in calls.split()
        if f"{program}_{call}" not in links
    )


def _later(host: facts.HostFacts) -> list[Control]:
    if host.lsms is None:
        listed = "not known: securityfs is not mounted"
    else:
        listed = "bpf is in the lsm= list" if "bpf" in host.lsms else "bpf is not in the lsm= list"
    return [
        Control("program arguments", "seccomp notification", False, missing=LATER),
        Control("labels, ask", "fanotify", False, missing=LATER),
        Control("inbound packets", "nftables", False, missing=LATER),
        Control(
            "files, programs, sockets by LSM",
            "BPF LSM",
            False,
            missing=f"not used by this release ({listed}); names denied inside an allowed tree"
            " hold for what exists at launch",
        ),
    ]


def _problems(context: Context, links: frozenset[str]) -> list[str]:
    found = list(problems(context.features))
    if not links:
        found.append("the probes are not in place: restart the daemon")
    recording = context.recording
    if recording.problem:
        found.append(
            f"the audit log cannot be written: {recording.problem}; {recording.waiting} records"
            " wait in memory, and sessions that require records are frozen: make room"
        )
    if recording.store.head_problem:
        found.append(f"the head of the audit log cannot be written: {recording.store.head_problem}")
    if context.registry.problem:
        found.append(f"the state of sessions cannot be saved: {context.registry.problem}")
    if context.asks.docket.problem:
        found.append(f"asks cannot be kept over a restart: {context.asks.docket.problem}")
    found += [f"{each} (when it was last asked)" for each in context.asks.approvers.problems()]
    if context.sessions.admission.problem:
        found.append(
            "nobody may start a session, the delegations cannot be used:"
            f" {'; '.join(context.sessions.admission.problem.splitlines())}"
        )
    reload = context.sessions.reload
    found += [f"a profile cannot be used, and changes nothing: {each}" for each in reload.problems]
    unusable = context.sessions.grants.keys.problem()
    if unusable:
        found.append(f"no grant can be made or used: {unusable}")
    if recording.undecoded:
        found.append(
            f"{recording.undecoded} records could not be read or composed:"
            " a fault of the daemon's, see its standard error"
        )
    return found


def _notes(context: Context, host: facts.HostFacts, links: frozenset[str]) -> list[str]:
    notes = [f"{host.kernel} on {host.machine}, instance {context.config.instance}"]
    if host.lsms is not None:
        notes.append(f"security modules: {', '.join(host.lsms)}")
    silent = _silent(links)
    if silent:
        notes.append(
            "refusals of these calls leave no record, this kernel has no tracepoint for them:"
            f" {', '.join(silent)}"
        )
    notes.append(
        "refusals without a record: calls of other architectures (the process is killed, and its"
        " exit recorded), calls newer than this release (ENOSYS), inbound packets"
    )
    if not context.features.unix_hooks:
        notes.append("refused connections to unix sockets leave no record before Linux 6.7")
    if context.recording.lost:
        notes.append(f"{context.recording.lost} records were lost under load")
    return notes

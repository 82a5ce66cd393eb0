# SPDX-License-Identifier: Apache-2.0
"""Known ways out of an agent sandbox, one case each: what is tried, and what must come of it.

Rows are those of the project's list of bypasses; `source` says where a row is known from. Words in
braces are filled in by the test's scene.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PYTHON = "/usr/bin/python3"
MEASURED = "measured on Linux 6.18"
KILLED = "killed"


class Control(Enum):
    """How the control is switched off, to show that the attempt succeeds then."""

    OBSERVE = "observe"  # `ri-exec --observe`: no rule on files, network or programs
    BARE = "bare"  # without ri-exec, as the same user
    ROOT = "root"  # without ri-exec, as root: the host refuses it to users


@dataclass(frozen=True, slots=True)
class Case:
    """`expect`: the errno's name, or KILLED; `verb`: of the record, None where none can be made."""

    row: int
    title: str
    source: str
    program: tuple[str, ...]
    expect: str
    verb: str | None
    control: Control
    profile: str = "bypass"
    observed: bool = True  # False: what observing lets pass shows nowhere, so it is not told

    @property
    def id(self) -> str:
        return f"{self.row}-{self.title.replace(' ', '-')}"

    def command(self, scene: dict[str, str]) -> list[str]:
        name, *arguments = (word.format_map(scene) for word in self.program)
        path = f"{scene['programs']}/{name}"
        return [*([PYTHON] if name.endswith(".py") else []), path, *arguments]


OBSERVE, BARE, ROOT = Control.OBSERVE, Control.BARE, Control.ROOT

FILES = (
    # `exec.deny` takes a file away under every name, and from the loader too: the mask is mounted
    # noexec, so it cannot be mapped executable. A copy of its content is another file: see
    # docs/threat-model.md.
    Case(
        1,
        "denied program by the dynamic loader",
        "ona.com, How Claude Code escapes its own denylist and sandbox, 2026-03-03",
        ("loader.py", "/lib64/ld-linux-x86-64.so.2", "{denied}"),
        "EPERM",
        None,  # mapping is no call that is recorded
        OBSERVE,
    ),
    Case(
        2,
        "other names of a file",
        "ona.com; CoSAI sandbox-now.md",
        (
            "read_paths.py",
            "/proc/self/root{secret}",
            "/proc/self/cwd/../secret",
            "//{secret}",
            "{workspace}/../secret",
            "/proc/thread-self/root{secret}",
            "{secret}",
        ),
        "EACCES",
        "file.open",
        OBSERVE,
    ),
    Case(
        2,
        "other names of a denied program",
        "ona.com",
        (
            "run_names.py",
            "{denied}",
            "/proc/self/root{denied}",
            "//{denied}",
            "{workspace}/programs/../denied",
            "{denied}",
        ),
        "EACCES",
        "proc.exec",
        OBSERVE,
    ),
    Case(
        15,
        "symbolic link out of the workspace",
        "CVE-2026-39861; sandlock#112",
        ("symlink_out.py", "{workspace}/link", "{secret}"),
        "EACCES",
        "file.open",
        OBSERVE,
    ),
    Case(
        21,
        "move to another cgroup",
        "[reasoned] cgroupfs is writable where it was delegated",
        ("open_for_writing.py", "{delegated}"),
        "EROFS",
        "file.write",
        OBSERVE,
    ),
    Case(
        57,
        "open without access for ioctl",
        MEASURED,
        ("change_metadata.py", "mode3", "{secret}"),
        "EPERM",
        "file.write",
        BARE,
    ),
    # Neither the filter nor Landlock sees this open; what it could be used for is refused.
    Case(
        57,
        "the same with flags in memory",
        "[reasoned] openat2(2)",
        ("change_metadata.py", "mode3-openat2", "{secret}"),
        "EPERM",
        "syscall",
        BARE,
    ),
    Case(
        57,
        "fchmodat2",
        MEASURED,
        ("change_metadata.py", "fchmodat2", "{secret}"),
        "ENOSYS",
        "syscall",
        BARE,
    ),
    Case(
        57,
        "setxattrat",
        MEASURED,
        ("change_metadata.py", "setxattrat", "{secret}"),
        "ENOSYS",
        "syscall",
        BARE,
    ),
    Case(
        57,
        "file_setattr",
        MEASURED,
        ("change_metadata.py", "file_setattr", "{secret}"),
        "ENOSYS",
        "syscall",
        BARE,
    ),
    Case(
        61,
        "environment of a neighbour",
        "seen with a real agent that ran ps aux",
        ("read_paths.py", "/proc/{victim}/environ"),
        "ENOENT",
        None,  # the view shows no such process: nothing was refused
        OBSERVE,
    ),
)

NETWORK = (
    Case(
        18,
        "abstract unix socket",
        "nono#207",
        ("connect_abstract.py", "{abstract}"),
        "EPERM",
        "net.unix",
        OBSERVE,
    ),
    Case(
        22,
        "IPv6",
        "hive#4319 (5 of 5 measured); moat#317",
        ("connect_tcp.py", "::1", "{port}"),
        "EPERM",
        "net.connect",
        OBSERVE,
    ),
    Case(
        22,
        "IPv4 in an IPv6 address",
        "klangk#1936",
        ("connect_tcp.py", "::ffff:127.0.0.1", "{other}"),
        "EPERM",
        "net.connect",
        OBSERVE,
    ),
    Case(
        22,
        "datagram over IPv6",
        "hive#4319",
        ("send_udp.py", "::1", "{port}"),
        "EPERM",
        "net.send",
        OBSERVE,
    ),
    Case(
        22,
        "datagram to IPv4 in an IPv6 address",
        "klangk#1936",
        ("send_udp.py", "::ffff:127.0.0.1", "{other}"),
        "EPERM",
        "net.send",
        OBSERVE,
    ),
    Case(
        25,
        "TCP fast open",
        MEASURED,
        ("fast_open.py", "127.0.0.1", "{other}"),
        "EPERM",
        "net.connect",
        OBSERVE,
    ),
    Case(
        25,
        "TCP fast open over IPv6",
        MEASURED,
        ("fast_open.py", "::1", "{port}"),
        "EPERM",
        "net.connect",
        OBSERVE,
    ),
    Case(
        25,
        "TCP fast open to IPv4 in an IPv6 address",
        MEASURED,
        ("fast_open.py", "::ffff:127.0.0.1", "{other}"),
        "EPERM",
        "net.connect",
        OBSERVE,
    ),
    Case(
        58,
        "datagram from a socketpair to outside",
        MEASURED,
        ("pair_to_outside.py", "{datagrams}"),
        "EPERM",
        "net.unix",
        OBSERVE,
    ),
    *(
        Case(23, name, source, ("make_socket.py", *words), expect, "net.socket", control)
        for name, source, words, expect, control in (
            ("vsock", "lince#218", ("40", "1", "0"), "EAFNOSUPPORT", BARE),
            ("packet socket", "boundary PR#165", ("17", "3", "0"), "EAFNOSUPPORT", ROOT),
            ("raw socket", "sandlock#12", ("2", "3", "1"), "EPERM", ROOT),
            ("multipath TCP", "[reasoned]", ("2", "1", "262"), "EPERM", BARE),
        )
    ),
    Case(
        49,
        "UDP-Lite",
        MEASURED,
        ("make_socket.py", "2", "2", "136"),
        "EPERM",
        "net.socket",
        BARE,
    ),
    Case(
        58,
        "netlink between processes",
        MEASURED,
        ("make_socket.py", "16", "3", "2"),
        "EPERM",
        "net.socket",
        BARE,
    ),
    Case(
        50,
        "IPv6 routing header",
        f"{MEASURED}; RFC 8754",
        ("routing_header.py",),
        "EPERM",
        "syscall",
        BARE,
    ),
    Case(51, "listen without bind", MEASURED, ("listen_unbound.py",), "EPERM", "net.listen", BARE),
)

CALLS = (
    Case(
        9,
        "io_uring",
        "ARMO, Curing; srt README",
        ("io_uring.py",),
        "ENOSYS",
        "syscall",
        BARE,
    ),
    # A process that is killed cannot be told of by the call's return.
    Case(
        10,
        "ia32 system calls",
        "firejail#87; CVE-2014-4508",
        ("compat", "ia32"),
        KILLED,
        None,
        BARE,
    ),
    Case(10, "x32 system calls", "kafel#19; seccompiler#74", ("compat", "x32"), KILLED, None, BARE),
    Case(
        11,
        "upper half of an ioctl request",
        "firedancer#9185",
        ("upper_half_ioctl.py", "{own}"),
        "EPERM",
        "syscall",
        BARE,
    ),
    Case(
        11,
        "upper half of a protocol",
        "firedancer#9185",
        ("make_socket.py", "16", "3", "0x100000002"),
        "EPERM",
        "net.socket",
        BARE,
    ),
    Case(
        30,
        "program in memory by execveat",
        "OpenShell seccomp.rs",
        ("run_memfd.py", "execveat", "/usr/bin/true"),
        "EPERM",
        "proc.exec",
        BARE,
    ),
    # The standard preset leaves such memory to programs that compile as they run; docs/profiles.md.
    Case(
        30,
        "program in memory by its descriptor",
        "OpenShell seccomp.rs",
        ("run_memfd.py", "path", "/usr/bin/true"),
        "EPERM",
        "syscall",
        BARE,
        profile="bypass-strict",
    ),
    *(
        Case(31, name, source, ("look_into.py", name, "{victim}"), "EPERM", "syscall", BARE)
        for name, source in (
            ("ptrace", "OpenShell#578"),
            ("process_vm_readv", "OpenShell#578"),
            ("pidfd_getfd", "Leash known limits"),
        )
    ),
    Case(
        31,
        "memory of another process",
        "OpenShell#578",
        ("open_for_writing.py", "/proc/{victim}/mem"),
        "ENOENT",
        None,  # as for its environment
        OBSERVE,
    ),
    Case(
        33,
        "unshare",
        "codex, bwrap notes",
        ("call.py", "272", "0x10000000"),
        "EPERM",
        "syscall",
        BARE,
    ),
    Case(
        33,
        "clone a user namespace",
        "codex, bwrap notes",
        ("call.py", "56", "0x10000011", "0", "0", "0", "0"),
        "EPERM",
        "syscall",
        BARE,
    ),
    # Every new thread asks for it first and falls back: told each time, it would fill the log.
    Case(33, "clone3", "codex, bwrap notes", ("clone3.py",), "ENOSYS", None, BARE),
    Case(
        34,
        "setuid program",
        "CVEs of firejail",
        ("run_setuid.py", "{setuid}"),
        "it ran as the caller",
        None,  # it runs, without the privilege
        BARE,
    ),
    Case(35, "bpf", "Tetragon threat model", ("load_bpf.py",), "EPERM", "syscall", ROOT),
    Case(
        35, "perf_event_open", "Tetragon threat model", ("perf_event.py",), "EPERM", "syscall", BARE
    ),
    *(
        Case(row, name, source, ("keys.py", name), "EPERM", "syscall", BARE)
        for row, name, source in (
            (35, "keyctl", "Tetragon threat model"),
            (58, "add_key", MEASURED),
            (58, "request_key", MEASURED),
        )
    ),
    *(
        Case(56, name, MEASURED, ("press_on.py", name, "{victim}"), "EPERM", "syscall", BARE)
        for name in ("prlimit", "priority", "ioprio", "affinity")
    ),
    Case(
        58,
        "shared memory",
        MEASURED,
        ("call.py", "29", "0", "4096", "0x380"),
        "EPERM",
        "syscall",
        BARE,
    ),
    Case(
        59,
        "child of the launcher",
        MEASURED,
        ("call.py", "56", "0x8011", "0", "0", "0", "0"),
        "EPERM",
        "syscall",
        BARE,
    ),
    Case(
        60,
        "more ids than its own",
        "[reasoned] user_namespaces(7)",
        ("identity_map.py",),
        "one id",
        None,  # nothing is attempted: it looks
        BARE,
    ),
    Case(
        18,
        "signal to a process outside",
        "nono#207",
        ("signal_outside.py", "{victim}"),
        "EPERM",
        "proc.signal",
        OBSERVE,
        observed=False,
    ),
)

CASES = (*FILES, *NETWORK, *CALLS)

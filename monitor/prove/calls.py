# SPDX-License-Identifier: Apache-2.0
"""Ways out by system calls."""

from __future__ import annotations

from monitor.prove.case import BARE, HIDDEN, KILLED, MEASURED, OBSERVE, ROOT, STRICT, Case

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
    # A process that is killed cannot be told of by the call's return; its exit is.
    Case(
        10,
        "ia32 system calls",
        "firejail#87; CVE-2014-4508",
        ("compat.py", "ia32"),
        KILLED,
        "proc.exit",
        BARE,
    ),
    Case(
        10,
        "x32 system calls",
        "kafel#19; seccompiler#74",
        ("compat.py", "x32"),
        KILLED,
        "proc.exit",
        BARE,
    ),
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
        profile=STRICT,
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
        None,
        OBSERVE,
        unrecorded=HIDDEN,
    ),
    # Of its own faults only, as any user may.
    Case(
        32,
        "userfaultfd",
        "OpenShell, sandlock deny lists",
        ("call.py", "323", "1"),
        "EPERM",
        "syscall",
        BARE,
    ),
    Case(
        39,
        "a listener of its own",
        MEASURED,
        ("own_listener.py",),
        "EPERM",
        "syscall",
        BARE,
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
    Case(
        33,
        "clone3",
        "codex, bwrap notes",
        ("clone3.py",),
        "ENOSYS",
        None,
        BARE,
        unrecorded="every new thread asks for it first: told each time, it would fill the log",
    ),
    Case(
        34,
        "setuid program",
        "CVEs of firejail",
        ("run_setuid.py", "{setuid}"),
        "it ran as the caller",
        None,
        BARE,
        unrecorded="it runs, without the privilege",
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
        ("identity_map.py", "{namespace}"),
        "one id",
        None,
        BARE,
        unrecorded="nothing is attempted: it looks",
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

# SPDX-License-Identifier: Apache-2.0
"""Ways to files, programs and other processes that no rule lists."""

from __future__ import annotations

from monitor.prove.case import BARE, HIDDEN, MEASURED, OBSERVE, Case

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
        None,
        OBSERVE,
        unrecorded="mapping is no call that is recorded",
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
    Case(
        57,
        "the same by the older call",
        MEASURED,
        ("change_metadata.py", "mode3-open", "{secret}"),
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
        None,
        OBSERVE,
        unrecorded=HIDDEN,
    ),
)

# SPDX-License-Identifier: Apache-2.0
"""What the preset `strict` refuses beyond the floor.

It adds: calls whose flags lie in memory (openat2), setuid and setgid files, executable memfds, any
change of personality, POSIX message queues, legacy AIO, LDT, and the listing of mounts; and it
leaves out netlink, by which programs list network interfaces (`floor.py`).
"""

from __future__ import annotations

from monitor.policy.floor_terms import (
    ENOSYS,
    EPERM,
    MFD_NOEXEC_SEAL,
    O_CREAT,
    O_TMPFILE_BIT,
    QUERY_PERSONALITY,
    S_ISGID,
    S_ISUID,
    Refusal,
    bits,
    differs,
)

_SETUID = "makes a file that gives its owner's rights to whoever runs it, outside the session"

STRICT: tuple[Refusal, ...] = (
    Refusal(
        "openat2",
        ENOSYS,
        "its flags lie in memory; programs fall back to openat",
        "openat2(2)",
    ),
    *(
        Refusal(name, EPERM, _SETUID, "inode(7)", (bits(index, bit),))
        for name, index in (
            ("creat", 1),
            ("mknod", 1),
            ("mknodat", 2),
            ("chmod", 1),
            ("fchmod", 1),
            ("fchmodat", 2),
        )
        for bit in (S_ISUID, S_ISGID)
    ),
    # The mode is read only where a file may be made.
    *(
        Refusal(name, EPERM, _SETUID, "open(2)", (bits(index, making), bits(index + 1, bit)))
        for name, index in (("open", 1), ("openat", 2))
        for making in (O_CREAT, O_TMPFILE_BIT)
        for bit in (S_ISUID, S_ISGID)
    ),
    Refusal(
        "memfd_create",
        EPERM,
        "memory without MFD_NOEXEC_SEAL can be run as a program that is no file",
        "memfd_create(2)",
        (bits(1, 0, MFD_NOEXEC_SEAL),),
    ),
    Refusal(
        "personality",
        EPERM,
        "weakens how programs are laid out in memory",
        "personality(2)",
        (differs(0, QUERY_PERSONALITY),),
    ),
    Refusal("mq_open mq_unlink", EPERM, "message queues reach other processes", "mq_overview(7)"),
    Refusal(
        "modify_ldt remap_file_pages io_setup lsm_set_self_attr",
        ENOSYS,
        "kernel code that few programs need",
        "modify_ldt(2), remap_file_pages(2), io_setup(2)",
    ),
    Refusal("statmount listmount", ENOSYS, "tells of mounts outside the session", "statmount(2)"),
)

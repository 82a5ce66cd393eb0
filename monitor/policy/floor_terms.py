# SPDX-License-Identifier: Apache-2.0
"""What the floor's rules are written in: a refusal, tests of arguments, the kernel's constants.

A filter sees a call's number and six registers, never the memory that they point to. Where the
kernel reads 32 bits of a register, a test that refuses on *equal* looks at those 32 bits only, or a
set upper half would slip past it; a test that refuses on *not equal* compares all 64, so that a set
upper half is refused too.
"""

from __future__ import annotations

from dataclasses import dataclass

from monitor.policy.plan import ArgumentTest, Compare, SyscallRule, SyscallVerdict
from monitor.policy.syscalls import NUMBERS

EPERM, ENOSYS = SyscallVerdict.EPERM, SyscallVerdict.ENOSYS
INT = 0xFFFFFFFF

MEASURED = "measured on Linux 6.18"
SYSV_IPC = "sysv-ipc"

# uapi/linux/sched.h
CLONE_NEWTIME = 0x80
CLONE_PARENT = 0x8000
CLONE_NEWNS = 0x20000
UNSHARE_EMPTY_MNTNS = 0x100000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NEW_NAMESPACES = (
    CLONE_NEWNS,
    CLONE_NEWCGROUP,
    CLONE_NEWUTS,
    CLONE_NEWIPC,
    CLONE_NEWUSER,
    CLONE_NEWPID,
    CLONE_NEWNET,
)
# asm-generic/ioctls.h
TIOCSTI = 0x5412
TIOCLINUX = 0x541C
TIOCCONS = 0x541D
TIOCSETD = 0x5423
# uapi/linux/fs.h, fsverity.h, fscrypt.h, msdos_fs.h
FS_IOC_SETFLAGS = 0x40086602
FS_IOC32_SETFLAGS = 0x40046602
FS_IOC_FSSETXATTR = 0x401C5820
FS_IOC_SETVERSION = 0x40087602
FS_IOC32_SETVERSION = 0x40047602
FS_IOC_ENABLE_VERITY = 0x40806685
FS_IOC_SET_ENCRYPTION_POLICY = 0x800C6613
FAT_IOCTL_SET_ATTRIBUTES = 0x40047211
# uapi/linux/btrfs.h
BTRFS_IOC_SNAP_CREATE = 0x50009401
BTRFS_IOC_SUBVOL_CREATE = 0x5000940E
BTRFS_IOC_SNAP_DESTROY = 0x5000940F
BTRFS_IOC_SNAP_CREATE_V2 = 0x50009417
BTRFS_IOC_SUBVOL_CREATE_V2 = 0x50009418
BTRFS_IOC_SUBVOL_SETFLAGS = 0x4008941A
BTRFS_IOC_SNAP_DESTROY_V2 = 0x5000943F
# uapi/linux/prctl.h, seccomp.h, personality.h, memfd.h, asm-generic/fcntl.h, in6.h, resource.h
PR_SET_MM = 35
PR_SCHED_CORE = 62
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
READ_IMPLIES_EXEC = 0x400000
QUERY_PERSONALITY = 0xFFFFFFFF
MFD_NOEXEC_SEAL = 8
O_ACCMODE = 3
O_CREAT = 0o100
O_TMPFILE_BIT = 0o20000000
AT_EMPTY_PATH = 0x1000
S_ISUID = 0o4000
S_ISGID = 0o2000
IPPROTO_IPV6 = 41
IPV6_2292PKTOPTIONS = 6
IPV6_RTHDR = 57
PRIO_PROCESS = 0
IOPRIO_WHO_PROCESS = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """`names` refused with `verdict` when every one of `tests` holds; `source` backs the why."""

    names: str
    verdict: SyscallVerdict
    why: str
    source: str
    tests: tuple[ArgumentTest, ...] = ()
    group: str = ""  # what `syscalls.allow` opens it again by

    def rules(self) -> tuple[SyscallRule, ...]:
        return tuple(
            SyscallRule(name, NUMBERS[name], self.verdict, self.why, self.tests)
            for name in self.names.split()
        )


def bits(index: int, wanted: int, of: int | None = None) -> ArgumentTest:
    """Of the bits `of` (of `wanted` itself), exactly those of `wanted` are set."""
    return ArgumentTest(index, Compare.MASKED_EQUAL, wanted, wanted if of is None else of)


def equals(index: int, value: int) -> ArgumentTest:
    """The argument's lower 32 bits are `value`."""
    return ArgumentTest(index, Compare.MASKED_EQUAL, value, INT)


def differs(index: int, value: int) -> ArgumentTest:
    return ArgumentTest(index, Compare.NOT_EQUAL, value)

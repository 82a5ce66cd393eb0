# SPDX-License-Identifier: Apache-2.0
"""The syscall floor: every known way around it, that programs go on working, and the filter."""

from __future__ import annotations

import errno
import re

import pytest
import seccomp
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.daemon.launch.floor import export
from monitor.policy import floor
from monitor.policy.action import Origin, SyscallAction, Verdict
from monitor.policy.compile_network import TCP, UDP, sockets_for
from monitor.policy.decide import decide
from monitor.policy.floor_rules import STANDARD
from monitor.policy.floor_strict import STRICT
from monitor.policy.plan import SyscallPlan, SyscallRule, SyscallVerdict
from monitor.policy.syscalls import FIRST_UNKNOWN, NAMES, NUMBERS
from tests.support.filter import answer
from tests.support.profiles import compiled, profile

UPPER = 1 << 32  # a bit that a kernel which reads 32 does not see
MINUS_1 = 0xFFFFFFFFFFFFFFFF
ALL = sockets_for((TCP, UDP), unix=True, netlink=True)
PLAN = floor.syscall_plan(ALL, listen=False)
STRICT_PLAN = floor.syscall_plan(ALL, listen=False, strict=True)
OPEN_PLAN = floor.syscall_plan(ALL, listen=True, opened=("sysv-ipc",))


def refusal(plan: SyscallPlan, name: str, *arguments: int) -> SyscallVerdict | None:
    rule = floor.matching_rule(plan, NUMBERS[name], arguments)
    return None if rule is None else rule.verdict


REFUSED: list[tuple[str, tuple[int, ...]]] = [
    ("io_uring_setup", ()),
    ("io_uring_enter", ()),
    ("io_uring_register", ()),
    ("bpf", ()),
    ("perf_event_open", ()),
    ("userfaultfd", ()),
    ("ptrace", ()),
    ("process_vm_readv", ()),
    ("process_vm_writev", ()),
    ("process_madvise", ()),
    ("pidfd_getfd", ()),
    ("kcmp", ()),
    ("keyctl", ()),
    ("add_key", ()),
    ("request_key", ()),
    ("mount", ()),
    ("umount2", ()),
    ("move_mount", ()),
    ("open_tree", ()),
    ("open_tree_attr", ()),
    ("fsopen", ()),
    ("fsmount", ()),
    ("fsconfig", ()),
    ("fspick", ()),
    ("mount_setattr", ()),
    ("pivot_root", ()),
    ("chroot", ()),
    ("setns", ()),
    ("clone3", ()),
    ("clone", (0x10000000 | 17,)),  # CLONE_NEWUSER
    ("clone", (0x20000,)),  # CLONE_NEWNS
    ("clone", (0x2000000,)),  # CLONE_NEWCGROUP
    ("clone", (0x4000000,)),  # CLONE_NEWUTS
    ("clone", (0x8000000,)),  # CLONE_NEWIPC
    ("clone", (0x20000000,)),  # CLONE_NEWPID
    ("clone", (UPPER | 0x40000000,)),  # CLONE_NEWNET
    ("clone", (0x8000 | 17,)),  # CLONE_PARENT
    ("unshare", (0x10000000,)),
    ("unshare", (0x10020000,)),
    ("unshare", (0x80,)),  # CLONE_NEWTIME
    ("unshare", (0x100000,)),  # UNSHARE_EMPTY_MNTNS
    ("kexec_load", ()),
    ("kexec_file_load", ()),
    ("init_module", ()),
    ("finit_module", ()),
    ("delete_module", ()),
    ("open_by_handle_at", ()),
    ("name_to_handle_at", ()),
    ("open", (0, 3)),
    ("openat", (0, 0, 0o2000003)),
    ("openat", (0, 0, UPPER | 3)),
    ("ioctl", (0, 0x5412)),  # TIOCSTI
    ("ioctl", (0, UPPER | 0x5412)),
    ("ioctl", (0, 0x541C)),  # TIOCLINUX
    ("ioctl", (0, 0x541D)),  # TIOCCONS
    ("ioctl", (0, 0x5423)),  # TIOCSETD
    ("ioctl", (0, 0x40086602)),  # FS_IOC_SETFLAGS
    ("ioctl", (0, 0xFFFFFFFF40086602)),
    ("ioctl", (0, 0x401C5820)),  # FS_IOC_FSSETXATTR
    ("ioctl", (0, 0x40046602)),  # FS_IOC32_SETFLAGS
    ("ioctl", (0, 0x40087602)),  # FS_IOC_SETVERSION
    ("ioctl", (0, 0x40047602)),  # FS_IOC32_SETVERSION
    ("ioctl", (0, 0x40806685)),  # FS_IOC_ENABLE_VERITY
    ("ioctl", (0, 0x800C6613)),  # FS_IOC_SET_ENCRYPTION_POLICY
    ("ioctl", (0, 0x40047211)),  # FAT_IOCTL_SET_ATTRIBUTES
    ("ioctl", (0, 0x50009401)),  # BTRFS_IOC_SNAP_CREATE
    ("ioctl", (0, 0x5000940E)),  # BTRFS_IOC_SUBVOL_CREATE
    ("ioctl", (0, 0x5000940F)),  # BTRFS_IOC_SNAP_DESTROY
    ("ioctl", (0, 0x50009417)),  # BTRFS_IOC_SNAP_CREATE_V2
    ("ioctl", (0, 0x50009418)),  # BTRFS_IOC_SUBVOL_CREATE_V2
    ("ioctl", (0, 0x4008941A)),  # BTRFS_IOC_SUBVOL_SETFLAGS
    ("seccomp", (1, 8)),  # NEW_LISTENER
    ("seccomp", (1, UPPER | 8 | 1)),
    ("prctl", (35, 9)),  # PR_SET_MM
    ("prctl", (UPPER | 35, 9)),
    ("prctl", (62, 2, 4711)),  # PR_SCHED_CORE_SHARE_TO
    ("prlimit64", (4711,)),
    ("prlimit64", (UPPER,)),
    ("setpriority", (0, 4711)),
    ("setpriority", (2, 0)),  # PRIO_USER: all of the user's processes
    ("ioprio_set", (1, 4711)),
    ("ioprio_set", (3, 0)),
    ("sched_setaffinity", (4711,)),
    ("sched_setscheduler", (4711,)),
    ("sched_setparam", (4711,)),
    ("sched_setattr", (4711,)),
    ("migrate_pages", (4711,)),
    ("move_pages", (4711,)),
    ("shmget", ()),
    ("shmat", ()),
    ("semget", ()),
    ("msgget", ()),
    ("msgsnd", ()),
    ("fchmodat2", ()),
    ("setxattrat", ()),
    ("getxattrat", ()),
    ("removexattrat", ()),
    ("file_setattr", ()),
    ("execveat", (3, 0, 0, 0, 0x1000)),  # AT_EMPTY_PATH
    ("execveat", (3, 0, 0, 0, UPPER | 0x1100)),
    ("fanotify_init", ()),
    ("fanotify_mark", ()),
    ("uselib", ()),
    ("memfd_secret", ()),
    ("personality", (0x400000,)),  # READ_IMPLIES_EXEC
    ("personality", (0x80400000,)),
    # Any one bit that is missing makes it more than the question 0xFFFFFFFF.
    *(("personality", (0xFFFFFFFF & ~(1 << bit),)) for bit in range(32) if bit != 22),
    ("setsockopt", (3, 41, 57)),  # IPV6_RTHDR
    ("setsockopt", (3, UPPER | 41, UPPER | 57)),
    ("setsockopt", (3, 41, 6)),  # IPV6_2292PKTOPTIONS
    ("listen", (3, 1)),
    ("socketpair", (30, 1, 0)),  # AF_TIPC
    ("swapon", ()),
    ("swapoff", ()),
    ("reboot", ()),
    ("settimeofday", ()),
    ("clock_settime", ()),
    ("clock_adjtime", ()),
    ("adjtimex", ()),
    ("acct", ()),
    ("sethostname", ()),
    ("setdomainname", ()),
    ("quotactl", ()),
    ("quotactl_fd", ()),
    ("syslog", ()),
    ("iopl", ()),
    ("ioperm", ()),
    ("vhangup", ()),
    ("lookup_dcookie", ()),
]

# bash, git, gcc, node, Python, pip, ssh, tmux, vim, make and rg call these.
NEEDED: list[tuple[str, tuple[int, ...]]] = [
    ("clone", (0x1200011,)),  # fork: CHILD_CLEARTID, CHILD_SETTID, SIGCHLD
    ("clone", (0x3D0F00,)),  # pthread_create
    ("clone", (0x4111,)),  # posix_spawn: VM, VFORK
    ("vfork", ()),
    ("execve", ()),
    ("execveat", (0xFFFFFF9C, 0, 0, 0, 0)),
    ("unshare", (0x400,)),  # CLONE_FILES
    ("memfd_create", (0, 1)),
    ("open", (0, 0o102)),
    ("openat", (0xFFFFFF9C, 0, 0o2000000)),
    ("openat2", ()),
    ("ioctl", (0, 0x5401)),  # TCGETS
    ("ioctl", (0, 0x540E)),  # TIOCSCTTY
    ("ioctl", (0, 0x5414)),  # TIOCSWINSZ
    ("prctl", (15, 0)),  # PR_SET_NAME
    ("prctl", (22, 2)),  # PR_SET_SECCOMP
    ("prctl", (36, 1)),  # PR_SET_CHILD_SUBREAPER
    ("prctl", (38, 1)),  # PR_SET_NO_NEW_PRIVS
    ("prctl", (62, 0, 0)),  # PR_SCHED_CORE_GET of the caller
    ("seccomp", (1, 1)),
    ("prlimit64", (0, 7)),
    ("setrlimit", ()),
    ("setpriority", (0, 0, 10)),
    ("ioprio_set", (1, 0)),
    ("sched_setaffinity", (0,)),
    ("sched_getaffinity", (4711,)),
    ("personality", (0xFFFFFFFF,)),
    ("personality", (0,)),
    ("personality", (0x40000,)),  # ADDR_NO_RANDOMIZE
    ("setsockopt", (3, 41, 26)),  # IPV6_V6ONLY
    ("setsockopt", (3, 6, 57)),
    ("socketpair", (1, 1, 0)),
    ("setsid", ()),
    ("inotify_init1", ()),
    ("flock", ()),
    ("kill", (4711, 15)),
    ("pidfd_open", (4711,)),
    ("mprotect", (0, 0, 7)),
    ("chmod", (0, 0o755)),
    ("fchmodat", (0, 0, 0o644)),
    ("setxattr", ()),
    ("landlock_restrict_self", ()),
    ("rseq", ()),
    ("statx", ()),
    ("epoll_pwait2", ()),
    ("bind", ()),
    ("connect", ()),
    ("accept4", ()),
]


@pytest.mark.parametrize(("name", "arguments"), REFUSED)
def test_refuses(name: str, arguments: tuple[int, ...]) -> None:
    assert refusal(PLAN, name, *arguments) is not None


@pytest.mark.parametrize(("name", "arguments"), NEEDED)
def test_leaves_what_programs_need(name: str, arguments: tuple[int, ...]) -> None:
    assert refusal(PLAN, name, *arguments) is None


def test_what_programs_fall_back_from_does_not_exist() -> None:
    for name in ("clone3", "io_uring_setup", "fchmodat2", "setxattrat", "file_setattr"):
        assert refusal(PLAN, name) is SyscallVerdict.ENOSYS


STRICTLY: list[tuple[str, tuple[int, ...]]] = [
    ("openat2", ()),
    ("chmod", (0, 0o4755)),
    ("fchmodat", (0, 0, 0o2755)),
    ("openat", (0, 0, 0o101, 0o4755)),
    ("openat", (0, 0, 0o20200002, 0o4755)),
    ("memfd_create", (0, 1)),
    ("personality", (0x40000,)),
    ("mq_open", ()),
    ("modify_ldt", ()),
    ("statmount", ()),
]


# Setuid and setgid, each alone, wherever a mode is given.
STRICTLY += [
    (name, (*before, mode))
    for mode in (0o4711, 0o2711)
    for name, before in (
        ("creat", (0,)),
        ("mknod", (0,)),
        ("mknodat", (0, 0)),
        ("chmod", (0,)),
        ("fchmod", (3,)),
        ("fchmodat", (0, 0)),
        ("open", (0, 0o101)),  # O_CREAT
        ("open", (0, 0o20200002)),  # O_TMPFILE
        ("openat", (0, 0, 0o101)),
        ("openat", (0, 0, 0o20200002)),
    )
]


@pytest.mark.parametrize(("name", "arguments"), STRICTLY)
def test_strict_refuses_more(name: str, arguments: tuple[int, ...]) -> None:
    assert refusal(PLAN, name, *arguments) is None
    assert refusal(STRICT_PLAN, name, *arguments) is not None


def test_strict_reads_a_mode_only_where_a_file_is_made() -> None:
    assert refusal(STRICT_PLAN, "openat", 0, 0, 0, 0o4755) is None
    assert refusal(STRICT_PLAN, "memfd_create", 0, 1 | 8) is None
    assert refusal(STRICT_PLAN, "personality", 0xFFFFFFFF) is None


@pytest.mark.parametrize(("name", "arguments"), REFUSED)
def test_strict_refuses_no_less(name: str, arguments: tuple[int, ...]) -> None:
    assert refusal(STRICT_PLAN, name, *arguments) is not None


def test_groups_and_bind_rules_open_what_they_name() -> None:
    opened = {"listen", "shmget", "shmat", "semget", "msgget", "msgsnd"}
    for name, arguments in REFUSED:
        assert (refusal(OPEN_PLAN, name, *arguments) is None) is (name in opened)


# -- sockets --------------------------------------------------------------------------------------

SOCKETS: list[tuple[tuple[int, int, int], bool]] = [
    ((1, 1, 0), True),
    ((1, 0o2000001, 0), True),  # SOCK_CLOEXEC
    ((1, 5, 0), True),
    ((1, 3, 0), False),  # SOCK_RAW, which is SOCK_DGRAM there
    ((2, 1, 0), True),
    ((2, 0o4001, 6), True),  # SOCK_NONBLOCK
    ((10, 2, 17), True),
    ((2, 1, 262), False),  # MPTCP
    ((2, 1, 132), False),  # SCTP
    ((2, 2, 136), False),  # UDP-Lite
    ((10, 2, 136), False),
    ((2, 2, UPPER | 136), False),
    ((2, 2, 1), False),  # ICMP
    ((2, 3, 255), False),
    ((2, 5, 132), False),
    ((2, 1, MINUS_1), False),
    ((UPPER | 17, 3, 0), False),
    ((16, 3, 0), True),  # NETLINK_ROUTE
    ((16, 3, 2), False),  # NETLINK_USERSOCK
    ((16, 3, 12), False),  # NETLINK_NETFILTER
    ((17, 3, 0), False),  # AF_PACKET
    ((38, 5, 0), False),  # AF_ALG
    ((40, 1, 0), False),  # AF_VSOCK
    ((44, 3, 0), False),  # AF_XDP
    ((0, 1, 0), False),
    ((99, 1, 0), False),
    ((MINUS_1, 1, 0), False),
]


@pytest.mark.parametrize(("arguments", "allowed"), SOCKETS)
def test_sockets_are_what_is_listed(arguments: tuple[int, int, int], allowed: bool) -> None:
    assert (refusal(PLAN, "socket", *arguments) is None) is allowed


def test_without_any_network_rule_only_unix_sockets_are_made() -> None:
    plan = floor.syscall_plan(sockets_for((), unix=True, netlink=False), listen=False)
    assert refusal(plan, "socket", 1, 1, 0) is None
    for family in (2, 10, 16):
        assert refusal(plan, "socket", family, 1, 0) is SyscallVerdict.EAFNOSUPPORT


def test_where_the_kernel_cannot_decide_on_unix_names_nothing_sends_to_one() -> None:
    plan = floor.syscall_plan(sockets_for((TCP,), unix=False, netlink=False), listen=False)
    assert refusal(plan, "socket", 1, 1, 0) is SyscallVerdict.EAFNOSUPPORT
    assert refusal(plan, "socketpair", 1, 1, 0) is None
    assert refusal(plan, "socketpair", 1, 2, 0) is SyscallVerdict.EPERM
    assert refusal(plan, "socketpair", 1, 0o2000003, 0) is SyscallVerdict.EPERM


def test_no_socket_at_all() -> None:
    plan = floor.syscall_plan((), listen=False)
    assert refusal(plan, "socket", 1, 1, 0) is SyscallVerdict.EAFNOSUPPORT


# -- the data -------------------------------------------------------------------------------------


def test_every_rule_says_why_and_whence() -> None:
    for each in (*STANDARD, *STRICT):
        assert re.fullmatch(r"[^\n]{10,}", each.why)
        assert re.fullmatch(r"[^\n]{5,}", each.source)
        assert not each.why.endswith(".")
    for rule in STRICT_PLAN.rules:
        assert rule.why
        assert "\n" not in rule.why


NEWER = {
    "fchmodat2": 452,
    "statmount": 457,
    "listmount": 458,
    "lsm_set_self_attr": 460,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}


def test_numbers_are_the_kernels() -> None:
    for name, number in NUMBERS.items():
        assert seccomp.resolve_syscall(seccomp.Arch.X86_64, name) in {number, -1}, name
    # An older libseccomp does not know these; asm/unistd_64.h of Linux 6.18 does.
    for name, number in NEWER.items():
        assert NUMBERS[name] == number
    assert FIRST_UNKNOWN == 470
    assert len(NAMES) == len(NUMBERS)


def test_rules_carry_the_numbers_of_their_names() -> None:
    for rule in STRICT_PLAN.rules:
        assert rule.number == NUMBERS[rule.name]


# -- what a profile adds --------------------------------------------------------------------------


def test_a_profile_refuses_further_calls_by_name() -> None:
    origin = Origin("p", "syscalls.deny", "fork", "p.yaml", 7)
    plan = floor.syscall_plan(ALL, listen=False, denied=[("fork", origin), ("bpf", None)])
    rule = floor.matching_rule(plan, NUMBERS["fork"], ())
    assert rule is not None
    assert floor.origin(rule) == origin
    assert len([rule for rule in plan.rules if rule.name == "bpf"]) == 1


def test_a_call_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(floor.UnknownSyscall, match="no system call 'frok'"):
        floor.syscall_plan(ALL, listen=False, denied=[("frok", None)])


def test_unknown_calls_do_not_exist() -> None:
    plan = compiled([profile()])
    decision = decide(plan, SyscallAction(FIRST_UNKNOWN))
    assert decision.verdict is Verdict.DENY
    assert decision.remedy == ""
    assert decide(plan, SyscallAction(NUMBERS["read"])).verdict is Verdict.ALLOW


# -- the filter -----------------------------------------------------------------------------------

ERRORS = {
    SyscallVerdict.EPERM: errno.EPERM,
    SyscallVerdict.ENOSYS: errno.ENOSYS,
    SyscallVerdict.EAFNOSUPPORT: errno.EAFNOSUPPORT,
}
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000
_RULED = sorted({rule.number for rule in STRICT_PLAN.rules})
_VALUES = sorted({test.value for rule in STRICT_PLAN.rules for test in rule.tests})

arguments = st.lists(
    st.one_of(
        st.sampled_from(_VALUES),
        st.sampled_from(_VALUES).map(lambda value: value | UPPER),
        st.sampled_from([0, 1, 2, 3, 5, 6, 16, 17, 136, MINUS_1]),
        st.integers(0, MINUS_1),
    ),
    min_size=6,
    max_size=6,
).map(tuple)


@settings(max_examples=500)
@given(
    st.sampled_from([PLAN, STRICT_PLAN, OPEN_PLAN]),
    st.one_of(st.sampled_from(_RULED), st.integers(0, 480)),
    arguments,
)
def test_the_filter_answers_as_the_reference(
    plan: SyscallPlan, number: int, values: tuple[int, ...]
) -> None:
    rule: SyscallRule | None = floor.matching_rule(plan, number, values)
    wanted = SECCOMP_RET_ALLOW if rule is None else SECCOMP_RET_ERRNO | ERRORS[rule.verdict]
    assert answer(export(plan), number, values) == wanted

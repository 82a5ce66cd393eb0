# SPDX-License-Identifier: Apache-2.0
"""What the floor refuses in every session: each call with its why and where that is known from."""

from __future__ import annotations

from monitor.policy.floor_terms import (
    AT_EMPTY_PATH,
    BTRFS_IOC_SNAP_CREATE,
    BTRFS_IOC_SNAP_CREATE_V2,
    BTRFS_IOC_SNAP_DESTROY,
    BTRFS_IOC_SNAP_DESTROY_V2,
    BTRFS_IOC_SUBVOL_CREATE,
    BTRFS_IOC_SUBVOL_CREATE_V2,
    BTRFS_IOC_SUBVOL_SETFLAGS,
    CLONE_NEWTIME,
    CLONE_PARENT,
    ENOSYS,
    EPERM,
    FAT_IOCTL_SET_ATTRIBUTES,
    FS_IOC32_SETFLAGS,
    FS_IOC32_SETVERSION,
    FS_IOC_ENABLE_VERITY,
    FS_IOC_FSSETXATTR,
    FS_IOC_SET_ENCRYPTION_POLICY,
    FS_IOC_SETFLAGS,
    FS_IOC_SETVERSION,
    IOPRIO_WHO_PROCESS,
    IPPROTO_IPV6,
    IPV6_2292PKTOPTIONS,
    IPV6_RTHDR,
    MEASURED,
    NEW_NAMESPACES,
    O_ACCMODE,
    PR_SCHED_CORE,
    PR_SET_MM,
    PRIO_PROCESS,
    READ_IMPLIES_EXEC,
    SECCOMP_FILTER_FLAG_NEW_LISTENER,
    SYSV_IPC,
    TIOCCONS,
    TIOCLINUX,
    TIOCSETD,
    TIOCSTI,
    UNSHARE_EMPTY_MNTNS,
    Refusal,
    bits,
    differs,
    equals,
)

_OWN_ONLY = (
    "reaches other processes of the same user; only the caller itself, as 0, is allowed: a filter"
    " does not know the caller's own number"
)
_METADATA = "does what older calls do, past what records and refuses those"

STANDARD: tuple[Refusal, ...] = (
    # -- interfaces that work around the others, or are where kernel bugs are found
    Refusal(
        "io_uring_setup io_uring_enter io_uring_register",
        ENOSYS,
        "its operations run in the kernel, where neither this filter nor the records see them",
        "io_uring(7); ARMO's `Curing`",
    ),
    Refusal(
        "bpf perf_event_open",
        EPERM,
        "loads programs into the kernel that could watch or undo the session's own",
        "bpf(2), perf_event_open(2)",
    ),
    Refusal(
        "userfaultfd",
        EPERM,
        "holds the kernel in the middle of a call, which wins races against checks",
        "userfaultfd(2), vm.unprivileged_userfaultfd",
    ),
    Refusal(
        "keyctl add_key request_key",
        EPERM,
        "the keyrings are shared with the user's other processes",
        f"keyrings(7); {MEASURED}: add_key and request_key alone reach the user keyring",
    ),
    Refusal(
        "seccomp",
        EPERM,
        "a listener of the agent's own could answer for the session's filter",
        f"seccomp_unotify(2); {MEASURED}: CONTINUE answered to itself",
        (bits(1, SECCOMP_FILTER_FLAG_NEW_LISTENER),),
    ),
    # -- other processes
    Refusal(
        "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd"
        " kcmp",
        EPERM,
        "looks into or changes another process",
        "ptrace(2), process_vm_readv(2), pidfd_getfd(2)",
    ),
    Refusal("prlimit64", EPERM, _OWN_ONLY, f"{MEASURED}: RLIMIT_CPU", (differs(0, 0),)),
    Refusal("setpriority", EPERM, _OWN_ONLY, MEASURED, (differs(0, PRIO_PROCESS),)),
    Refusal("setpriority", EPERM, _OWN_ONLY, MEASURED, (differs(1, 0),)),
    Refusal("ioprio_set", EPERM, _OWN_ONLY, MEASURED, (differs(0, IOPRIO_WHO_PROCESS),)),
    Refusal("ioprio_set", EPERM, _OWN_ONLY, MEASURED, (differs(1, 0),)),
    Refusal(
        "sched_setaffinity sched_setscheduler sched_setparam sched_setattr",
        EPERM,
        _OWN_ONLY,
        MEASURED,
        (differs(0, 0),),
    ),
    Refusal("migrate_pages move_pages", EPERM, _OWN_ONLY, "migrate_pages(2)", (differs(0, 0),)),
    Refusal(
        "prctl",
        EPERM,
        "shares its core scheduling with another process",
        "PR_SCHED_CORE(2const)",
        (equals(0, PR_SCHED_CORE), differs(2, 0)),
    ),
    Refusal(
        "prctl",
        EPERM,
        "changes the arguments and the program that /proc shows of a process",
        "PR_SET_MM(2const)",
        (equals(0, PR_SET_MM),),
    ),
    Refusal(
        "shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl",
        EPERM,
        "System V IPC reaches every process of the user; `syscalls.allow: [sysv-ipc]` opens it",
        f"sysvipc(7); {MEASURED}",
        group=SYSV_IPC,
    ),
    # -- namespaces and mounts
    Refusal("clone3", ENOSYS, "its flags lie in memory; programs fall back to clone", "clone(2)"),
    *(
        Refusal(
            "clone unshare",
            EPERM,
            "a namespace of its own gives a process capabilities in it",
            "namespaces(7), user_namespaces(7)",
            (bits(0, flag),),
        )
        for flag in NEW_NAMESPACES
    ),
    *(
        Refusal(
            "unshare",
            EPERM,
            "makes a namespace",
            "unshare(2), time_namespaces(7)",
            (bits(0, flag),),
        )
        for flag in (CLONE_NEWTIME, UNSHARE_EMPTY_MNTNS)
    ),
    Refusal(
        "clone",
        EPERM,
        "makes a child of the launcher, which could forge CMD's exit status",
        MEASURED,
        (bits(0, CLONE_PARENT),),
    ),
    Refusal("setns", EPERM, "enters a namespace of another process", "setns(2)"),
    Refusal(
        "mount umount2 move_mount open_tree open_tree_attr fsopen fsmount fsconfig fspick"
        " mount_setattr pivot_root chroot",
        EPERM,
        "changes what paths stand for",
        "mount(2), mount_setattr(2), pivot_root(2)",
    ),
    # -- files, past what Landlock governs
    Refusal(
        "open_by_handle_at name_to_handle_at",
        EPERM,
        "opens files by handle, past every rule about paths",
        "open_by_handle_at(2)",
    ),
    *(
        Refusal(
            name,
            EPERM,
            "access mode 3 opens without the right to read or write, for ioctl on any file",
            f"open(2); {MEASURED}",
            (bits(index, O_ACCMODE),),
        )
        for name, index in (("open", 1), ("openat", 2))
    ),
    *(
        Refusal(
            "ioctl",
            EPERM,
            "changes a file through a descriptor that may only read it",
            source,
            (equals(1, request),),
        )
        for source, requests in (
            (
                f"ioctl_iflags(2); {MEASURED}",
                (FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR),
            ),
            (
                "fs/ext4/ioctl.c, fs/verity/enable.c, fs/crypto/policy.c, fs/fat/file.c",
                (
                    FS_IOC_SETVERSION,
                    FS_IOC32_SETVERSION,
                    FS_IOC_ENABLE_VERITY,
                    FS_IOC_SET_ENCRYPTION_POLICY,
                    FAT_IOCTL_SET_ATTRIBUTES,
                ),
            ),
            (
                "btrfs-ioctl(3): makes and removes names with no path hook",
                (
                    BTRFS_IOC_SNAP_CREATE,
                    BTRFS_IOC_SUBVOL_CREATE,
                    BTRFS_IOC_SNAP_DESTROY,
                    BTRFS_IOC_SNAP_CREATE_V2,
                    BTRFS_IOC_SUBVOL_CREATE_V2,
                    BTRFS_IOC_SUBVOL_SETFLAGS,
                    BTRFS_IOC_SNAP_DESTROY_V2,
                ),
            ),
        )
        for request in requests
    ),
    Refusal(
        "fchmodat2 setxattrat getxattrat removexattrat file_setattr",
        ENOSYS,
        _METADATA,
        f"{MEASURED}: open on files that the rules do not name",
    ),
    Refusal(
        "fanotify_init fanotify_mark",
        EPERM,
        "reports names of files outside the profile",
        f"fanotify(7); {MEASURED}",
    ),
    Refusal(
        "execveat",
        EPERM,
        "runs a descriptor that may have no file; fexecve(3) is this call",
        "execveat(2), memfd_create(2)",
        (bits(4, AT_EMPTY_PATH),),
    ),
    Refusal("uselib", EPERM, "maps a library past execute rules", "uselib(2)"),
    Refusal(
        "memfd_secret",
        EPERM,
        "memory that nobody can inspect, the host included",
        "memfd_secret(2)",
    ),
    # personality(0xffffffff) only asks: the bit set, and any one of the others not.
    *(
        Refusal(
            "personality",
            EPERM,
            "makes everything readable executable",
            "personality(2)",
            (bits(0, READ_IMPLIES_EXEC, READ_IMPLIES_EXEC | 1 << other),),
        )
        for other in range(32)
        if 1 << other != READ_IMPLIES_EXEC
    ),
    # -- terminals
    *(
        Refusal("ioctl", EPERM, why, source, (equals(1, request),))
        for request, why, source in (
            (TIOCSTI, "types into the terminal that the session was started from", "CVE-2017-5226"),
            (
                TIOCLINUX,
                "pastes into the console that the session was started from",
                "CVE-2023-1523",
            ),
            (TIOCCONS, "takes the console's output", "TIOCCONS(2const)"),
            (TIOCSETD, "line disciplines are kernel code that few use", "CVE-2017-2636"),
        )
    ),
    Refusal("vhangup", EPERM, "hangs up the terminal", "vhangup(2)"),
    # -- network
    *(
        Refusal(
            "setsockopt",
            EPERM,
            "a routing header takes packets to another host than the one that was decided on",
            f"RFC 8754; {MEASURED}",
            (equals(1, IPPROTO_IPV6), equals(2, option)),
        )
        for option in (IPV6_RTHDR, IPV6_2292PKTOPTIONS)
    ),
    # -- the host as such: no agent needs it, most ask for capabilities that a session has not
    Refusal(
        "init_module finit_module delete_module kexec_load kexec_file_load reboot",
        EPERM,
        "changes the running kernel",
        "init_module(2), kexec_load(2), reboot(2)",
    ),
    Refusal(
        "settimeofday clock_settime adjtimex clock_adjtime",
        EPERM,
        "sets the host's clock",
        "settimeofday(2), adjtimex(2)",
    ),
    Refusal(
        "swapon swapoff acct quotactl quotactl_fd sethostname setdomainname",
        EPERM,
        "administers the host",
        "swapon(2), acct(2), quotactl(2), sethostname(2)",
    ),
    Refusal("iopl ioperm", EPERM, "gives access to the hardware's ports", "iopl(2)"),
    Refusal("syslog", EPERM, "reads the kernel's log", "syslog(2)"),
    Refusal("lookup_dcookie", EPERM, "tells paths of other processes", "lookup_dcookie(2)"),
)

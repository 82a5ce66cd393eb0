# SPDX-License-Identifier: Apache-2.0
"""Which probe is attached where."""

from __future__ import annotations

from monitor.kernel import bpf

# uapi/linux/bpf.h: enum bpf_prog_type
PROG_TRACEPOINT = 5
PROG_CGROUP_SKB = 8
PROG_CGROUP_SOCK = 9
PROG_RAW_TRACEPOINT = 17
PROG_CGROUP_SOCK_ADDR = 18

RAW_TRACEPOINTS = {
    "ri_fork": "sched_process_fork",
    "ri_exec_judge": "sched_process_exec",  # before the one that records
    "ri_exec_done": "sched_process_exec",
    "ri_exit_done": "sched_process_exit",
}
CGROUP_PROGRAMS = {
    "ri_connect4": bpf.BPF_CGROUP_INET4_CONNECT,
    "ri_connect6": bpf.BPF_CGROUP_INET6_CONNECT,
    "ri_sendmsg4": bpf.BPF_CGROUP_UDP4_SENDMSG,
    "ri_sendmsg6": bpf.BPF_CGROUP_UDP6_SENDMSG,
    "ri_bind4": bpf.BPF_CGROUP_INET4_BIND,
    "ri_bind6": bpf.BPF_CGROUP_INET6_BIND,
    "ri_recvmsg4": bpf.BPF_CGROUP_UDP4_RECVMSG,
    "ri_recvmsg6": bpf.BPF_CGROUP_UDP6_RECVMSG,
    "ri_getpeername4": bpf.BPF_CGROUP_INET4_GETPEERNAME,
    "ri_getpeername6": bpf.BPF_CGROUP_INET6_GETPEERNAME,
    "ri_socket": bpf.BPF_CGROUP_INET_SOCK_CREATE,
    "ri_egress": bpf.BPF_CGROUP_INET_EGRESS,
    "ri_hello": bpf.BPF_CGROUP_INET_EGRESS,
}
# Those of another type than PROG_CGROUP_SOCK_ADDR.
CGROUP_TYPES = {
    "ri_socket": PROG_CGROUP_SOCK,
    "ri_egress": PROG_CGROUP_SKB,
    "ri_hello": PROG_CGROUP_SKB,
}
UNIX_PROGRAMS = {
    "ri_connect_unix": bpf.BPF_CGROUP_UNIX_CONNECT,
    "ri_sendmsg_unix": bpf.BPF_CGROUP_UNIX_SENDMSG,
}
# Program -> the calls whose exit it reads, by the names of their tracepoints (umount2 is `umount`).
# Calls this kernel lacks are left out.
CALL_EXITS = {
    "ri_open_exit": "open openat openat2 creat",
    "ri_path_exit": (
        "open openat openat2 creat execve execveat bind"
        " unlink unlinkat rmdir rename renameat renameat2 link linkat symlink symlinkat mkdir"
        " mkdirat mknod mknodat truncate ftruncate chmod fchmod fchmodat chown fchown lchown"
        " fchownat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr"
    ),
    "ri_listen_exit": "listen",
    "ri_receive_exit": "recvmsg recvmmsg",
    "ri_refused_call_exit": (
        "socket socketpair setsockopt ioctl kill tkill tgkill ptrace process_vm_readv"
        " process_vm_writev process_madvise bpf perf_event_open userfaultfd io_uring_setup"
        " io_uring_enter io_uring_register mount umount pivot_root chroot move_mount open_tree"
        " fsopen fsmount fspick fsconfig mount_setattr setns unshare clone keyctl add_key"
        " request_key kexec_load kexec_file_load init_module finit_module delete_module"
        " open_by_handle_at name_to_handle_at seccomp prctl shmget shmat shmctl semget semop"
        " semctl semtimedop msgget msgsnd msgrcv msgctl prlimit64 setpriority ioprio_set"
        " sched_setaffinity sched_setscheduler sched_setparam sched_setattr pidfd_getfd"
        " pidfd_send_signal swapon swapoff reboot settimeofday clock_settime adjtimex"
        " clock_adjtime acct sethostname setdomainname quotactl quotactl_fd syslog kcmp iopl"
        " ioperm vhangup personality memfd_create memfd_secret fanotify_init lookup_dcookie"
        " migrate_pages move_pages fchmodat2 setxattrat getxattrat removexattrat file_setattr"
    ),
}

# SPDX-License-Identifier: Apache-2.0
"""How the objects of actions are written in records."""

from __future__ import annotations

import errno
import signal
import socket
from functools import lru_cache

from monitor.policy import syscalls

# uapi/linux/in.h
_PROTOCOLS = {
    0: "any", 1: "icmp", 6: "tcp", 17: "udp", 33: "dccp", 58: "icmp6", 132: "sctp",
    136: "udplite", 255: "raw", 262: "mptcp",
}  # fmt: skip
_FAMILIES = {family.value: family.name for family in socket.AddressFamily}
_TYPES = {kind.value: kind.name for kind in socket.SocketKind if kind.value < 16}
# How many of its six registers a refused call uses; of others, three are shown.
_ARITY = {
    name: arity
    for arity, names in {
        0: "vhangup",
        1: "unshare chroot swapoff acct adjtimex iopl fsopen delete_module settimeofday"
        " memfd_secret personality userfaultfd",
        2: "kill tkill listen umount2 pivot_root setns fsmount io_uring_setup memfd_create"
        " sched_setscheduler clock_settime clock_adjtime swapon sethostname setdomainname"
        " fanotify_init msgget sched_setparam",
        4: "ptrace reboot pidfd_send_signal keyctl prlimit64 quotactl quotactl_fd semtimedop"
        " semctl migrate_pages io_uring_register request_key msgsnd fchmodat2 removexattrat",
        5: "setsockopt mount clone prctl perf_event_open kexec_file_load add_key fsconfig"
        " mount_setattr move_mount name_to_handle_at msgrcv process_madvise kcmp file_setattr",
        6: "process_vm_readv process_vm_writev io_uring_enter move_pages setxattrat getxattrat",
    }.items()
    for name in names.split()
}
_NEGATIVE = 0x1_0000_0000 - 4096


def file(path: str, target: str) -> str:
    """`PATH`, or `PATH -> TARGET` of a rename or link."""
    return f"{path} -> {target}" if target else path


def endpoint(address: str, port: int, protocol: int, name: str = "") -> str:
    """`192.0.2.1:443/tcp`, `[2001:db8::1]:53/udp`; with the name that it was looked up by:
    `api.example.com (192.0.2.1):443/tcp`.
    """
    host = f"[{address}]" if ":" in address else address
    host = f"{name} ({address})" if name else host
    return f"{host}:{port}/{protocol_name(protocol)}"


def protocol_name(protocol: int) -> str:
    return _PROTOCOLS.get(protocol, str(protocol))


def unix_name(name: str) -> str:
    """A path or `@name`; a unix socket address may also be empty."""
    return name or "(unnamed)"


def new_socket(family: int, kind: int, protocol: int) -> str:
    """`socket(AF_INET, SOCK_RAW, icmp)`."""
    return f"socket({family_name(family)}, {type_name(kind)}, {protocol_name(protocol)})"


def family_name(family: int) -> str:
    return _FAMILIES.get(family, str(family))


def type_name(kind: int) -> str:
    return _TYPES.get(kind, str(kind))


def call(number: int, arguments: tuple[int, ...]) -> str:
    """`kill(-1, 9)`: the call's name and the registers it uses."""
    name = call_name(number)
    return f"{name}({', '.join(map(_register, arguments[: _ARITY.get(name, 3)]))})"


def call_name(number: int) -> str:
    return syscalls.NAMES.get(number, f"syscall_{number}")


def _register(value: int) -> str:
    """Small numbers in decimal, negative ones among them, others in hexadecimal."""
    if value >> 32 in (0, 0xFFFFFFFF) and (low := value & 0xFFFFFFFF) >= _NEGATIVE:
        return str(low - (1 << 32))
    return str(value) if value < 4096 else hex(value)


def ending(status: int) -> str:
    """A wait(2) status: `status 1`, `signal 9 (SIGKILL)`."""
    number = status & 0x7F
    if number == 0:
        return f"status {status >> 8 & 0xFF}"
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


@lru_cache(64)
def device(number: int) -> str:
    """`MAJOR:MINOR` of a kernel dev_t."""
    return f"{number >> 20}:{number & 0xFFFFF}"


def error_name(number: int) -> str:
    return errno.errorcode.get(number, f"errno {number}")

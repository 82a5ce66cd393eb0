# SPDX-License-Identifier: Apache-2.0
"""The loader: compiles the probes for this kernel, attaches them, pins everything, and exits.

BCC and LLVM cost 120 MB and most of a second, so they live in this short process only. Everything
is pinned into a folder named by a digest of sources, kernel and BTF offsets; when it is there
already, nothing is done. Programs of an older version stay attached until those of the new one are,
so that there is no moment without enforcement.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.daemon import pins
from monitor.daemon.headers import offsets, write_stubs
from monitor.kernel import bpf, tracing
from monitor.kernel.btf import BtfError

PROBES = Path(__file__).resolve().parents[2] / "probes"
SOURCES = ("opens.bpf.c", "calls.bpf.c", "process.bpf.c", "network.bpf.c")
MAPS = (
    "sessions",
    "events",
    "details",
    "lost",
    "seen",
    "directories",
    "prefixes",
    "ports",
    "sockets",
    "unix_paths",
)
INCLUDE = re.compile(r'#include "(\w+\.h)"')
# uapi/linux/bpf.h: enum bpf_prog_type
PROG_TRACEPOINT = 5
PROG_CGROUP_SOCK = 9
PROG_RAW_TRACEPOINT = 17
PROG_CGROUP_SOCK_ADDR = 18

RAW_TRACEPOINTS = {
    "ri_fork": "sched_process_fork",
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
    "ri_socket": bpf.BPF_CGROUP_INET_SOCK_CREATE,
}
UNIX_PROGRAMS = {
    "ri_connect_unix": bpf.BPF_CGROUP_UNIX_CONNECT,
    "ri_sendmsg_unix": bpf.BPF_CGROUP_UNIX_SENDMSG,
}
# Program -> the calls whose exit it reads. Calls this kernel lacks are left out.
CALL_EXITS = {
    "ri_open_exit": "open openat openat2 creat",
    "ri_refused_path_exit": "open openat openat2 creat execve execveat",
    "ri_change_exit": (
        "unlink unlinkat rmdir rename renameat renameat2 link linkat symlink symlinkat mkdir mkdirat"
        " mknod mknodat truncate chmod fchmodat fchmodat2 chown lchown fchownat setxattr lsetxattr"
        " removexattr lremovexattr fchmod fchown ftruncate fsetxattr fremovexattr"
    ),
    "ri_bind_exit": "bind",
    "ri_listen_exit": "listen",
    "ri_refused_call_exit": (
        "socket setsockopt ioctl kill tkill tgkill ptrace process_vm_readv process_vm_writev"
        " process_madvise bpf perf_event_open userfaultfd io_uring_setup io_uring_enter"
        " io_uring_register mount umount2 pivot_root chroot move_mount open_tree fsopen fsmount"
        " fspick fsconfig mount_setattr setns unshare clone keyctl add_key request_key kexec_load"
        " kexec_file_load init_module finit_module delete_module open_by_handle_at"
        " name_to_handle_at seccomp prctl shmget shmat shmctl semget semop semctl semtimedop msgget"
        " msgsnd msgrcv msgctl prlimit64 setpriority ioprio_set sched_setaffinity"
        " sched_setscheduler sched_setparam sched_setattr pidfd_getfd pidfd_send_signal swapon"
        " swapoff reboot settimeofday clock_settime adjtimex clock_adjtime acct sethostname"
        " setdomainname quotactl quotactl_fd syslog kcmp iopl ioperm vhangup personality"
        " memfd_create memfd_secret fanotify_init lookup_dcookie migrate_pages move_pages"
        " fchmodat2 setxattrat getxattrat removexattrat file_setattr"
    ),
}


class LoadError(Exception):
    """The probes cannot be put in place; the message says what this kernel lacks."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the loader reports: the pins' folder, whether it had to compile, and the unix hooks."""

    folder: Path
    compiled: bool
    unix_hooks: bool


def program_text() -> str:
    """All probes as one text, so that they share their maps.

    Includes are put in place here: BCC rewrites map accesses in the main file only.
    """
    included: set[str] = set()
    return offsets() + "".join(_inline(PROBES / name, included) for name in SOURCES)


def _inline(path: Path, included: set[str]) -> str:
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text().splitlines(), 2):
        match = INCLUDE.fullmatch(line)
        if match is None:
            lines.append(line)
        elif match[1] not in included:
            included.add(match[1])
            lines += [_inline(PROBES / "include" / match[1], included), f'#line {number} "{path.name}"']
    return "\n".join(lines) + "\n"


def version_digest(text: str) -> str:
    """Changes when a source, this loader, the kernel or a field offset does."""
    digest = hashlib.blake2b(text.encode(), digest_size=8)
    for path in (*sorted(PROBES.rglob("*.[ch]")), Path(__file__)):
        digest.update(path.read_bytes())
    digest.update("\0".join(os.uname()).encode())
    return digest.hexdigest()


def load(instance: str, cgroup: Path) -> Loaded:
    """Put the probes of `instance` in place, deciding for cgroups under `cgroup`."""
    tracing.mount_when_absent("bpf", tracing.BPFFS)
    tracing.mount_when_absent("tracefs", tracing.TRACEFS)
    text = program_text()
    unix_hooks = "OFF_bpf_sock_addr_kern_uaddrlen" in text
    root = pins.instance_folder(instance)
    folder = root / version_digest(text)
    if (folder / pins.COMPLETE).exists():
        return Loaded(folder, compiled=False, unix_hooks=unix_hooks)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    try:
        _compile_and_pin(text, folder, cgroup, unix_hooks)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for other in root.iterdir():
        if other != folder:
            shutil.rmtree(other)
    return Loaded(folder, compiled=True, unix_hooks=unix_hooks)


def _compile_and_pin(text: str, folder: Path, cgroup: Path, unix_hooks: bool) -> None:
    with tempfile.TemporaryDirectory() as stubs:
        write_stubs(Path(stubs))
        os.environ["BCC_KERNEL_SOURCE"] = stubs
        from bcc import BPF  # here: importing it loads LLVM

        try:
            module = BPF(text=text, cflags=["-Wno-everything"])
        except Exception as error:  # BCC raises bare Exception; clang's words are on stderr
            raise LoadError(f"the probes do not compile for this kernel: {error}") from error
    for name in MAPS:
        bpf.pin(module[name].map_fd, folder / name)
    for name, link in _attach(module, cgroup, unix_hooks):
        bpf.pin(link, folder / f"link_{name}")
        os.close(link)
    bpf.pin(module["lost"].map_fd, folder / pins.COMPLETE)


def _attach(module: Any, cgroup: Path, unix_hooks: bool) -> Iterator[tuple[str, int]]:
    """Attach every program; yields (name, link descriptor) for pinning."""
    for name, tracepoint in RAW_TRACEPOINTS.items():
        yield name, bpf.open_raw_tracepoint(tracepoint, _program(module, name, PROG_RAW_TRACEPOINT))
    for name, calls in CALL_EXITS.items():
        program = _program(module, name, PROG_TRACEPOINT)
        for call in calls.split():
            number = tracing.tracepoint_id("syscalls", f"sys_exit_{call}")
            if number is not None:
                event = tracing.open_tracepoint(number)
                yield f"{name}_{call}", bpf.create_link(program, event, bpf.BPF_PERF_EVENT)
                os.close(event)
    target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        programs = CGROUP_PROGRAMS | (UNIX_PROGRAMS if unix_hooks else {})
        for name, attach_type in programs.items():
            kind = PROG_CGROUP_SOCK if name == "ri_socket" else PROG_CGROUP_SOCK_ADDR
            program = _program(module, name, kind, attach_type)
            yield name, bpf.create_link(program, target, attach_type)
    finally:
        os.close(target)


def _program(module: Any, name: str, kind: int, attach_type: int = -1) -> int:
    try:
        return int(module.load_func(name, kind, attach_type=attach_type).fd)
    except Exception as error:  # BCC raises bare Exception; the verifier's log is on stderr
        raise LoadError(f"this kernel refuses the probe {name}: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(prog="ri-loader", description=__doc__)
    parser.add_argument("--instance", default="ri")
    parser.add_argument("--cgroup", type=Path, help="root cgroup of the instance")
    arguments = parser.parse_args()
    from monitor.kernel.cgroup import instance_root

    try:
        cgroup = arguments.cgroup or instance_root(arguments.instance)
        loaded = load(arguments.instance, cgroup)
    except (LoadError, BtfError, OSError) as error:
        print(f"ri-loader: {error}", file=sys.stderr)
        return 1
    print(f"{'compiled' if loaded.compiled else 'present'} {loaded.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

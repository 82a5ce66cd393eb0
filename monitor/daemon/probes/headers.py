# SPDX-License-Identifier: Apache-2.0
"""What BCC needs to compile without a kernel headers package: stub headers and BTF offsets.

BCC asks for a kernel source tree and includes a dozen of its files; its own built-in copies supply
the UAPI. The stubs give it base types; the offsets come from the running kernel, so that a probe
fits exactly the kernel it runs on.
"""

from __future__ import annotations

from pathlib import Path

from monitor.kernel.btf import Btf, BtfError

# Fields the probes read, by struct. `?` marks one that older kernels lack.
FIELDS = {
    "task_struct": "mm files fs pid tgid signal exit_code",
    "mm_struct": "arg_start arg_end",
    "signal_struct": "live flags group_exit_code",
    "files_struct": "fdt",
    "fdtable": "fd max_fds",
    "fs_struct": "pwd users?",
    "file": "f_path f_mode f_flags private_data",
    "path": "mnt dentry",
    "vfsmount": "mnt_root",
    "mount": "mnt_parent mnt_mountpoint mnt mnt_ns",
    "dentry": "d_parent d_name d_inode",
    "qstr": "name",
    "inode": "i_ino i_sb i_mode i_rdev",
    "super_block": "s_dev s_flags",
    "vm_area_struct": "vm_file",
    "linux_binprm": "file",
    "socket": "sk",
    "sock": "sk_type sk_protocol",
    "sock_common": "skc_family skc_num skc_rcv_saddr skc_v6_rcv_saddr",
    "sk_buff": "head end",
    "skb_shared_info": "flags",
    "pt_regs": "di si dx r10 r8 r9",
    "bpf_sock_addr_kern": "uaddr uaddrlen?",  # Linux kernel commit fefba7d1ae19 (in v6.7)
}
# Structs of which a probe reads several fields at once: field -> its size in bytes.
WINDOWS = {
    "file": {"f_mode": 4, "f_path": 16},
    "fdtable": {"max_fds": 4, "fd": 8},
    "dentry": {"d_parent": 8, "d_name": 16, "d_inode": 8},
}

BASE = """
#ifndef __RI_BASE_H
#define __RI_BASE_H
typedef signed char __s8; typedef unsigned char __u8;
typedef short __s16; typedef unsigned short __u16;
typedef int __s32; typedef unsigned int __u32;
typedef long long __s64; typedef unsigned long long __u64;
typedef __s8 s8; typedef __u8 u8; typedef __s16 s16; typedef __u16 u16;
typedef __s32 s32; typedef __u32 u32; typedef __s64 s64; typedef __u64 u64;
typedef __u16 __be16; typedef __u32 __be32; typedef __u64 __be64;
typedef __u16 __le16; typedef __u32 __le32; typedef __u64 __le64;
typedef __u32 __wsum; typedef __u16 __sum16;
typedef unsigned long size_t; typedef long ssize_t; typedef _Bool bool; typedef int pid_t;
typedef unsigned long uintptr_t; typedef unsigned int gfp_t;
#define true 1
#define false 0
#define NULL ((void *)0)
struct pt_regs { unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di,
    orig_ax, ip, cs, flags, sp, ss; };
#define __aligned_u64 __u64 __attribute__((aligned(8)))
#define CONFIG_BPF_SYSCALL 1
#define LINUX_VERSION_CODE 0x061200
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define IS_ENABLED(x) 0
#define PAGE_SIZE 4096
#define __user
#define __force
#define inline __attribute__((always_inline)) inline
#define __always_inline inline
#define offsetof(t, m) __builtin_offsetof(t, m)
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif
"""

# linux/bpf_common.h: the instruction classes that the UAPI's bpf.h includes.
BPF_COMMON = """
#define BPF_CLASS(code) ((code) & 0x07)
#define BPF_LD 0x00
#define BPF_LDX 0x01
#define BPF_ST 0x02
#define BPF_STX 0x03
#define BPF_ALU 0x04
#define BPF_JMP 0x05
#define BPF_RET 0x06
#define BPF_MISC 0x07
#define BPF_SIZE(code) ((code) & 0x18)
#define BPF_W 0x00
#define BPF_H 0x08
#define BPF_B 0x10
#define BPF_MODE(code) ((code) & 0xe0)
#define BPF_IMM 0x00
#define BPF_ABS 0x20
#define BPF_IND 0x40
#define BPF_MEM 0x60
#define BPF_LEN 0x80
#define BPF_MSH 0xa0
#define BPF_OP(code) ((code) & 0xf0)
#define BPF_ADD 0x00
#define BPF_SUB 0x10
#define BPF_MUL 0x20
#define BPF_DIV 0x30
#define BPF_OR 0x40
#define BPF_AND 0x50
#define BPF_LSH 0x60
#define BPF_RSH 0x70
#define BPF_NEG 0x80
#define BPF_MOD 0x90
#define BPF_XOR 0xa0
#define BPF_JA 0x00
#define BPF_JEQ 0x10
#define BPF_JGT 0x20
#define BPF_JGE 0x30
#define BPF_JSET 0x40
#define BPF_SRC(code) ((code) & 0x08)
#define BPF_K 0x00
#define BPF_X 0x08
"""

EMPTY = (
    "linux/types.h",
    "uapi/linux/ptrace.h",
    "uapi/linux/bpf.h",
    "uapi/linux/if_packet.h",
    "linux/version.h",
    "linux/log2.h",
    "asm/page.h",
    "linux/sched.h",
    "linux/fs.h",
    "asm/types.h",
    "asm/ptrace.h",
    "linux/ptrace.h",
)


def write_stubs(folder: Path) -> None:
    """Write the stub headers as a kernel source tree under `folder`."""
    contents = dict.fromkeys(EMPTY, "")
    contents["linux/kconfig.h"] = BASE
    contents["linux/bpf_common.h"] = BPF_COMMON
    for name, text in contents.items():
        path = folder / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def offsets() -> str:
    """`#define OFF_struct_field N` for every field; BtfError names one that is missing."""
    btf = Btf(FIELDS)
    lines = []
    for structure, fields in FIELDS.items():
        for field in fields.split():
            name = field.rstrip("?")
            offset = btf.offset(structure, name)
            if offset is not None:
                lines.append(f"#define OFF_{structure}_{name} {offset}")
            elif name == field:
                raise BtfError(f"this kernel's BTF has no {structure}.{name}; the probes need it")
    for structure, sizes in WINDOWS.items():
        lines += _window(btf, structure, sizes)
    return "\n".join(lines) + "\n"


def _window(btf: Btf, structure: str, sizes: dict[str, int]) -> list[str]:
    """START_ and SIZE_ of the stretch that holds the fields, in whole words."""
    places = {field: btf.offset(structure, field) or 0 for field in sizes}
    start = min(places.values()) & ~7
    end = max(place + sizes[field] for field, place in places.items())
    return [
        f"#define START_{structure} {start}",
        f"#define SIZE_{structure} {(end - start + 7) & ~7}",
    ]

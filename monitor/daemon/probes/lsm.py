# SPDX-License-Identifier: Apache-2.0
"""The part of the loader that is for BPF LSM: one copy of a program for each hook.

A function of probes/lsm.bpf.c serves several hooks. It is compiled once; for each hook the number
of the hook is put in place of a constant, and the copy is loaded for that hook. A hook that this
kernel lacks, or a copy that it refuses, is left out and told: the other layers hold without.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from monitor.kernel import bpf, tracing
from monitor.kernel.btf import Btf, BtfError
from monitor.wire.layout import Hook

SOURCE = "lsm.bpf.c"
MAPS = ("armed", "file_rules", "file_objects", "file_names")
LINK = "lsm_"
SECURITYFS = Path("/sys/kernel/security")
# The immediate that stands for the hook's number, in `mov64 register, immediate`.
_MARK = struct.Struct("<BBhi")
_MOV64_IMMEDIATE = 0xB7
_PLACEHOLDER = 0x72690000
# `mov64 r0, 0`, `exit`.
_NOTHING = bytes((0xB7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0))

HOOKS: dict[Hook, tuple[str, str]] = {
    Hook.FILE_OPEN: ("ri_lsm_path", "file_open"),
    Hook.FILE_PERMISSION: ("ri_lsm_held", "file_permission"),
    Hook.FILE_TRUNCATE: ("ri_lsm_path", "file_truncate"),  # Linux 6.2; path_truncate before
    Hook.BPRM_CHECK: ("ri_lsm_path", "bprm_check_security"),
    Hook.MMAP_FILE: ("ri_lsm_path", "mmap_file"),
    Hook.FILE_MPROTECT: ("ri_lsm_path", "file_mprotect"),
    Hook.PATH_UNLINK: ("ri_lsm_path", "path_unlink"),
    Hook.PATH_RMDIR: ("ri_lsm_path", "path_rmdir"),
    Hook.PATH_MKNOD: ("ri_lsm_path", "path_mknod"),
    Hook.PATH_MKDIR: ("ri_lsm_path", "path_mkdir"),
    Hook.PATH_SYMLINK: ("ri_lsm_path", "path_symlink"),
    Hook.PATH_RENAME: ("ri_lsm_path", "path_rename"),
    Hook.PATH_LINK: ("ri_lsm_path", "path_link"),
    Hook.PATH_TRUNCATE: ("ri_lsm_path", "path_truncate"),
    Hook.PATH_CHMOD: ("ri_lsm_path", "path_chmod"),
    Hook.PATH_CHOWN: ("ri_lsm_path", "path_chown"),
    Hook.SETXATTR: ("ri_lsm_path", "inode_setxattr"),
    Hook.REMOVEXATTR: ("ri_lsm_path", "inode_removexattr"),
}


def active() -> bool:
    """Whether `bpf` is among this kernel's active security modules, and takes programs."""
    try:
        tracing.mount_when_absent("securityfs", SECURITYFS)
        if "bpf" not in (SECURITYFS / "lsm").read_text().strip().split(","):
            return False
        hook = Btf((), functions=("bpf_lsm_file_open",)).function("bpf_lsm_file_open")
        if hook is None:
            return False
        # A kernel may list it and refuse programs all the same.
        os.close(bpf.load_lsm(_NOTHING, hook, "ri_try"))
    except (OSError, BtfError):
        return False
    return True


def copy_for(hook: Hook, instructions: bytes) -> bytes:
    """The program with the number of the hook in it; ValueError: it has no place for one."""
    found = bytearray(instructions)
    places = 0
    for offset in range(0, len(found), _MARK.size):
        code, registers, jump, value = _MARK.unpack_from(found, offset)
        if code == _MOV64_IMMEDIATE and value == _PLACEHOLDER:
            _MARK.pack_into(found, offset, code, registers, jump, hook)
            places += 1
    if not places:
        raise ValueError(f"the program for {hook.name} does not ask which hook it is for")
    return bytes(found)


def load(module: Any) -> Iterator[tuple[str, int | OSError]]:
    """(hook, program's descriptor) for every hook that this kernel has; or why it is refused."""
    btf = Btf((), functions=[f"bpf_lsm_{name}" for _program, name in HOOKS.values()])
    compiled: dict[str, bytes] = {}
    for hook, (function, name) in HOOKS.items():
        identity = btf.function(f"bpf_lsm_{name}")
        if identity is None:
            continue
        if function not in compiled:
            compiled[function] = module.dump_func(function)
        code = copy_for(hook, compiled[function])
        try:
            yield name, bpf.load_lsm(code, identity, f"ri_{name}")
        except OSError as error:
            yield name, error


def attach(module: Any) -> Iterator[tuple[str, int | OSError]]:
    """(hook, link's descriptor), as of `load`."""
    for name, program in load(module):
        if isinstance(program, OSError):
            yield name, program
            continue
        try:
            yield name, bpf.attach_lsm(program, name)
        except OSError as error:
            yield name, error
        finally:
            os.close(program)

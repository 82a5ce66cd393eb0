# SPDX-License-Identifier: Apache-2.0
"""The part of the mirror that is for the LSM programs; `layout` has all of it."""

from __future__ import annotations

import ctypes
from ctypes import c_char, c_uint16, c_uint32, c_uint64
from enum import IntEnum, IntFlag

__all__ = [
    "FILE_COMPONENTS",
    "FILE_LINK_BITS",
    "HOOK_CALLS",
    "ArmedFlag",
    "FileFlag",
    "Hook",
    "ri_armed",
    "ri_file_key",
    "ri_file_rules",
    "ri_file_value",
    "ri_name_key",
]

FILE_COMPONENTS = 64
FILE_LINK_BITS = 12
HOOK_CALLS = 64


class Hook(IntEnum):
    """enum ri_hook. From HOOK_CALLS on they stand for whole system calls."""

    FILE_OPEN = 1
    FILE_PERMISSION = 2
    FILE_TRUNCATE = 3
    BPRM_CHECK = 4
    MMAP_FILE = 5
    FILE_MPROTECT = 6
    PATH_UNLINK = 7
    PATH_RMDIR = 8
    PATH_MKNOD = 9
    PATH_MKDIR = 10
    PATH_SYMLINK = 11
    PATH_RENAME = 12
    PATH_LINK = 13
    PATH_TRUNCATE = 14
    PATH_CHMOD = 15
    PATH_CHOWN = 16
    SETXATTR = 17
    REMOVEXATTR = 18
    SOCKET_CREATE = 32
    SOCKET_CONNECT = 33
    SOCKET_SENDMSG = 34
    SOCKET_BIND = 35
    SOCKET_LISTEN = 36
    UNIX_STREAM = 37
    UNIX_SEND = 38
    FILE_RECEIVE = 39
    BPF = 64
    MOUNT = 65
    USERNS = 66
    PTRACE = 67
    TRACEME = 68
    KERNEL_READ = 69
    PERF = 70
    MOVE_MOUNT = 71
    KILL = 72


class ArmedFlag(IntFlag):
    """enum ri_armed_flag"""

    CANARY = 1


class FileFlag(IntFlag):
    """enum ri_file_flag"""

    HAS_NAMES = 1
    HAS_ENDS = 2


class ri_armed(ctypes.Structure):
    _fields_ = [
        ("flags", c_uint32),
        ("rules", c_uint32),
        ("calls", c_uint32),
        ("reserved", c_uint32),
        ("home", c_uint64),
    ]


class ri_file_rules(ctypes.Structure):
    _fields_ = [
        ("first", c_uint64),
        ("last", c_uint64),
        ("gap", c_uint64),
        ("any", c_uint64),
        ("holds", c_uint64),
        ("hide", c_uint64),
        ("read_only", c_uint64),
        ("no_exec", c_uint64),
        ("held", c_uint64),
        ("flags", c_uint32),
        ("terminal", c_uint32),
        ("grants", c_uint32),
        ("mapping", c_uint32),
        ("attributes", c_uint32),
        ("reserved", c_uint32),
        ("rules", c_uint16 * FILE_COMPONENTS),
    ]


class ri_file_key(ctypes.Structure):
    _fields_ = [("inode", c_uint64), ("device", c_uint32), ("rules", c_uint32)]


class ri_file_value(ctypes.Structure):
    _fields_ = [("starts", c_uint64), ("tree", c_uint32), ("own", c_uint32)]


class ri_name_key(ctypes.Structure):
    _fields_ = [
        ("prefix_length", c_uint32),
        ("rules", c_uint32),
        ("kind", c_uint32),
        ("reserved", c_uint32),
        ("name", c_char * 32),
    ]

# SPDX-License-Identifier: Apache-2.0
"""Landlock's rights by ABI. The launcher makes the calls; here is what a ruleset may name.

Source: uapi/linux/landlock.h, Documentation/userspace-api/landlock.rst.
"""

from __future__ import annotations

from enum import IntFlag


class Access(IntFlag):
    """LANDLOCK_ACCESS_FS_*."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


class Scope(IntFlag):
    """LANDLOCK_SCOPE_*: what reaches no process outside the domain."""

    ABSTRACT_UNIX_SOCKET = 1 << 0
    SIGNAL = 1 << 1


# The ABI that brought each right; those not named are of ABI 1.
SINCE = {Access.REFER: 2, Access.TRUNCATE: 3, Access.IOCTL_DEV: 5}
ABI_SCOPES = 6
# Nested rulesets: LANDLOCK_MAX_NUM_LAYERS, security/landlock/limits.h.
MAX_LAYERS = 16


def accesses(abi: int) -> Access:
    """Every right on files that a kernel with this ABI handles."""
    found = Access(0)
    for right in Access:
        if SINCE.get(right, 1) <= abi:
            found |= right
    return found


def scopes(abi: int) -> Scope:
    """Every scope that a kernel with this ABI has."""
    return Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL if abi >= ABI_SCOPES else Scope(0)

# SPDX-License-Identifier: Apache-2.0
"""Whom a thread acts as, and acting as that one: for good, in a process made for it.

Source: proc(5), setresuid(2), capset(2).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from monitor.kernel.libc import LIBC, oserror

CAPABILITY_VERSION = 0x20080522  # uapi/linux/capability.h: _LINUX_CAPABILITY_VERSION_3
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable: the lower 32, then the upper


@dataclass(frozen=True, slots=True)
class Credentials:
    """As the initial user namespace counts them; `capabilities` are those in effect."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int

    @classmethod
    def of(cls, thread: int) -> Credentials:
        """Those of a thread. OSError: it is gone."""
        fields: dict[str, list[str]] = {}
        with open(f"/proc/{thread}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                fields[key] = value.split()
        return cls(
            uid=int(fields["Uid"][1]),  # real, effective, saved, file system
            gid=int(fields["Gid"][1]),
            groups=tuple(map(int, fields.get("Groups", ()))),
            capabilities=int(fields["CapEff"][0], 16),
        )

    def take(self, *, same_namespace: bool) -> None:
        """Act as this one from now on, with no more capabilities. OSError.

        `same_namespace`: the capabilities were those in this process's own user namespace; in
        another one they say nothing about this host.
        """
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        kept = self.capabilities if same_namespace and self.uid == 0 else 0
        low, high = kept & 0xFFFFFFFF, kept >> 32
        header = _HEADER.pack(CAPABILITY_VERSION, 0)
        if LIBC.capset(header, _SETS.pack(low, low, 0, high, high, 0)) < 0:
            raise oserror("capset")


def same_user_namespace(thread: int) -> bool:
    """Whether a thread lives in this process's own. OSError: it is gone."""
    theirs = os.stat(f"/proc/{thread}/ns/user")
    ours = os.stat("/proc/self/ns/user")
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)

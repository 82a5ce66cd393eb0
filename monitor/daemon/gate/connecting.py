# SPDX-License-Identifier: Apache-2.0
"""A process that makes one connection to a unix socket, in the place of the thread that waits.

It acts as the user that the thread acts as: the host's permissions count, and the server sees that
user. What it connects is the thread's own socket. The name is looked up once; what it led to is
held by a descriptor, and connected to only if its server had bound it under a name that the rules
list. Renaming, linking or replacing what the name stands for changes nothing any more. It keeps the
gate's priority, because a thread waits for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import stat
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from monitor.kernel import unixdiag
from monitor.kernel.bpf import Map
from monitor.kernel.credentials import Credentials, same_user_namespace
from monitor.kernel.libc import LIBC, dies_with_parent
from monitor.wire.layout import ri_unix_ticket, struct_format

NR_OPENAT2 = 437  # asm/unistd_64.h
# uapi/linux/openat2.h. Links of /proc lead to objects themselves: none belongs in such a name.
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10
_HOW = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
_TICKET = struct.Struct(struct_format(ri_unix_ticket))
_CGROUP = struct.Struct("=Q")
_OUTCOME = struct.Struct("=i")
SO_COOKIE = 57  # asm-generic/socket.h


@dataclass(frozen=True, slots=True)
class Wanted:
    """`thread` wants its socket, of which `copy` is one, connected to `path` beneath `root`.

    `names` are those that every rule set lists, `cgroup` is the session's id.
    """

    thread: int
    copy: int
    root: int
    path: bytes
    names: frozenset[bytes]
    cgroup: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` 0: it is connected. `reason`: why the rules refuse it, "" where they do not."""

    error: int
    reason: str

    def pack(self) -> bytes:
        return _OUTCOME.pack(self.error) + os.fsencode(self.reason)

    @classmethod
    def unpack(cls, data: bytes) -> Outcome:
        """EPERM where the process died before it said anything."""
        if len(data) < _OUTCOME.size:
            return cls(errno.EPERM, "the gate could not make the connection")
        return cls(_OUTCOME.unpack_from(data)[0], os.fsdecode(data[_OUTCOME.size :]))


class Tickets:
    """What lets such a process past ri_connect_unix, once, on one socket."""

    def __init__(self, table: Map) -> None:
        """Takes `table` over; what a gate before this one has left is removed."""
        self._table = table
        for key in list(table):
            table.delete(key)

    def give(self, copy: int, cgroup: int) -> None:
        """To the calling process. OSError E2BIG: there is no room."""
        self._table.update(self._key(copy, os.getpid()), _CGROUP.pack(cgroup))

    def withdraw(self, copy: int, pid: int) -> None:
        self._table.delete(self._key(copy, pid))

    @property
    def descriptor(self) -> int:
        return self._table.fd

    @staticmethod
    def _key(copy: int, pid: int) -> bytes:
        with socket.socket(fileno=os.dup(copy)) as taken:
            cookie = taken.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
        return _TICKET.pack(int.from_bytes(cookie, "little"), pid, 0)


def start(wanted: Wanted, tickets: Tickets) -> tuple[int, int]:
    """(pid, a descriptor that its outcome comes from). OSError: there is no process to be had."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        os.close(ours)
        os.close(theirs)
        raise
    if pid:
        os.close(theirs)
        return pid, ours
    outcome = Outcome(errno.EPERM, "the gate could not make the connection")
    try:
        dies_with_parent(signal.SIGKILL)
        if os.getppid() == parent:
            _close_all_but({wanted.copy, wanted.root, theirs, tickets.descriptor})
            outcome = _connect(wanted, tickets, parent)
    finally:
        with suppress(OSError):
            os.write(theirs, outcome.pack())
        os._exit(0)


def _close_all_but(kept: Collection[int]) -> None:
    """The gate's listeners and groups are not kept open by who may wait long for a server."""
    last = 2
    for number in sorted(kept):
        os.closerange(last + 1, number)
        last = max(last, number)
    os.closerange(last + 1, 1 << 30)


def _connect(wanted: Wanted, tickets: Tickets, parent: int) -> Outcome:
    try:
        with open(f"/proc/{wanted.thread}/mountinfo", encoding="utf-8", errors="replace") as file:
            mounts = file.read()
        same = same_user_namespace(wanted.thread)
        who = Credentials.of(wanted.thread)
        tickets.give(wanted.copy, wanted.cgroup)
        os.close(tickets.descriptor)
        who.take(same_namespace=same)
        dies_with_parent(signal.SIGKILL)  # another user's process loses it
        if os.getppid() != parent:
            return Outcome(errno.EPERM, "")
        found = _open(wanted)
        if not stat.S_ISSOCK(os.fstat(found).st_mode):
            return Outcome(errno.ECONNREFUSED, "")
        bound = unixdiag.bound_names(*unixdiag.identity(found, mounts))
        if not bound:
            return Outcome(errno.ECONNREFUSED, "")  # nobody serves it any more
        if not bound & wanted.names:
            name = os.fsdecode(min(bound))
            return Outcome(errno.EPERM, f"what is there was bound as {name}, which no rule lists")
    except ValueError as error:
        return Outcome(errno.EPERM, str(error))
    except OSError as error:
        return Outcome(error.errno or errno.EPERM, "")
    address = struct.pack("=H", socket.AF_UNIX) + b"/proc/self/fd/%d\0" % found
    if LIBC.connect(ctypes.c_int(wanted.copy), address, ctypes.c_uint(len(address))) < 0:
        return Outcome(ctypes.get_errno(), "")
    return Outcome(0, "")


def _open(wanted: Wanted) -> int:
    found = LIBC.syscall(
        ctypes.c_long(NR_OPENAT2),
        ctypes.c_int(wanted.root),
        ctypes.c_char_p(wanted.path),
        ctypes.c_char_p(_HOW),
        ctypes.c_size_t(len(_HOW)),
    )
    if found < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), os.fsdecode(wanted.path))
    return int(found)

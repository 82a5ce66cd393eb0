# SPDX-License-Identifier: Apache-2.0
"""seccomp user notification: system calls that wait in the kernel for an answer.

The kernel writes each notification straight into memory that is shared by descriptor, so that one
which was taken by a process that died is found by the next. Source: seccomp_unotify(2),
uapi/linux/seccomp.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from monitor.kernel.libc import LIBC, oserror

# uapi/linux/seccomp.h
SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
SECCOMP_IOCTL_NOTIF_SEND = 0xC0182101
SECCOMP_IOCTL_NOTIF_ID_VALID = 0x40082102
SECCOMP_IOCTL_NOTIF_SET_FLAGS = 0x40082104
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP = 1  # Linux kernel commit 48a1084a8b74 (in v6.6)
# struct seccomp_notif: id, pid, flags, then struct seccomp_data: nr, arch, ip, args[6].
NOTIFICATION = struct.Struct("=QIIiIQ6Q")
# struct seccomp_notif_resp: id, val, error, flags.
RESPONSE = struct.Struct("=QqiI")
ID = struct.Struct("=Q")
# What /proc/PID/fd says of a listener.
LINK = "anon_inode:seccomp notify"

# Calls that can wait for one listener at a time; more wait in the kernel.
SLOTS = 32768
# Nothing waits any more, or the process that waited was interrupted or is gone.
GONE = (errno.ENOENT, errno.EINTR)

_ioctl = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, use_errno=True
)(("ioctl", LIBC))


@dataclass(slots=True)
class Notification:
    """One waiting call. `thread` is the id of the thread that made it, as this process sees it."""

    slot: int
    id: int
    thread: int
    number: int
    arguments: tuple[int, int, int, int, int, int]


def is_listener(descriptor: int) -> bool:
    """Whether it is the notification descriptor of a seccomp filter."""
    return os.readlink(f"/proc/self/fd/{descriptor}") == LINK


class Slots:
    """Shared memory with a place for each notification that was taken and not answered."""

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, SLOTS * NOTIFICATION.size)
        self._start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._free = [slot for slot in reversed(range(SLOTS)) if not self._id(slot)]

    @staticmethod
    def create() -> int:
        """A new one's descriptor."""
        descriptor = os.memfd_create("ri-slots", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, SLOTS * NOTIFICATION.size)
        return descriptor

    def _id(self, slot: int) -> int:
        return int(ID.unpack_from(self._memory, slot * NOTIFICATION.size)[0])

    def taken(self) -> Iterator[Notification]:
        """What was taken and not answered, when this began."""
        free = set(self._free)
        for slot in range(SLOTS):
            if slot not in free:
                yield self.read(slot)

    def read(self, slot: int) -> Notification:
        identity, thread, _flags, number, _arch, _ip, *arguments = NOTIFICATION.unpack_from(
            self._memory, slot * NOTIFICATION.size
        )
        return Notification(slot, identity, thread, number, tuple(arguments))

    @property
    def full(self) -> bool:
        return not self._free

    def take(self) -> tuple[int, int]:
        """(a free slot, the address of its memory)."""
        slot = self._free.pop()
        return slot, self._start + slot * NOTIFICATION.size

    def free(self, slot: int) -> None:
        at = slot * NOTIFICATION.size
        self._memory[at : at + NOTIFICATION.size] = bytes(NOTIFICATION.size)
        self._free.append(slot)


class Listener:
    """The notifications of one filter, with the slots that they are taken into."""

    def __init__(self, descriptor: int, slots: int) -> None:
        """Takes both descriptors over."""
        self.descriptor = descriptor
        self.slots = Slots(slots)
        os.close(slots)
        os.set_blocking(descriptor, False)
        try:
            # The flags are the argument itself.
            fcntl.ioctl(
                descriptor, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
            )
        except OSError as error:
            if error.errno != errno.EINVAL:  # before 6.6: answers take longer
                raise

    def fileno(self) -> int:
        return self.descriptor

    def receive(self) -> Notification | None:
        """Take one; None: there is none, or no room for it now. Must be readable, or it waits."""
        if self.slots.full:
            return None
        slot, address = self.slots.take()
        if _ioctl(self.descriptor, SECCOMP_IOCTL_NOTIF_RECV, address) < 0:
            error = ctypes.get_errno()
            self.slots.free(slot)
            if error in GONE:
                return None
            raise OSError(error, os.strerror(error), "seccomp notification")
        return self.slots.read(slot)

    def is_waiting(self, notification: Notification) -> bool:
        """Whether the call still waits: what was read of its process before is of its process."""
        return self._send(SECCOMP_IOCTL_NOTIF_ID_VALID, ID.pack(notification.id))

    def go_on(self, notification: Notification) -> bool:
        """Let the kernel make the call; False: it waits no more."""
        answer = RESPONSE.pack(notification.id, 0, 0, SECCOMP_USER_NOTIF_FLAG_CONTINUE)
        done = self._send(SECCOMP_IOCTL_NOTIF_SEND, answer)
        self.slots.free(notification.slot)
        return done

    def refuse(self, notification: Notification, error: int) -> bool:
        """Fail the call with errno `error`; False: it waits no more."""
        done = self._send(SECCOMP_IOCTL_NOTIF_SEND, RESPONSE.pack(notification.id, 0, -error, 0))
        self.slots.free(notification.slot)
        return done

    def succeed(self, notification: Notification) -> bool:
        """Let the call return 0 without being made; False: it waits no more."""
        done = self._send(SECCOMP_IOCTL_NOTIF_SEND, RESPONSE.pack(notification.id, 0, 0, 0))
        self.slots.free(notification.slot)
        return done

    def forget(self, notification: Notification) -> None:
        """The call waits no more."""
        self.slots.free(notification.slot)

    def _send(self, request: int, data: bytes) -> bool:
        if _ioctl(self.descriptor, request, data) < 0:
            if ctypes.get_errno() in GONE:
                return False
            raise oserror("seccomp notification")
        return True

    def close(self) -> None:
        os.close(self.descriptor)

# SPDX-License-Identifier: Apache-2.0
"""Mounts by descriptor: the new mount API, openat2, and who owns a mount namespace.

Everything works on descriptors, so that a name that changes meanwhile cannot send a mount
elsewhere. Sources: uapi/linux/mount.h, uapi/linux/openat2.h, uapi/linux/nsfs.h, open_tree(2),
move_mount(2), mount_setattr(2), statx(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from monitor.kernel.libc import LIBC, MS_REC, mount, oserror, syscall

# asm/unistd_64.h
NR_STATX = 332
NR_OPEN_TREE = 428
NR_MOVE_MOUNT = 429
NR_FSOPEN = 430
NR_FSCONFIG = 431
NR_FSMOUNT = 432
NR_OPENAT2 = 437
NR_MOUNT_SETATTR = 442

# uapi/linux/fcntl.h
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# uapi/linux/mount.h
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
MOUNT_ATTR_RDONLY = 0x01
MOUNT_ATTR_NOSUID = 0x02
MOUNT_ATTR_NODEV = 0x04
MOUNT_ATTR_NOEXEC = 0x08

# uapi/linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

# uapi/linux/stat.h: struct statx, and where stx_mnt_id stands in it.
STATX_MNT_ID = 0x1000
STATX_BYTES = 256
STATX_MNT_ID_OFFSET = 0x90

# uapi/linux/nsfs.h
NS_GET_USERNS = 0xB701
NS_GET_PARENT = 0xB702
NS_GET_OWNER_UID = 0xB704

# What cannot be opened for one of these is not there: it may have gone meanwhile.
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

_OPEN_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve
_MOUNT_ATTR = struct.Struct("=QQQQ")  # struct mount_attr: set, clear, propagation, userns_fd
_EMPTY = ctypes.c_char_p(b"")
_ROOT_DIRECTORY = "/"


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """A descriptor of `path` beneath `directory`; ELOOP or EXDEV where `resolve` bars it."""
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, 0, resolve)
    return syscall(
        NR_OPENAT2,
        ctypes.c_int(directory),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_char_p(how),
        ctypes.c_size_t(len(how)),
        what=path,
    )


def open_root() -> int:
    """The caller's root directory, as a path descriptor."""
    return os.open(_ROOT_DIRECTORY, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def open_entry(directory: int, name: str) -> int:
    """A path descriptor of one entry, on the topmost mount there; a symlink is opened itself."""
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def open_plain(root: int, path: str) -> int | None:
    """A path descriptor of `path` with no symbolic link on the way; None where there is none."""
    try:
        return openat2(
            root, path.lstrip("/") or ".", os.O_PATH | os.O_NOFOLLOW, RESOLVE_NO_SYMLINKS
        )
    except OSError as error:
        if error.errno in GONE:
            return None
        raise


def clone(fd: int, what: str, recursive: bool = True) -> int:
    """A detached copy of the mount at `fd`, rooted there, with the mounts beneath it."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH
    return syscall(
        NR_OPEN_TREE,
        ctypes.c_int(fd),
        _EMPTY,
        ctypes.c_uint(flags | (AT_RECURSIVE if recursive else 0)),
        what=what,
    )


def attach(detached: int, onto: int, what: str) -> None:
    """Mount `detached` over what `onto` stands for; `detached` then names the mounted root."""
    syscall(
        NR_MOVE_MOUNT,
        ctypes.c_int(detached),
        _EMPTY,
        ctypes.c_int(onto),
        _EMPTY,
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH),
        what=what,
    )


def attach_entry(folder: int, name: str, onto: int, what: str) -> None:
    """Mount a copy of the entry `name` of `folder` over what `onto` stands for."""
    source = open_entry(folder, name)
    try:
        copy = clone(source, what, recursive=False)
    finally:
        os.close(source)
    try:
        attach(copy, onto, what)
    finally:
        os.close(copy)


def add_attributes(fd: int, attributes: int, what: str, recursive: bool = True) -> None:
    """Set MOUNT_ATTR_* on the mount at `fd`, and on those beneath it."""
    request = _MOUNT_ATTR.pack(attributes, 0, 0, 0)
    syscall(
        NR_MOUNT_SETATTR,
        ctypes.c_int(fd),
        _EMPTY,
        ctypes.c_uint(AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)),
        ctypes.c_char_p(request),
        ctypes.c_size_t(len(request)),
        what=what,
    )


def new_filesystem(kind: str, options: Mapping[str, str], attributes: int) -> int:
    """A new file system of `kind`, as a detached mount with MOUNT_ATTR_* `attributes`."""
    context = syscall(
        NR_FSOPEN, ctypes.c_char_p(kind.encode()), ctypes.c_uint(FSOPEN_CLOEXEC), what=kind
    )
    try:
        for key, value in options.items():
            _configure(context, FSCONFIG_SET_STRING, key.encode(), value.encode(), kind)
        _configure(context, FSCONFIG_CMD_CREATE, None, None, kind)
        return syscall(
            NR_FSMOUNT,
            ctypes.c_int(context),
            ctypes.c_uint(FSMOUNT_CLOEXEC),
            ctypes.c_uint(attributes),
            what=kind,
        )
    finally:
        os.close(context)


def _configure(
    context: int, command: int, key: bytes | None, value: bytes | None, kind: str
) -> None:
    syscall(
        NR_FSCONFIG,
        ctypes.c_int(context),
        ctypes.c_uint(command),
        ctypes.c_char_p(key),
        ctypes.c_char_p(value),
        ctypes.c_int(0),
        what=f"{kind} {key.decode()}" if key else kind,
    )


def make_private() -> None:
    """No mount of the caller's namespace gives to or takes from another namespace any more."""
    mount(None, _ROOT_DIRECTORY, None, MS_REC | MS_PRIVATE)


def unmount(fd: int, what: str) -> None:
    """Take away the mount whose root is `fd`. Changes the working directory to the root."""
    os.fchdir(fd)
    result = LIBC.umount2(ctypes.c_char_p(b"."), ctypes.c_int(MNT_DETACH))
    error = oserror(what) if result < 0 else None
    os.chdir(_ROOT_DIRECTORY)
    if error is not None:
        raise error


def mount_id(fd: int) -> int:
    """The id of the mount that `fd` was opened on, as mountinfo counts them."""
    buffer = ctypes.create_string_buffer(STATX_BYTES)
    syscall(
        NR_STATX,
        ctypes.c_int(fd),
        _EMPTY,
        ctypes.c_int(AT_EMPTY_PATH),
        ctypes.c_uint(STATX_MNT_ID),
        buffer,
        what=f"descriptor {fd}",
    )
    (number,) = struct.unpack_from("=Q", buffer, STATX_MNT_ID_OFFSET)
    return int(number)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo: the part `root` of the file system `device` is seen at `point`."""

    id: int
    device: str
    root: str
    point: str


def mounts() -> list[Mount]:
    """The mounts of the caller's namespace (proc_pid_mountinfo(5))."""
    with open("/proc/self/mountinfo", "rb") as file:
        lines = file.read().splitlines()
    found = []
    for line in lines:
        number, _parent, device, root, point = line.split(b" ", 5)[:5]
        found.append(Mount(int(number), device.decode(), _plain(root), _plain(point)))
    return found


def _plain(field: bytes) -> str:
    """Undo the octal escapes of space, tab, newline and backslash."""
    if b"\\" in field:
        for character in (b" ", b"\t", b"\n", b"\\"):
            field = field.replace(b"\\%03o" % ord(character), character)
    return os.fsdecode(field)


def owning_user_namespace(namespace: int) -> int:
    """A descriptor of the user namespace that owns `namespace`."""
    return fcntl.ioctl(namespace, NS_GET_USERNS)


def parent_user_namespace(namespace: int) -> int:
    """A descriptor of the user namespace that `namespace` was made in."""
    return fcntl.ioctl(namespace, NS_GET_PARENT)


def owner_uid(namespace: int) -> int:
    """The user, as the caller's user namespace counts, who made user namespace `namespace`."""
    buffer = bytearray(4)
    fcntl.ioctl(namespace, NS_GET_OWNER_UID, buffer)
    return int(struct.unpack("=I", buffer)[0])

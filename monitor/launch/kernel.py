# SPDX-License-Identifier: Apache-2.0
"""The launcher's own system calls, by number (x86_64), through the C library's syscall(2).

On `_ctypes` and not on `ctypes`: the package around it takes four milliseconds to import, a fifth
of what a launch may cost. Structures are packed by hand for the same reason; all are little-endian.
Every call raises OSError.
"""

import errno
import os
import stat
from _ctypes import CFuncPtr, _SimpleCData, addressof, dlopen, dlsym, get_errno

# asm/unistd_64.h
NR_CAPSET = 126
NR_PRCTL = 157
NR_UNSHARE = 272
NR_SIGNALFD4 = 289
NR_PRLIMIT64 = 302
NR_SECCOMP = 317
NR_CLOSE_RANGE = 436
NR_OPENAT2 = 437
NR_LANDLOCK_CREATE_RULESET = 444
NR_LANDLOCK_ADD_RULE = 445
NR_LANDLOCK_RESTRICT_SELF = 446

# uapi/linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

# uapi/linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# uapi/linux/securebits.h: NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE set and locked,
# KEEP_CAPS locked as it is (off). User id 0 then stands for no capability at all.
SECURE_ALL_LOCKED = 0b1110_1111

# uapi/linux/capability.h
CAPABILITY_VERSION_3 = 0x20080522
CAP_LAST = 63  # the sets have 64 bits; EINVAL tells where the kernel's own end is

# uapi/linux/close_range.h
CLOSE_RANGE_CLOEXEC = 4
LAST_DESCRIPTOR = 0xFFFFFFFF

# uapi/linux/fcntl.h, uapi/linux/openat2.h
AT_FDCWD = -100
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04

# uapi/linux/landlock.h
LANDLOCK_RULE_PATH_BENEATH = 1
LANDLOCK_ACCESS_FS_EXECUTE = 1 << 0
LANDLOCK_ACCESS_FS_WRITE_FILE = 1 << 1
LANDLOCK_ACCESS_FS_READ_FILE = 1 << 2
LANDLOCK_ACCESS_FS_TRUNCATE = 1 << 14
LANDLOCK_ACCESS_FS_IOCTL_DEV = 1 << 15
# The rights that a rule on a plain file may grant; others are EINVAL.
LANDLOCK_FILE_RIGHTS = (
    LANDLOCK_ACCESS_FS_EXECUTE
    | LANDLOCK_ACCESS_FS_WRITE_FILE
    | LANDLOCK_ACCESS_FS_READ_FILE
    | LANDLOCK_ACCESS_FS_TRUNCATE
    | LANDLOCK_ACCESS_FS_IOCTL_DEV
)

# uapi/linux/seccomp.h
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
FILTER_INSTRUCTION = 8  # bytes of struct sock_filter, uapi/linux/filter.h

# asm-generic/resource.h
RLIMIT_NOFILE = 7

# uapi/linux/signalfd.h
SFD_CLOEXEC = os.O_CLOEXEC
SFD_NONBLOCK = os.O_NONBLOCK
SIGNALFD_SIGINFO = 128  # bytes of struct signalfd_siginfo


class _Long(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "l"


class _Byte(_SimpleCData):  # type: ignore[type-arg]
    _type_ = "c"


class _Function(CFuncPtr):
    _flags_ = 0x1 | 0x8  # FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _restype_ = _Long


_syscall = _Function(dlsym(dlopen(None, 0), "syscall"))  # type: ignore[arg-type]


def call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call; bytes are passed by their address. Its result, or OSError."""
    result: int = _syscall(
        _Long(number), *[_Long(each) if isinstance(each, int) else each for each in arguments]
    )
    if result < 0:
        error = get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def prctl(option: int, argument: int = 0) -> int:
    return call(NR_PRCTL, option, argument, 0, 0, 0)


def unshare(flags: int) -> None:
    call(NR_UNSHARE, flags)


def close_on_exec(first: int) -> None:
    """Mark every descriptor from `first` on: none of them gets into the next program."""
    call(NR_CLOSE_RANGE, first, LAST_DESCRIPTOR, CLOSE_RANGE_CLOEXEC)


def open_path(path: bytes) -> int:
    """An O_PATH descriptor; OSError ELOOP where any part of `path` is a symbolic link."""
    how = _u64(os.O_PATH | os.O_CLOEXEC) + _u64(0) + _u64(RESOLVE_NO_SYMLINKS)
    try:
        return call(NR_OPENAT2, AT_FDCWD, path + b"\0", how, len(how))
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        return _walk(path)


def _walk(path: bytes) -> int:
    """As above, name by name: openat2(2) is refused in a session inside a strict one."""
    here = os.open("/", os.O_PATH | os.O_CLOEXEC)
    for name in path.split(b"/"):
        if not name:
            continue
        try:
            found = os.open(name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=here)
        finally:
            os.close(here)
        if stat.S_ISLNK(os.fstat(found).st_mode):
            os.close(found)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        here = found
    return here


def limit_files(count: int) -> None:
    """Hold this process to `count` descriptors, or fewer where it already is."""
    old = bytearray(16)
    call(NR_PRLIMIT64, 0, RLIMIT_NOFILE, None, _writable(old))
    hard = int.from_bytes(old[8:], "little")
    new = _u64(min(count, hard))
    call(NR_PRLIMIT64, 0, RLIMIT_NOFILE, new + new, None)


def _writable(buffer: bytearray) -> int:
    """The address of `buffer`, which must stay alive and keep its length."""
    return addressof((_Byte * len(buffer)).from_buffer(buffer))


def drop_bounding_set() -> None:
    """No capability can be gained by any later exec; needs CAP_SETPCAP."""
    for number in range(CAP_LAST + 1):
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == 22:  # EINVAL: the kernel knows no more of them
                return
            raise


def lock_securebits() -> None:
    """User id 0 stands for nothing from now on, and nothing can change it; needs CAP_SETPCAP."""
    prctl(PR_SET_SECUREBITS, SECURE_ALL_LOCKED)


def drop_capabilities() -> None:
    """Empty the effective, permitted, inheritable and ambient sets."""
    call(NR_PRCTL, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    call(NR_CAPSET, _u32(CAPABILITY_VERSION_3) + _u32(0), bytes(24))


def landlock_ruleset(files: int, scopes: int) -> int:
    """A ruleset that handles these file rights and scopes; a descriptor."""
    # handled_access_fs, handled_access_net, scoped. The kernel takes a shorter struct for an
    # older ABI, and a longer one as long as what it does not know is zero.
    attributes = _u64(files) + _u64(0) + _u64(scopes)
    return call(NR_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)


def landlock_allow(ruleset: int, parent: int, rights: int) -> None:
    """Allow `rights` on the object of descriptor `parent` and on what is beneath it."""
    attributes = _u64(rights) + _u32(parent)  # packed
    call(NR_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, attributes, 0)


def landlock_restrict(ruleset: int) -> None:
    call(NR_LANDLOCK_RESTRICT_SELF, ruleset, 0)


def install_filter(code: bytes, *, listen: bool) -> int:
    """Put on a seccomp filter: an array of struct sock_filter.

    `listen`: the descriptor that its notifications come to; EBUSY where one exists already. Else 0.
    """
    count, rest = divmod(len(code), FILTER_INSTRUCTION)
    if rest or not count or count > 0xFFFF:
        raise OSError(22, "not a seccomp filter")
    buffer = (_Byte * len(code)).from_buffer_copy(code)
    # struct sock_fprog: unsigned short len, padding, pointer.
    program = _u64(count) + _u64(addressof(buffer))
    flags = SECCOMP_FILTER_FLAG_NEW_LISTENER if listen else 0
    return call(NR_SECCOMP, SECCOMP_SET_MODE_FILTER, flags, program)


def signal_descriptor(signals: "set[int]") -> int:
    """A descriptor on which the (blocked) `signals` arrive as struct signalfd_siginfo."""
    mask = 0
    for number in signals:
        mask |= 1 << number - 1
    return call(NR_SIGNALFD4, -1, _u64(mask), 8, SFD_CLOEXEC | SFD_NONBLOCK)

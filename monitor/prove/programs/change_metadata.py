# SPDX-License-Identifier: Apache-2.0
"""Changes a file that no rule names: `change_metadata.py WAY FILE`.

`mode3` opens with neither the right to read nor to write, which is enough for ioctl;
`mode3-open` does by the older call, `mode3-openat2` with the flags in memory. The others are calls
that older filters do not know.
"""

import ctypes
import fcntl
import os
import struct
import sys

from attempt import attempt, call

OPEN, OPENAT2, FCHMODAT2, SETXATTRAT, FILE_SETATTR = 2, 437, 452, 463, 469
AT_FDCWD, O_ACCMODE, FS_IOC_SETFLAGS, FS_NODUMP_FL = -100, 3, 0x40086602, 0x40
way, name = sys.argv[1], sys.argv[2].encode()


def set_flags(fd: int) -> None:
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("=q", FS_NODUMP_FL | 0x80000))  # and extents


def openat2() -> int:
    how = struct.pack("=QQQ", O_ACCMODE, 0, 0)
    return call(OPENAT2, AT_FDCWD, name, ctypes.c_char_p(how), len(how))


def setxattrat() -> int:
    value = ctypes.create_string_buffer(b"x")
    # struct xattr_args: value, size, flags
    request = struct.pack("=QII", ctypes.addressof(value), 1, 0)
    return call(SETXATTRAT, AT_FDCWD, name, 0, b"user.ri", ctypes.c_char_p(request), len(request))


def file_setattr() -> int:
    # struct file_attr: fa_xflags, fa_extsize, fa_nextents, fa_projid, fa_cowextsize
    request = struct.pack("=QIIII", 0x80, 0, 0, 0, 0)  # FS_XFLAG_NODUMP
    return call(FILE_SETATTR, AT_FDCWD, name, ctypes.c_char_p(request), len(request), 0)


attempt(
    {
        "mode3": lambda: set_flags(os.open(name, O_ACCMODE)),
        "mode3-open": lambda: set_flags(call(OPEN, name, O_ACCMODE)),
        "mode3-openat2": lambda: set_flags(openat2()),
        "fchmodat2": lambda: call(FCHMODAT2, AT_FDCWD, name, 0o644, 0),
        "setxattrat": setxattrat,
        "file_setattr": file_setattr,
    }[way]
)

# SPDX-License-Identifier: Apache-2.0
"""getpid(2) by another system call table: `compat.py ia32` by int 0x80, `x32` by the x32 bit.

What a filter says of one table does not hold for another.
"""

import ctypes
import errno
import mmap
import sys

from attempt import call, done

X32_BIT, GETPID = 0x40000000, 39
# mov $20 (ia32's getpid), %eax; int $0x80; ret
CODE = bytes.fromhex("b814000000cd80c3")


def ia32() -> int:
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


def x32() -> int:
    try:
        return call(X32_BIT | GETPID)
    except OSError as error:
        if error.errno == errno.ENOSYS:  # a kernel without x32, but it was asked
            return 0
        raise


done({"ia32": ia32, "x32": x32}[sys.argv[1]]())

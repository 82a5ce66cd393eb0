# SPDX-License-Identifier: Apache-2.0
"""FS_IOC_SETFLAGS with a bit above the 32 that the kernel looks at: `upper_half_ioctl.py FILE`."""

import ctypes
import os
import sys

from attempt import attempt, call

IOCTL = 16
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
fd = os.open(sys.argv[1], os.O_RDONLY)
flags = ctypes.c_long()
call(IOCTL, fd, FS_IOC_GETFLAGS, ctypes.byref(flags))
attempt(lambda: call(IOCTL, fd, FS_IOC_SETFLAGS | 1 << 32, ctypes.byref(flags)))

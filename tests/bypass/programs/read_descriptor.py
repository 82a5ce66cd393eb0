# SPDX-License-Identifier: Apache-2.0
"""Reads from a descriptor that the launcher's caller left open: `read_descriptor.py FD`."""

import os
import sys

from attempt import attempt

attempt(lambda: os.pread(int(sys.argv[1]), 20, 0))

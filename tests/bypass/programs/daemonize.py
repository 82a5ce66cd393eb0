# SPDX-License-Identifier: Apache-2.0
"""Leaves the process tree by two forks and setsid, and writes FILE a while after."""

import os
import sys
import time
from pathlib import Path

if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        time.sleep(0.5)
        Path(sys.argv[1]).write_text("still here")
    os._exit(0)
os.wait()
print("DONE")

# SPDX-License-Identifier: Apache-2.0
"""Read NAME once FLAG exists: `wait_and_read.py FLAG NAME`."""

import sys
import time
from pathlib import Path

from attempt import attempt

flag, name = map(Path, sys.argv[1:])
print("waits", flush=True)
while not flag.exists():
    time.sleep(0.01)
attempt(name.read_text)

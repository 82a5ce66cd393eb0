# SPDX-License-Identifier: Apache-2.0
"""Runs a program by each of the names given, and by links that it makes to the first."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

from attempt import attempt, done

names = sys.argv[1:]
for name, make in (("by-symlink", os.symlink), ("by-link", os.link)):
    other = Path(f"{names[0]}-{name}")
    other.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        make(names[0], other)
        names.insert(0, str(other))
for name in names[:-1]:
    with contextlib.suppress(OSError):
        done(subprocess.run([name], check=True).args)
attempt(lambda: subprocess.run([names[-1]], check=True))

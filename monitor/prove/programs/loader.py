# SPDX-License-Identifier: Apache-2.0
"""Starts PROGRAM, which may not be executed, through LOADER: `loader.py LOADER PROGRAM`."""

import mmap
import subprocess
import sys
from pathlib import Path

from attempt import attempt, done

loader, program = sys.argv[1:]
if subprocess.run([loader, program], stderr=subprocess.DEVNULL).returncode == 0:
    done("it ran")


def map_it() -> None:
    """What the loader does with it: the errno says who refused."""
    with Path(program).open("rb") as file:
        mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
    raise OSError(0, "the loader failed for another reason")


attempt(map_it)

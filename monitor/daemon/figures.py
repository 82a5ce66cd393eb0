# SPDX-License-Identifier: Apache-2.0
"""What the host says of itself at this moment: its load, and the memory that is available."""

from __future__ import annotations

import os
from pathlib import Path

from monitor.policy.holding import Figures

MEMINFO = Path("/proc/meminfo")
AVAILABLE = "MemAvailable:"


def figures() -> Figures:
    """Both, read anew; OSError where the host does not say."""
    for line in MEMINFO.read_text().splitlines():
        if line.startswith(AVAILABLE):
            return Figures(os.getloadavg()[0], int(line.split()[1]) * 1024)
    raise OSError(f"{MEMINFO} has no {AVAILABLE}")

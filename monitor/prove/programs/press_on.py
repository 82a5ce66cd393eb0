# SPDX-License-Identifier: Apache-2.0
"""Changes how a process outside runs: `press_on.py prlimit|priority|ioprio|affinity PID`."""

import ctypes
import os
import resource
import sys

from attempt import attempt, call

PRLIMIT64, IOPRIO_SET, IOPRIO_WHO_PROCESS = 302, 251, 1
BEST_EFFORT_LOWEST = 2 << 13 | 7
way, pid = sys.argv[1], int(sys.argv[2])
attempt(
    {
        "prlimit": lambda: call(
            PRLIMIT64, pid, resource.RLIMIT_CPU, None, ctypes.create_string_buffer(16)
        ),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, pid, 5),
        "ioprio": lambda: call(IOPRIO_SET, IOPRIO_WHO_PROCESS, pid, BEST_EFFORT_LOWEST),
        "affinity": lambda: os.sched_setaffinity(pid, [0]),
    }[way]
)

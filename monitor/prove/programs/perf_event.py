# SPDX-License-Identifier: Apache-2.0
"""Opens a performance counter on itself: the task clock, which any user may count."""

import ctypes
import struct

from attempt import attempt, call

PERF_EVENT_OPEN = 298
PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK, EXCLUDE_KERNEL_AND_HV = 1, 1, 1 << 5 | 1 << 6
# struct perf_event_attr, first version: type, size, config, period, sample and read format, flags
request = struct.pack(
    "=IIQQQQQ24x",
    PERF_TYPE_SOFTWARE,
    72,
    PERF_COUNT_SW_TASK_CLOCK,
    0,
    0,
    0,
    EXCLUDE_KERNEL_AND_HV,
)
attempt(lambda: call(PERF_EVENT_OPEN, ctypes.create_string_buffer(request), 0, -1, -1, 0))

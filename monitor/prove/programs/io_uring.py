# SPDX-License-Identifier: Apache-2.0
"""Sets up an io_uring: its operations are no system calls."""

import ctypes

from attempt import attempt, call

IO_URING_SETUP = 425
attempt(lambda: call(IO_URING_SETUP, 8, ctypes.create_string_buffer(120)))

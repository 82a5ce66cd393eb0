# SPDX-License-Identifier: Apache-2.0
"""One system call with integer arguments: `call.py NUMBER ARGUMENT ...`."""

import os
import sys

from attempt import attempt, call

CLONE = 56
number, *arguments = (int(word, 0) for word in sys.argv[1:])


def act() -> int:
    result = call(number, *arguments)
    if result == 0 and number == CLONE:  # this is the child
        os._exit(0)
    return result


attempt(act)

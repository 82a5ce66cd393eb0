# SPDX-License-Identifier: Apache-2.0
"""socket(2) with FAMILY TYPE PROTOCOL."""

import sys

from attempt import attempt, call

SOCKET = 41
attempt(lambda: call(SOCKET, *(int(word, 0) for word in sys.argv[1:])))

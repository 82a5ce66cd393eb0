# SPDX-License-Identifier: Apache-2.0
"""Sends from one end of a socketpair to a unix socket outside: no socket(2), no connect(2)."""

import socket
import sys

from attempt import attempt

mine, _other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
attempt(lambda: mine.sendto(b"data", sys.argv[1]))

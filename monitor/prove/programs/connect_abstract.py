# SPDX-License-Identifier: Apache-2.0
"""Connects to a process outside by an abstract unix socket name."""

import socket
import sys

from attempt import attempt

attempt(lambda: socket.socket(socket.AF_UNIX).connect("\0" + sys.argv[1]))

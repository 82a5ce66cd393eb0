# SPDX-License-Identifier: Apache-2.0
"""Connects to a unix socket by its path, as one does to a container engine."""

import socket
import sys

from attempt import attempt

attempt(lambda: socket.socket(socket.AF_UNIX).connect(sys.argv[1]))

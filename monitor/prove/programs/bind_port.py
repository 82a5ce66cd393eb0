# SPDX-License-Identifier: Apache-2.0
"""Binds a TCP socket to ADDRESS and any port, to be connected to."""

import socket
import sys

from attempt import attempt

with socket.socket() as listener:
    attempt(lambda: listener.bind((sys.argv[1], 0)))

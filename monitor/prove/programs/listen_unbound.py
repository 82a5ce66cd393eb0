# SPDX-License-Identifier: Apache-2.0
"""Listens without binding: the kernel chooses a port, and no bind hook is asked."""

import socket

from attempt import attempt

with socket.socket() as listener:
    attempt(listener.listen)

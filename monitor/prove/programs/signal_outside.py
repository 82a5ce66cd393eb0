# SPDX-License-Identifier: Apache-2.0
"""Signals a process outside the session: `signal_outside.py PID`. SIGCONT does nothing to it."""

import os
import signal
import sys

from attempt import attempt

attempt(lambda: os.kill(int(sys.argv[1]), signal.SIGCONT))

# SPDX-License-Identifier: Apache-2.0
"""Runs a setuid root copy of id(1) and looks whether it became root."""

import subprocess
import sys

from attempt import done, refused

said = subprocess.run(
    [sys.argv[1], "-u"], capture_output=True, text=True, check=True
).stdout.strip()
if said == "0":
    done("root")
refused("it ran as the caller")

# SPDX-License-Identifier: Apache-2.0
"""Opens an existing file for writing and writes nothing."""

import os
import sys

from attempt import attempt

attempt(lambda: os.open(sys.argv[1], os.O_WRONLY))

# SPDX-License-Identifier: Apache-2.0
"""Makes LINK in a writable folder to FILE outside of it, and reads it."""

import sys
from pathlib import Path

from attempt import attempt

link, target = map(Path, sys.argv[1:])
link.unlink(missing_ok=True)
link.symlink_to(target)
attempt(link.read_text)

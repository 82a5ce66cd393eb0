# SPDX-License-Identifier: Apache-2.0
"""One operation on a name: `change_name.py OPERATION NAME [NEW]`."""

import os
import sys
from pathlib import Path

from attempt import attempt

way, name, *rest = sys.argv[1:]
new = rest[0] if rest else ""
attempt(
    {
        "read": lambda: Path(name).read_text(),
        "create": lambda: os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755),
        "write": lambda: os.open(name, os.O_WRONLY),
        "truncate": lambda: os.truncate(name, 0),
        "remove": lambda: Path(name).unlink(),
        "rename": lambda: Path(name).rename(new),
        "link": lambda: os.link(name, new),
    }[way]
)

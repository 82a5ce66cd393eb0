# SPDX-License-Identifier: Apache-2.0
"""Reads a file by each of the names given; one that can be read is enough."""

import sys
from pathlib import Path

from attempt import attempt, done

*others, last = sys.argv[1:]
for name in others:
    try:
        done(Path(name).read_bytes()[:20])
    except OSError as error:
        print(name, error.strerror)
attempt(lambda: Path(last).read_bytes()[:20])

# SPDX-License-Identifier: Apache-2.0
"""Looks how many ids its `own` user namespace holds: with more, its owner could be them."""

from pathlib import Path

from attempt import done, refused

ids = sum(int(line.split()[2]) for line in Path("/proc/self/uid_map").read_text().splitlines())
if ids > 1:
    done(f"{ids} ids")
refused("one id")

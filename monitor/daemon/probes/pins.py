# SPDX-License-Identifier: Apache-2.0
"""Where the loader pins an instance's maps and links, and how the worker finds them."""

from __future__ import annotations

import errno
from pathlib import Path

from monitor.kernel.tracing import BPFFS

# Pinned last: a folder that holds it is complete.
COMPLETE = "complete"


def instance_folder(instance: str) -> Path:
    """The folder of all versions of an instance's pins."""
    return BPFFS / instance


def current(instance: str) -> Path:
    """The folder of the pins in force; FileNotFoundError: the loader has not run."""
    root = instance_folder(instance)
    if root.is_dir():
        for folder in sorted(root.iterdir()):
            if (folder / COMPLETE).exists():
                return folder
    raise FileNotFoundError(
        errno.ENOENT, f"instance {instance} has no probes in place: run the loader first", str(root)
    )


def unix_hooks(instance: str) -> bool:
    """Whether the kernel decides on unix sockets by name (cgroup connect_unix, 6.7+)."""
    return (current(instance) / "link_ri_connect_unix").exists()

# SPDX-License-Identifier: Apache-2.0
"""nftables through libnftables' own Python binding: JSON in and out, all or nothing each time.

libnftables answers with text; the errno is read back from the last line of it. A context is not
safe with threads. It keeps the network namespace in which it was made.
Sources: libnftables(3), libnftables-json(5), nft(8).
"""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monitor.kernel import cgroup

# One command or one object of libnftables-json(5).
Item = dict[str, Any]

# Where libnftables looks the name of a cgroup up (include/socket.h: SYSFS_CGROUPSV2_PATH).
NAMES = "/sys/fs/cgroup"
# What stands before the cause in libnftables' own messages.
_CAUSES = {os.strerror(number): number for number in errno.errorcode}


class Nft:
    """A context of libnftables. OSError (ENOSYS) where the host lacks the binding."""

    def __init__(self) -> None:
        try:
            nftables = importlib.import_module("nftables")
            self._library = nftables.Nftables()
        except (ImportError, AttributeError, OSError) as error:
            raise OSError(errno.ENOSYS, f"python3-nftables is not usable: {error}") from error
        self._library.set_numeric_proto_output(True)
        self._library.set_numeric_symbol_output(True)
        self._library.set_handle_output(False)

    def run(self, script: str) -> None:
        """Run commands in the language of nft(8) as one transaction."""
        self._library.set_json_output(False)
        status, _output, message = self._library.cmd(script)
        _check(status, message)

    def apply(self, commands: Sequence[Item]) -> None:
        """Run commands as one transaction: the kernel takes all of them or none."""
        status, _output, message = self._library.json_cmd({"nftables": list(commands)})
        _check(status, message)

    def read(self, *commands: Item) -> list[Item]:
        """The objects that `commands` list."""
        status, output, message = self._library.json_cmd({"nftables": list(commands)})
        _check(status, message)
        found = output["nftables"] if output else []
        return [each for each in found if "metainfo" not in each]


def _check(status: int, message: str | bytes) -> None:
    if status == 0:
        return
    text = message.decode(errors="replace") if isinstance(message, bytes) else message
    first = text.strip().splitlines()[0] if text.strip() else "no message"
    cause = next((number for words, number in _CAUSES.items() if first.endswith(words)), None)
    raise OSError(cause or errno.EINVAL, f"nftables: {first.removeprefix('internal:0:0-0: ')}")


def cgroup_name(path: Path) -> str:
    """`path` as libnftables wants a cgroup named: from the folder where it looks them up."""
    return os.path.relpath(path, NAMES)


def cgroup_level(path: Path) -> int:
    """How far `path` lies beneath the root of cgroup2, whatever folder that is mounted on.

    With another level a rule loads all the same, and never matches.
    """
    return len(path.relative_to(cgroup.unified_mount()).parts)

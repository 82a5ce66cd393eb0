# SPDX-License-Identifier: Apache-2.0
"""Ways to denied and read-only files inside a writable tree: the view takes them away."""

from __future__ import annotations

from monitor.prove.case import OBSERVE, TREES, Case

# Row, operation and names in the tree, the errno, the record's verb.
_WAYS = (
    (16, "create .git/hooks/post-commit", "EROFS", "file.write"),
    (16, "write .git/config", "EROFS", "file.write"),
    (16, "rename own .git/config", "EXDEV", "file.rename"),
    (54, "read .env", "EACCES", "file.open"),
    (54, "read sub/.env", "EACCES", "file.open"),
    (54, "truncate .env", "EACCES", "file.truncate"),
    (54, "remove .env", "EBUSY", "file.unlink"),
    (54, "rename .env copy", "EBUSY", "file.rename"),
    (54, "rename own .env", "EBUSY", "file.rename"),
    (54, "link .env copy", "EXDEV", "file.link"),
    (55, "rename .git aside", "EBUSY", "file.rename"),
    (55, "rename sub aside", "EBUSY", "file.rename"),
)
_SOURCES = {
    16: "Pillar, CVE-2026-48124: hooks and settings that others run",
    54: "measured on Linux 6.18: marks go by inode",
    55: "measured on Linux 6.18: marks go by inode",
}


def _case(row: int, operation: str, errno: str, verb: str) -> Case:
    way, *names = operation.split()
    program = ("change_name.py", way, *(f"{{tree}}/{name}" for name in names))
    # A folder above what is denied is itself allowed to be renamed where nothing is enforced.
    told = row != 55
    return Case(row, operation, _SOURCES[row], program, errno, verb, OBSERVE, TREES, told)


IN_TREES = tuple(_case(*each) for each in _WAYS)

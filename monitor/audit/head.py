# SPDX-License-Identifier: Apache-2.0
"""The head of the log, kept outside the database: it shows when the log's tail was cut off.

It is written after the records it covers are on the disk, so it may be behind the log, by what was
appended in the last second before a crash, and never ahead of it.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

from monitor.audit import canonical


class HeadError(ValueError):
    """The head file does not hold a head."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last record: its id (0: none yet) and its hash."""

    id: int = 0
    hash: bytes = canonical.START


def beside(database: Path) -> Path:
    """The head file of a database: `audit.db` has `audit.head`."""
    return database.with_suffix(".head")


def read(path: Path) -> Head | None:
    """The head in `path`, None where there is no file; OSError, HeadError."""
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise HeadError(f"{path} holds no head: {error}") from error
    try:
        data = json.loads(text)
        head = Head(data["id"], bytes.fromhex(data["hash"]))
    except (ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{path} holds no head: {error}") from error
    if type(head.id) is not int or head.id < 0 or len(head.hash) != len(canonical.START):
        raise HeadError(f"{path} holds no head: {text.strip()}")
    return head


def write(path: Path, head: Head) -> None:
    """Replace the file atomically, and durably; OSError leaves the old one."""
    text = json.dumps({"id": head.id, "hash": head.hash.hex()}) + "\n"
    aside = path.with_suffix(".head.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        if os.write(descriptor, text.encode("ascii")) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(aside))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

# SPDX-License-Identifier: Apache-2.0
"""ssh's system-wide client files, copied for a session whose user namespace knows one id.

There root's files show as nobody's, and ssh refuses to read those ("Bad owner or permissions").
Copies that belong to the session's user are mounted over them, read-only.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

FILE = "/etc/ssh/ssh_config"
FOLDER = "/etc/ssh/ssh_config.d"
SIZE_LIMIT = 65536
# Names in the masks' file system.
COPY_FILE = "ssh_config"
COPY_FOLDER = "ssh_config.d"


@dataclass(frozen=True, slots=True)
class Copies:
    """`file` and the `folder`'s files by name; None where the host has none."""

    file: bytes | None = None
    folder: tuple[tuple[str, bytes], ...] | None = None

    @classmethod
    def read(cls) -> Copies:
        """Read the host's files: only what root owns and everyone may read."""
        try:
            names = sorted(os.listdir(FOLDER))  # noqa: PTH208 - names only
        except (FileNotFoundError, NotADirectoryError):
            return cls(_read(FILE))
        found = ((name, _read(f"{FOLDER}/{name}")) for name in names)
        return cls(_read(FILE), tuple((name, text) for name, text in found if text is not None))

    @property
    def places(self) -> Iterator[tuple[str, str]]:
        """(name in the masks' file system, path that it goes over)."""
        if self.file is not None:
            yield COPY_FILE, FILE
        if self.folder is not None:
            yield COPY_FOLDER, FOLDER

    def write(self, directory: int, uid: int, gid: int) -> None:
        """Put the copies into `directory`, as files of `uid`."""
        if self.file is not None:
            _write(directory, COPY_FILE, self.file, uid, gid)
        if self.folder is None:
            return
        os.mkdir(COPY_FOLDER, 0o755, dir_fd=directory)  # noqa: PTH102 - relative to a descriptor
        inner = os.open(COPY_FOLDER, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
        try:
            for name, text in self.folder:
                _write(inner, name, text, uid, gid)
        finally:
            os.close(inner)


def _read(path: str) -> bytes | None:
    with suppress(FileNotFoundError, OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(fd)
            plain = stat.S_ISREG(facts.st_mode) and facts.st_mode & stat.S_IROTH
            if plain and facts.st_uid == 0 and facts.st_size <= SIZE_LIMIT:
                return os.read(fd, SIZE_LIMIT)
        finally:
            os.close(fd)
    return None


def _write(directory: int, name: str, text: bytes, uid: int, gid: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o444, dir_fd=directory)
    try:
        os.write(fd, text)
        os.fchown(fd, uid, gid)
        os.fchmod(fd, 0o444)
    finally:
        os.close(fd)

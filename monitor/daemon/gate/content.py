# SPDX-License-Identifier: Apache-2.0
"""Files with the same content: what a rule denies by path, found again under another name.

What a pattern names is hashed when a session comes, and again when it has changed; a hash that was
taken once stays. A candidate is hashed where its size is that of one of them.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterable

from monitor.policy.patterns import pattern
from monitor.policy.plan import ExecRule

# Files that one pattern may name; further ones are not hashed, and the session is told.
MOST_FILES = 512
REMEMBERED = 4096
Key = tuple[int, int, int, int]


class Contents:
    """Hashes of one gate's rules and candidates."""

    def __init__(self) -> None:
        self._hashes: dict[Key, bytes] = {}

    def of(self, descriptor: int) -> bytes:
        """The hash of an open file; an O_PATH descriptor will do. OSError."""
        found = os.fstat(descriptor)
        key = (found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size)
        known = self._hashes.get(key)
        if known is None:
            with open(f"/proc/self/fd/{descriptor}", "rb") as file:
                known = hashlib.file_digest(file, "sha256").digest()
            if len(self._hashes) >= REMEMBERED:
                del self._hashes[next(iter(self._hashes))]
            self._hashes[key] = known
        return known


class Watched:
    """What the patterns of one session's rules name, by content."""

    def __init__(self, rules: Iterable[ExecRule], root: int, contents: Contents) -> None:
        """`root` is the session's root: its view may hide what is the host's."""
        self._contents = contents
        self._root = root
        self._hashes: dict[str, set[bytes]] = {rule.pattern: set() for rule in rules}
        self._sizes: dict[str, set[int]] = {text: set() for text in self._hashes}
        self._seen: dict[str, Key] = {}
        self.problems: list[str] = []
        self.look()

    def look(self) -> None:
        """Hash what is new or changed."""
        for text in self._hashes:
            files = self._files(text)
            if len(files) > MOST_FILES:
                self.problems.append(f"{text} names more than {MOST_FILES} files")
            for file in files[:MOST_FILES]:
                self._add(text, file)

    def same(self, rule: ExecRule, descriptor: int) -> bool:
        """Whether an open file is like one that the rule's pattern names."""
        if os.fstat(descriptor).st_size not in self._sizes.get(rule.pattern, ()):
            return False
        return self._contents.of(descriptor) in self._hashes[rule.pattern]

    def _files(self, text: str) -> list[str]:
        found = pattern(text)
        if found.is_literal:
            return [found.start]
        base = f"/proc/self/fd/{self._root}"
        matches = glob.iglob(glob.escape(base) + text, recursive=True, include_hidden=True)
        names = []
        for name in matches:
            names.append(name[len(base) :])
            if len(names) > MOST_FILES:
                break
        return names

    def _add(self, text: str, file: str) -> None:
        try:
            descriptor = os.open(f"/proc/self/fd/{self._root}{file}", os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        try:
            found = os.fstat(descriptor)
            key = (found.st_dev, found.st_ino, found.st_ctime_ns, found.st_size)
            if self._seen.get(file) == key or not stat.S_ISREG(found.st_mode):
                return
            self._hashes[text].add(self._contents.of(descriptor))
            self._sizes[text].add(found.st_size)
            self._seen[file] = key
        except OSError:
            return
        finally:
            os.close(descriptor)

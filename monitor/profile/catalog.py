# SPDX-License-Identifier: Apache-2.0
"""Profiles by name, from folders: those of the host before those that come with the software."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monitor.profile.errors import Problem, ProfileError, problem
from monitor.profile.load import load
from monitor.profile.model import NAME_PATTERN, Profile

SUFFIX = ".yaml"
_NAME = re.compile(NAME_PATTERN)


class UnknownProfile(ProfileError):
    """No folder holds a profile of that name."""


@dataclass(frozen=True, slots=True)
class _Version:
    """A file as it was read: one that differs in any of this is read again."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int


# What all catalogs have read. A file is parsed again only when it has changed: a launch has no time
# for YAML.
_read: dict[Path, tuple[_Version, Profile]] = {}


class Catalog:
    """The profiles of `folders`; of two with one name the first folder's is meant."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    def names(self) -> list[str]:
        """Every name that `load` finds a file for, sorted."""
        found: set[str] = set()
        for folder in self.folders:
            if folder.is_dir():
                found.update(path.stem for path in folder.glob(f"*{SUFFIX}"))
        return sorted(name for name in found if _NAME.fullmatch(name))

    def load(self, name: str) -> Profile:
        """The profile `name`; UnknownProfile, or ProfileError where its file is wrong."""
        # The name may come from whoever starts a session: it must not lead out of the folders.
        if _NAME.fullmatch(name):
            for folder in self.folders:
                path = folder / f"{name}{SUFFIX}"
                if os.path.lexists(path):
                    return self._load(path, name)
        listed = ", ".join(self.names()) or "none"
        message = f"there is no profile {name!r}; there are {listed}"
        raise UnknownProfile([Problem("profiles", 0, 0, "", message)])

    def _load(self, path: Path, name: str) -> Profile:
        try:
            facts = path.stat()
        except OSError as error:
            message = f"cannot be read: {error.strerror}"
            raise ProfileError([Problem(str(path), 0, 0, "", message)]) from error
        version = _Version(
            facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
        )
        known = _read.get(path)
        if known is not None and known[0] == version:
            return known[1]
        profile = load(path)
        if profile.name != name:
            message = f"the file {path.name} holds the profile {profile.name!r}: rename one"
            raise ProfileError([problem(profile.places.get("name"), "name", message)])
        _read[path] = (version, profile)
        return profile

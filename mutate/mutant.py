# SPDX-License-Identifier: Apache-2.0
"""One control switched off: which file is changed how, and what is expected to notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class Stale(ValueError):  # noqa: N818 - what it says of a mutant
    """The code that a mutant changes is not there as it was."""


@dataclass(frozen=True, slots=True)
class Swap:
    """Other text in the place of text that stands once in the file."""

    path: str
    old: str
    new: str

    def apply(self, tree: Path) -> None:
        file = tree / self.path
        text = file.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise Stale(f"{self.path}: {text.count(self.old)} times, not once: {self.old!r}")
        file.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Redefine:
    """Code behind the end of a module, which gives `names` of it another meaning."""

    path: str
    names: tuple[str, ...]
    code: str

    def apply(self, tree: Path) -> None:
        file = tree / self.path
        text = file.read_text(encoding="utf-8")
        for name in self.names:
            last = name.rpartition(".")[2]
            if not any(f"{word}{last}" in text for word in ("def ", "class ", "\n")):
                raise Stale(f"{self.path} has no {name}")
        file.write_text(f"{text}\n\n{self.code}\n", encoding="utf-8")


Edit = Swap | Redefine


@dataclass(frozen=True, slots=True)
class Mutant:
    """`control` without `mechanism`. `rows` of --prove and then `tests` are tried on it.

    `opens`: it is all that holds the control (or all of it is off), so some row must succeed; else
    it is enough that another mechanism is seen to hold.
    """

    control: str
    mechanism: str
    edits: tuple[Edit, ...]
    rows: tuple[int, ...] = ()
    tests: tuple[str, ...] = ()
    opens: bool = False

    @property
    def name(self) -> str:
        return f"{self.control}: {self.mechanism}"

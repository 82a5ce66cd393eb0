# SPDX-License-Identifier: Apache-2.0
"""What an open of a labelled file costs: the first of each file, which waits, and the others."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.corpus import Corpus
from bench.failure import BenchError
from demo.account import Account

_SECONDS = 300.0


@dataclass(slots=True)
class Opens:
    """Nanoseconds of open, read and close, by round."""

    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    @property
    def added_microseconds(self) -> float:
        """What the first open of a file waits."""
        pairs = zip(self.first, self.plain, strict=True)
        return statistics.median((first - plain) / 1e3 for first, plain in pairs)

    @property
    def ratio(self) -> float:
        """Every other open against one in a session without the label."""
        pairs = zip(self.later, self.plain, strict=True)
        return statistics.median(later / plain for later, plain in pairs)


def measure(
    account: Account,
    corpus: Corpus,
    programs: Path,
    labelled: Sequence[str],
    plain: Sequence[str],
    rounds: int,
) -> Opens:
    """Open the whole corpus twice in a session of each kind, by turns."""
    found = Opens()
    for _ in range(rounds):
        first, later = _twice(account, corpus, programs, labelled)
        found.first.append(first)
        found.later.append(later)
        found.plain.append(_twice(account, corpus, programs, plain)[1])
    return found


def _twice(
    account: Account, corpus: Corpus, programs: Path, launcher: Sequence[str]
) -> tuple[float, float]:
    load = f"{programs / 'loads'} open-many {corpus.tree}"
    process = account.start(
        [*launcher, "sh", "-c", f"{load}; {load}"],
        cwd=corpus.workspace,
        errors=subprocess.PIPE,
    )
    output, errors = process.communicate(timeout=_SECONDS)
    values = output.split()
    if process.returncode or len(values) != 2:
        raise BenchError(f"open-many: exit status {process.returncode}: {errors.strip()}")
    return float(values[0]), float(values[1])

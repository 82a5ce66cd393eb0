# SPDX-License-Identifier: Apache-2.0
"""Measuring: rounds in which every wrapper has its turn, so that a busy moment hits all alike."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.failure import BenchError
from bench.load import Load
from bench.tools import Wrapper
from demo.account import Account

_LOAD_SECONDS = 300.0


@dataclass(slots=True)
class Series:
    """Nanoseconds of one load, by column, in the order of the rounds."""

    load: Load
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, column: str, value: float) -> None:
        self.values.setdefault(column, []).append(value)

    def median(self, column: str) -> float:
        return statistics.median(self.values[column])

    def ratio(self, column: str, against: str) -> float:
        """The median of the rounds' own ratios: what drifts over rounds drops out."""
        pairs = zip(self.values[column], self.values[against], strict=True)
        return statistics.median(value / base for value, base in pairs)

    def added_milliseconds(self, column: str, against: str) -> float:
        pairs = zip(self.values[column], self.values[against], strict=True)
        return statistics.median((value - base) / 1e6 for value, base in pairs)


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs loads as `account` in `folder`."""

    account: Account
    folder: Path

    def once(self, load: Load, wrapper: Wrapper) -> float:
        """Nanoseconds of `load` under `wrapper`; raises BenchError where it fails."""
        argv = [*wrapper.prefix, *load.argv]
        start = time.perf_counter_ns()
        process = self.account.start(
            argv, cwd=self.folder, output=subprocess.PIPE, errors=subprocess.PIPE
        )
        try:
            output, errors = process.communicate(timeout=_LOAD_SECONDS)
        except subprocess.TimeoutExpired as error:
            process.terminate()
            process.communicate()
            raise BenchError(f"{load.name} under {wrapper.name}: not done in time") from error
        taken = time.perf_counter_ns() - start
        if process.returncode:
            raise BenchError(
                f"{load.name} under {wrapper.name}: exit status {process.returncode}: "
                f"{' '.join((errors or output).split())[-400:]}"
            )
        return float(taken) if load.timed_outside else float(output.split()[-1])


def rounds(
    runner: Runner,
    loads: Iterable[Load],
    wrappers: Sequence[Wrapper],
    count: int,
    progress: Callable[[str], None],
) -> list[Series]:
    """`count` rounds of every load under every wrapper; one round more first, to warm caches."""
    measured = []
    for load in loads:
        progress(load.name)
        series = Series(load)
        for number in range(-1, count):
            # The order turns from round to round: being first is not always the same one's luck.
            turned = wrappers if number % 2 else tuple(reversed(wrappers))
            for wrapper in turned:
                value = runner.once(load, wrapper)
                if number >= 0:
                    series.add(wrapper.name, value)
        measured.append(series)
    return measured

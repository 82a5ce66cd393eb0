# SPDX-License-Identifier: Apache-2.0
"""The C programs of the benchmark, compiled, and the wrapper commands the loads run under."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.failure import BenchError

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Wrapper:
    """`prefix` goes before a load's command line; empty is bare."""

    name: str
    prefix: tuple[str, ...] = ()


BARE = Wrapper("bare")


def wrapper(command: str) -> Wrapper:
    """A wrapper from the command line, named by its program: `bwrap --dev-bind / / --`."""
    words = shlex.split(command)
    if not words:
        raise BenchError("--wrapper needs a command")
    return Wrapper(Path(words[0]).name, tuple(words))


def build(folder: Path) -> None:
    """Compile every program of bench/ into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in _HERE.glob("*.c"):
        argv = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(folder / source.stem), str(source)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{shlex.join(argv)}:\n{done.stderr.strip()}")

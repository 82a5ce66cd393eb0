# SPDX-License-Identifier: Apache-2.0
"""What a fuzzer needs to know of each thing that it attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes any bytes and raises only where there is a fault.

    `seeds` are inputs to begin with, `words` what inputs are put together from. `longest` bounds an
    input: that of what is attacked, or less where more only costs time.
    """

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[bytes]
    longest: int

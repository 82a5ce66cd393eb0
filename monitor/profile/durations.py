# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes as a profile writes them: `90s`, `30m`, `8h`, `7d`; `512M`, `2G`."""

from __future__ import annotations

import re

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_OCTETS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

_DURATION = re.compile(r"([1-9][0-9]{0,8})([smhd])")
_SIZE = re.compile(r"([1-9][0-9]{0,14})([KMGT]?)")
# What the kernel is told in nanoseconds of 64 bits still fits; more is a slip of the pen.
LONGEST = 3660 * _SECONDS["d"]
LARGEST = 1 << 60


def seconds(text: str) -> int:
    """Seconds of a duration: a number and one of s, m, h, d; ValueError on anything else."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration: a number from 1 with s, m, h or d behind it")
    value = int(match[1]) * _SECONDS[match[2]]
    if value > LONGEST:
        raise ValueError(f"the duration {text} is longer than {LONGEST // _SECONDS['d']}d")
    return value


def octets(text: str) -> int:
    """Bytes of a size: a number and K, M, G, T (powers of 1024) or nothing; ValueError else."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size: a number from 1, with K, M, G or T behind it")
    value = int(match[1]) * _OCTETS[match[2]]
    if value > LARGEST:
        raise ValueError(f"the size {text} is more than any machine has")
    return value

# SPDX-License-Identifier: Apache-2.0
"""Ports and protocols of a rule: their text, and what several sets of them have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Range = tuple[int, int]  # first, last: both included

# uapi/linux/in.h: IPPROTO_TCP, IPPROTO_UDP
TCP, UDP = 6, 17
PROTOCOLS = {"tcp": TCP, "udp": UDP}
HIGHEST_PORT = 65535

_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)


def parse_ports(text: str) -> tuple[Range, ...]:
    """The ranges, sorted and disjoint, that `443,8000-8999` or `*` names; or ValueError."""
    if text == "*":
        return ((0, HIGHEST_PORT),)
    if not text:
        raise ValueError("the ports are missing; every port is written `*`")
    return merge(_range(part) for part in text.split(","))


def parse_protocol(text: str | None) -> int:
    """The IP protocol number of `tcp`, `udp` or None, which is tcp."""
    if text is None:
        return TCP
    if text not in PROTOCOLS:
        raise ValueError(f"the protocol {text!r} is neither tcp nor udp")
    return PROTOCOLS[text]


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same ports in ranges that are sorted and do not touch."""
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def common(one: Sequence[Range], other: Sequence[Range]) -> tuple[Range, ...]:
    """The ports that are in both."""
    found = ((max(first, begin), min(last, end)) for first, last in one for begin, end in other)
    return merge((first, last) for first, last in found if first <= last)


def covers(ranges: Iterable[Range], port: int) -> bool:
    return any(first <= port <= last for first, last in ranges)


def _range(text: str) -> Range:
    low, dash, high = text.partition("-")
    first = _port(low, text)
    last = _port(high, text) if dash else first
    if first > last:
        raise ValueError(f"the port range {text} ends before it begins")
    return first, last


def _port(text: str, whole: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > HIGHEST_PORT:
        raise ValueError(f"{whole!r} is not a port or a range of ports from 0 to {HIGHEST_PORT}")
    return int(text)

# SPDX-License-Identifier: Apache-2.0
"""Masks as chains of components below a folder: the form in which the kernel can match them.

A component is a name, the start or the end of one, or any name. What cannot be said so is left to
the view. A chain begins at a folder that the session cannot move: the root of what it may write, so
that it means what appears later as well, and what is put in the place of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from monitor.policy.compile_files import masks_in_view
from monitor.policy.patterns import ANY_DEPTH, Pattern, is_within, join, parent, pattern, plain_name
from monitor.policy.plan import FileAccess, MaskKind, MaskRule, Policy

# As the kernel's rows hold them: see walking.h.
MOST_COMPONENTS = 64
MOST_NAME = 30
MOST_END = 16


class Match(Enum):
    """How a component is compared with a name."""

    NAME = "name"
    BEGINS = "begins"
    ENDS = "ends"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Component:
    """`gap`: any number of folders may stand before it."""

    match: Match
    text: bytes
    gap: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """`start` is the folder, `mask` the (link, index in Policy.masks) that it comes from.

    `kind` None: the object itself, which holds something protected, stays where it is.
    """

    start: str
    components: tuple[Component, ...]
    kind: MaskKind | None
    mask: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Chains:
    """`left` are the masks that only the view holds."""

    chains: tuple[Chain, ...]
    left: tuple[MaskRule, ...]


def chains(policies: Sequence[Policy], is_folder: Callable[[str], bool]) -> Chains:
    """The chains of all masks that fit, those first that nothing but the view would hold else."""
    held = masks_in_view(policies)
    every = [
        (mask not in held, link, index, mask)
        for link, policy in enumerate(policies)
        for index, mask in enumerate(policy.masks)
    ]
    found: list[Chain] = []
    left: list[MaskRule] = []
    known: set[tuple[str, tuple[Component, ...]]] = set()
    room = MOST_COMPONENTS
    for other, link, index, mask in sorted(every, key=lambda each: each[:3]):
        made = _of_mask(mask, (link, index), policies, is_folder, holding=not other)
        new = [
            each
            for each in made
            if each.kind is not None or (each.start, each.components) not in known
        ]
        size = sum(len(each.components) for each in new)
        if not made or size > room:
            if not other:
                left.append(mask)
            continue
        room -= size
        found += new
        known.update((each.start, each.components) for each in new if each.kind is None)
    return Chains(tuple(found), tuple(left))


def _of_mask(
    mask: MaskRule,
    place: tuple[int, int],
    policies: Sequence[Policy],
    is_folder: Callable[[str], bool],
    *,
    holding: bool,
) -> list[Chain]:
    """The chain of a mask, and those that keep the folders above it in place; []: it has none."""
    written = pattern(mask.pattern)
    start = _start(written, policies, is_folder)
    if start is None:
        return []
    depth = len(pattern_names(start))
    components = tuple(_components(written.names[depth:]))
    if not components or len(components) != _named(written.names[depth:]):
        return []
    made = [Chain(start, components, mask.kind, place)]
    if holding:
        above = len(written.literal) - depth - written.is_literal
        made += [Chain(start, components[:count], None, place) for count in range(1, above + 1)]
    return made


def pattern_names(path: str) -> tuple[str, ...]:
    return tuple(name for name in path.split("/") if name)


def _start(
    written: Pattern, policies: Sequence[Policy], is_folder: Callable[[str], bool]
) -> str | None:
    """The folder that the chain begins at; None: there would be nothing left of the pattern."""
    last = join(written.literal[:-1]) if written.is_literal else written.start
    roots = [
        rule.path
        for policy in policies
        for rule in policy.files
        if rule.tree and FileAccess.WRITE in rule.access and is_within(last, rule.path)
    ]
    start = min(roots, key=len, default=last)
    while start != "/" and not is_folder(start):
        start = parent(start)
    return start if written.names else None


def _named(names: Sequence[str]) -> int:
    return sum(name != ANY_DEPTH for name in names)


def _components(names: Sequence[str]) -> Iterator[Component]:
    """Those that can be compared; fewer than there are names where one cannot."""
    gap = False
    for name in names:
        if name == ANY_DEPTH:
            gap = True
            continue
        compared = _compared(name)
        if compared is not None:
            yield Component(*compared, gap)
        gap = False


def _compared(name: str) -> tuple[Match, bytes] | None:
    if name == "*":
        return Match.ANY, b""
    for match, rest, most in (
        (Match.NAME, name, MOST_NAME),
        (Match.BEGINS, name.removesuffix("*"), MOST_NAME),
        (Match.ENDS, name.removeprefix("*"), MOST_END),
    ):
        text = plain_name(rest)
        if text is None or (match is not Match.NAME and rest == name):
            continue
        raw = text.encode("utf-8", "surrogateescape")
        return (match, raw) if raw and len(raw) <= most else None
    return None

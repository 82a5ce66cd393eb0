# SPDX-License-Identifier: Apache-2.0
"""Whether anything notices that a control is off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mutate.mutant import Mutant
from mutate.tree import Found, Tree


@dataclass(frozen=True, slots=True)
class Caught:
    """`by` names the row or test, `how` what it saw."""

    caught: bool
    by: str
    how: str


def judge(tree: Tree, mutant: Mutant, before: Mapping[str, Found]) -> Caught:
    """Try the mutant's rows, and its tests where those see nothing. TrialFailed."""
    if mutant.rows:
        changes = compare(before, tree.rows(mutant.rows))
        opened = [change for change in changes if change[1].startswith("open")]
        if opened or (changes and not mutant.opens):
            first = (opened or changes)[0]
            more = len(opened or changes) - 1
            return Caught(True, f"row {first[0]}" + (f" and {more} more" if more else ""), first[1])
        if mutant.opens:
            seen = changes[0][1] if changes else "no row changed"
            return Caught(False, "nothing", f"no row succeeded: {seen}")
    if not mutant.tests:
        return Caught(False, "nothing", "no row changed")
    failed = tree.tests(mutant.tests)
    if failed is None:
        return Caught(False, "nothing", "no row changed, no test failed")
    return Caught(True, failed.rpartition("tests/")[2], "fails")


def compare(before: Mapping[str, Found], after: Mapping[str, Found]) -> list[tuple[str, str]]:
    """(row, what is other than before) of every row that is."""
    changes = []
    for name, found in after.items():
        was = before.get(name)
        if was is None:  # told only where even what is allowed does not work
            changes.append((name, f"{found.result}: {found.told}"))
            continue
        if found == was:
            continue
        if found.result != was.result:
            changes.append((name, f"{found.result}: {found.told}"))
        elif found.mechanism != was.mechanism:
            changes.append((name, f"held by {found.mechanism}, not {was.mechanism}"))
        else:
            changes.append((name, f"{found.told}, not {was.told}"))
    return changes

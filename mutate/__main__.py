# SPDX-License-Identifier: Apache-2.0
"""`make mutate`: every control is switched off in turn; one that nothing catches is a defect."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from monitor.cli import console
from mutate.judge import Caught, judge
from mutate.mutant import Mutant, Stale
from mutate.mutants import MUTANTS
from mutate.tree import Tree, TrialFailed


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutate", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the controls and exit")
    parser.add_argument("names", nargs="*", help="only controls with one of these words in them")
    arguments = parser.parse_args()
    chosen = [
        each
        for each in MUTANTS
        if not arguments.names or any(word in each.name for word in arguments.names)
    ]
    if arguments.list:
        console.table(["CONTROL", "MECHANISM"], [(each.control, each.mechanism) for each in chosen])
        return 0
    if os.geteuid() != 0:
        print("mutate: only root can start sessions for another user", file=sys.stderr)
        return 1
    # Also where whoever started it had it ignored; and the copy goes in any case.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="ri-mutate-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        return _run(Tree.copy(Path(folder)), chosen)


def _run(tree: Tree, chosen: Sequence[Mutant]) -> int:
    """Try them one after another; the exit status."""
    try:
        before = tree.rows()
    except TrialFailed as error:
        print(f"mutate: nothing is switched off and --prove fails: {error}", file=sys.stderr)
        return 1
    bad = [
        name for name, found in before.items() if found.result in {"open", "failed", "unrecorded"}
    ]
    if bad:
        print(f"mutate: nothing is switched off and these fail: {', '.join(bad)}", file=sys.stderr)
        return 1
    results: list[tuple[Mutant, Caught]] = []
    for number, mutant in enumerate(chosen, 1):
        began = time.monotonic()
        try:
            with tree.mutated(mutant):
                caught = judge(tree, mutant, before)
        except (Stale, TrialFailed) as error:
            caught = Caught(False, "could not be tried", str(error))
        results.append((mutant, caught))
        word = "caught" if caught.caught else "NOT CAUGHT"
        seconds = time.monotonic() - began
        print(
            f"{number}/{len(chosen)} {mutant.name}: {word} by {caught.by} ({seconds:.0f} s)",
            file=sys.stderr,
            flush=True,
        )
    rows = [
        (mutant.control, mutant.mechanism, "yes" if caught.caught else "no", caught.by, caught.how)
        for mutant, caught in results
    ]
    console.table(["CONTROL", "WITHOUT", "CAUGHT", "BY", "HOW"], rows, whole=["CAUGHT"])
    missed = [mutant for mutant, caught in results if not caught.caught]
    console.line()
    console.line(
        f"{len(results) - len(missed)} of {len(results)} were caught"
        + (f"; not: {', '.join(each.name for each in missed)}" if missed else "")
    )
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("mutate: interrupted; what was made is removed", file=sys.stderr)
        sys.exit(130)

# SPDX-License-Identifier: Apache-2.0
"""What `make mutate` switches off is still there to be switched off, and is judged rightly."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from monitor.prove.catalogue import CASES
from mutate.judge import compare
from mutate.mutant import Mutant, Redefine, Stale, Swap
from mutate.mutants import MUTANTS
from mutate.tree import Found
from tests.support.checkout import ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda each: each.name)
def test_what_is_switched_off_is_there(mutant: Mutant, tmp_path: Path) -> None:
    for path in {edit.path for edit in mutant.edits}:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    for edit in mutant.edits:
        edit.apply(tmp_path)
        if edit.path.endswith(".py"):
            ast.parse((tmp_path / edit.path).read_text(encoding="utf-8"))
    assert set(mutant.rows) <= {case.row for case in CASES}
    assert mutant.rows or mutant.tests
    for test in mutant.tests:
        assert (ROOT / test.partition("::")[0]).exists(), test


def test_every_control_has_a_name_of_its_own() -> None:
    assert len({each.name for each in MUTANTS}) == len(MUTANTS)


def test_what_is_not_there_is_no_mutant(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("x = 1\nx = 1\n")
    for edit in (
        Swap("module.py", "x = 1\n", ""),
        Swap("module.py", "y", ""),
        Redefine("module.py", ("y",), ""),
    ):
        with pytest.raises(Stale):
            edit.apply(tmp_path)


def test_a_row_that_is_held_by_another_mechanism_has_changed() -> None:
    before = {"1 a": Found("closed", "EPERM", "cgroup-bpf")}
    assert compare(before, before) == []
    assert compare(before, {"1 a": Found("open", "DONE", None)}) == [("1 a", "open: DONE")]
    held = compare(before, {"1 a": Found("closed", "EPERM", "nftables")})
    assert held == [("1 a", "held by nftables, not cgroup-bpf")]
    assert compare(before, {"0 b": Found("failed", "no session", None)}) == [
        ("0 b", "failed: no session")
    ]
    assert compare(before, {"1 a": Found("closed", "EACCES", "cgroup-bpf")})

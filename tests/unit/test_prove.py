# SPDX-License-Identifier: Apache-2.0
"""The catalogue of ways out: whole, each told apart, each with its source and its program."""

from __future__ import annotations

import re

from monitor.cli.prove import _account
from monitor.prove.attempts import MISSING
from monitor.prove.case import KILLED
from monitor.prove.catalogue import CASES, STATED, TESTED
from monitor.prove.scene import PROGRAMS, TEXTS
from tests.support.checkout import ROOT

LAST_ROW = 67
WORD = re.compile(r"\{(\w+)\}")
WORDS = {
    *("programs", "workspace", "tree", "secret", "own", "denied", "abstract", "datagrams"),
    *("victim", "daemon", "port", "other", *MISSING),
}


def test_every_row_is_tried_tested_or_stated() -> None:
    tried = {case.row for case in CASES}
    assert tried | set(TESTED) | set(STATED) == set(range(1, LAST_ROW + 1))
    assert not tried & set(TESTED)
    assert not (tried | set(TESTED)) & set(STATED)
    for path in TESTED.values():
        assert (ROOT / path).exists(), path


def test_every_case_can_be_told_of() -> None:
    for case in CASES:
        assert case.source, case
        assert (case.verb is None) is bool(case.unrecorded), case
        assert case.expect, case
        assert (PROGRAMS / case.program[0]).is_file(), case
        assert case.profile in TEXTS, case
        assert set(WORD.findall(" ".join(case.program))) <= WORDS, case
        if case.expect == KILLED:
            assert case.verb == "proc.exit"


def test_every_program_is_used() -> None:
    used = {case.program[0] for case in CASES} | {"attempt.py"}
    assert {path.name for path in PROGRAMS.glob("*.py")} == used


def test_an_ordinary_user_is_taken() -> None:
    assert _account("nobody").pw_uid != 0

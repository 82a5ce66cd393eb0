# SPDX-License-Identifier: Apache-2.0
"""JSON lines and the Prometheus text format."""

from __future__ import annotations

import json
import os
import re

import pytest
from hypothesis import given, settings

from monitor.audit import canonical
from monitor.audit.export import Figures, families, json_line, prometheus
from monitor.audit.record import Draft, to_dict
from monitor.session.session import State
from tests.support.audit import draft, drafts

FIGURES = Figures(
    version='1.0"\\\n',
    started=1_790_000_000.5,
    records={("file.open", "allow"): 3, ("file.open", "deny"): 2, ("net.connect", "deny"): 1},
    sessions={State.RUNNING: 2},
    lost=4,
    undecoded=5,
    waiting=6,
    last_record=7,
    audit_problem="disk full",
)
# One sample of the text exposition format.
LABEL = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"[a-z_]+(?:\{{{LABEL}(?:,{LABEL})*\}})? (\S+)")


def samples(text: str) -> dict[str, float]:
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            found[line.rpartition(" ")[0]] = float(match[1])
    return found


def test_figures_as_text() -> None:
    found = samples(prometheus(FIGURES))
    assert found['ri_info{version="1.0\\"\\\\\\n"}'] == 1
    assert found["ri_start_time_seconds"] == 1_790_000_000.5
    assert found['ri_actions_total{verdict="deny"}'] == 3
    assert found['ri_actions_total{verdict="kill"}'] == 0
    assert found['ri_actions_by_verb_total{verb="net.connect",verdict="deny"}'] == 1
    assert found['ri_sessions{state="running"}'] == 2
    assert found['ri_sessions{state="frozen"}'] == 0
    assert found["ri_records_lost_total"] == 4
    assert found["ri_records_undecoded_total"] == 5
    assert found["ri_audit_waiting"] == 6
    assert found["ri_audit_last_record"] == 7
    assert found["ri_audit_ok"] == 0
    assert found["ri_audit_head_ok"] == 1


def test_each_family_is_declared_once_before_its_samples() -> None:
    text = prometheus(FIGURES)
    assert text.endswith("\n")
    names = [family.name for family in families(FIGURES)]
    assert len(names) == len(set(names))
    for family in families(FIGURES):
        assert text.count(f"# TYPE {family.name} {family.kind}\n") == 1
        assert text.index(f"# HELP {family.name} ") < text.index(f"# TYPE {family.name} ")
        assert (family.kind == "counter") is family.name.endswith("_total")


def test_nothing_yet() -> None:
    found = samples(prometheus(Figures("1", 0.0)))
    assert found['ri_actions_total{verdict="allow"}'] == 0
    assert found["ri_audit_ok"] == 1


@settings(deadline=None)
@given(drafts)
def test_a_record_is_one_line_of_ascii(given: Draft) -> None:
    record = canonical.decode(canonical.encode(1, given), bytes(32))
    for full in (False, True):
        line = json_line(record, full)
        assert line.isascii()
        assert line.index("\n") == len(line) - 1
        assert json.loads(line) == to_dict(record, full)


@pytest.mark.parametrize("full", [False, True])
def test_lines_of_records(full: bool) -> None:
    record = canonical.decode(canonical.encode(1, draft(object=os.fsdecode(b"/\xff"))), bytes(32))
    lines = [json_line(each, full) for each in (record, record)]
    assert len(lines) == 2
    assert os.fsencode(json.loads(lines[0])["object"]) == b"/\xff"

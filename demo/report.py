# SPDX-License-Identifier: Apache-2.0
"""The table at the end: what was done, what was refused, by which mechanism, with which rule."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo import records
from demo.records import Record
from demo.run import Outcome, Run
from demo.script import Attack

_LEAST_WIDTH = 150


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `good` says whether it came out as it has to."""

    did: str
    seen: str
    verdict: str
    mechanism: str
    rule: str
    good: bool


def work_rows(run: Run) -> list[Row]:
    """What the agent was asked to do, judged from outside the session."""
    work = run.work
    tested = work is not None and work.tests_pass
    committed = work is not None and work.committed and work.clean
    return [
        Row("edit, run pytest", "a fresh clone passes", "allow", "", "", tested),
        Row("commit", "one commit more, tree clean", "allow", "", "", committed),
    ]


def governed_row(outcome: Outcome, log: Sequence[Record]) -> Row:
    """An attack under ri: good when nothing came of it and the log says why."""
    attack = outcome.step
    assert isinstance(attack, Attack)
    seen = "IT WORKED" if outcome.worked else "no effect"
    if attack.denial is None:
        return Row(attack.title, seen, "absent", "view", attack.absent, not outcome.worked)
    record = records.find(log, attack.denial)
    if record is None:
        return Row(attack.title, seen, "NO RECORD", "", "", good=False)
    why = record.rule or record.reason
    return Row(
        attack.title, seen, record.verdict, record.mechanism, f"{why}  [{record.number}]",
        not outcome.worked,
    )  # fmt: skip


def bare_row(outcome: Outcome) -> Row:
    """An attack without ri: good when it works, which shows that it is a real one."""
    attack = outcome.step
    assert isinstance(attack, Attack)
    if outcome.worked:
        return Row(attack.title, "it worked", "", "", "", good=True)
    if attack.host_refuses:
        return Row(attack.title, "no effect", "", "host", attack.host_refuses, good=True)
    told = " ".join(outcome.told.split())
    return Row(
        attack.title, "NO EFFECT", "", "", f"not a real attack here: {told[-200:]}", good=False
    )


def show(title: str, rows: Sequence[Row]) -> None:
    """Print the table, wide enough to be read where output is no terminal too."""
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for heading in ("", "what the agent did", "seen from outside", "verdict", "mechanism", "rule"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        mark = Text("ok", style="green") if row.good else Text("FAIL", style="bold red")
        table.add_row(
            mark, row.did, row.seen, row.verdict, row.mechanism, Text(row.rule, style="dim")
        )
    width = max(shutil.get_terminal_size().columns, _LEAST_WIDTH)
    Console(width=width).print(table)

# SPDX-License-Identifier: Apache-2.0
"""The help texts of the commands, taken apart: man pages and completions are made from them."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# `  --name VALUE  what it does`, `  -h, --help  ...`, `  125  ...`
ENTRY = re.compile(r"  (\S(?:.*?\S)?)(?:  +(\S.*))?")
HEADING = re.compile(r"([a-z][a-z ]*):")


@dataclass(frozen=True, slots=True)
class Entry:
    """One option, variable, status or example, and what it is."""

    term: str
    text: str

    @property
    def flags(self) -> tuple[str, ...]:
        """`-h`, `--help` of `-h, --help`; `--profile` of `--profile NAME|FILE`."""
        return tuple(each.split()[0] for each in self.term.split(", "))

    @property
    def metavar(self) -> str:
        return self.term.split(", ")[-1].partition(" ")[2]


@dataclass(slots=True)
class HelpText:
    """One command's help: usage lines, description, and sections of entries by heading."""

    name: str
    usage: str
    description: str
    sections: dict[str, list[Entry]] = field(default_factory=dict)


def parse(name: str, text: str) -> HelpText:
    """Take apart a help text of the form that ri-exec, argparse and rictl write."""
    blocks = [block for block in text.split("\n\n") if block.strip()]
    usage = " ".join(blocks[0].split()).removeprefix("usage: ").removeprefix(f"{name} ")
    description: list[str] = []
    made = HelpText(name, usage, "")
    for block in blocks[1:]:
        lines = block.splitlines()
        heading = HEADING.match(lines[0])
        if heading is None:
            description.append(" ".join(block.split()))
        else:
            # `exit status: 0 ...; 1 ...` may go on behind the colon.
            rest = lines[0][heading.end() :].strip()
            made.sections[heading[1]] = _entries([f"  {rest}"] if rest else [], lines[1:])
    made.description = "\n\n".join(description)
    return made


def _entries(first: list[str], lines: list[str]) -> list[Entry]:
    entries: list[Entry] = []
    for line in [*first, *lines]:
        match = ENTRY.fullmatch(line)
        if match and not line.startswith("   "):
            entries.append(Entry(match[1], match[2] or ""))
        elif entries and line.strip():
            last = entries[-1]
            entries[-1] = Entry(last.term, f"{last.text} {line.strip()}".strip())
        elif line.strip():
            entries.append(Entry("", line.strip()))
    return entries


def ri_exec() -> HelpText:
    from monitor.launch.options import HELP

    return parse("ri-exec", HELP)


def ri_monitord() -> HelpText:
    from monitor.cli.ri_monitord import parser

    return parse("ri-monitord", parser().format_help())

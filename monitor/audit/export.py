# SPDX-License-Identifier: Apache-2.0
"""Records and figures for other programs: JSON lines, and the Prometheus text format (0.0.4)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from monitor.audit.record import Record, to_dict
from monitor.policy.action import Verdict
from monitor.session.session import State

PROMETHEUS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
JSON_LINES_TYPE = "application/x-ndjson"


def json_line(record: Record, full: bool = False) -> str:
    """One record as a line of ASCII, its end included.

    Bytes of a name that are not UTF-8 are lone surrogates (`\\udcNN`), which any JSON reader takes.
    """
    return json.dumps(to_dict(record, full), separators=(",", ":")) + "\n"


@dataclass(frozen=True, slots=True)
class Figures:
    """What is exported. Counters count from the worker's start.

    `records`: actions by (verb, verdict). `sessions`: by state, for every state there is.
    `undecoded`: records of the rings that could not be decoded or composed. `head_problem`,
    `audit_problem`: why the log's head, the log cannot be written ("": they can). `asks_held`: the
    actions that wait for `asks_waiting` asks; `asks_answered`: actions by (how, verdict).
    `lookups`: questions by why they were not answered ("": they were).
    """

    version: str
    started: float
    records: Mapping[tuple[str, str], int] = field(default_factory=dict)
    sessions: Mapping[State, int] = field(default_factory=dict)
    lost: int = 0
    undecoded: int = 0
    waiting: int = 0
    last_record: int = 0
    audit_problem: str = ""
    head_problem: str = ""
    asks_waiting: int = 0
    asks_held: int = 0
    asks_answered: Mapping[tuple[str, str], int] = field(default_factory=dict)
    lookups: Mapping[str, int] = field(default_factory=dict)
    named_addresses: int = 0
    resolver_starts: int = 0


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its samples are (labels, value)."""

    name: str
    kind: str
    help: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


def families(figures: Figures) -> Iterator[Family]:
    """Every family, in the order of the text."""
    plain: Mapping[str, str] = {}

    def one(name: str, kind: str, text: str, value: float) -> Family:
        return Family(name, kind, text, ((plain, value),))

    yield Family(
        "ri_info", "gauge", "Version of the running daemon.", (({"version": figures.version}, 1),)
    )
    yield one(
        "ri_start_time_seconds", "gauge", "When this worker started, Unix time.", figures.started
    )
    by_verdict = dict.fromkeys((verdict.value for verdict in Verdict), 0)
    for (_verb, verdict), count in figures.records.items():
        by_verdict[verdict] += count
    yield Family(
        "ri_actions_total",
        "counter",
        "Recorded actions by verdict; a record may stand for several.",
        tuple(({"verdict": verdict}, count) for verdict, count in by_verdict.items()),
    )
    yield Family(
        "ri_actions_by_verb_total",
        "counter",
        "Recorded actions by verb and verdict.",
        tuple(
            ({"verb": verb, "verdict": verdict}, count)
            for (verb, verdict), count in sorted(figures.records.items())
        ),
    )
    yield Family(
        "ri_sessions",
        "gauge",
        "Sessions by state.",
        tuple(({"state": state.value}, figures.sessions.get(state, 0)) for state in State),
    )
    yield one(
        "ri_records_lost_total", "counter", "Records dropped: a ring or the memory was full.",
        figures.lost,
    )  # fmt: skip
    yield one(
        "ri_records_undecoded_total", "counter", "Records of the kernel that were not understood.",
        figures.undecoded,
    )  # fmt: skip
    yield one("ri_asks_waiting", "gauge", "Asks that wait for an answer.", figures.asks_waiting)
    yield one("ri_asks_held", "gauge", "Actions that are held by asks.", figures.asks_held)
    yield Family(
        "ri_asks_answered_total",
        "counter",
        "Held actions that went on, by where the answer came from and what it was.",
        tuple(
            ({"how": how, "verdict": verdict}, count)
            for (how, verdict), count in sorted(figures.asks_answered.items())
        ),
    )
    yield Family(
        "ri_lookups_total",
        "counter",
        "Names that sessions looked up, by what came of it.",
        tuple(
            ({"outcome": cause or "answered"}, count)
            for cause, count in sorted(figures.lookups.items())
        ),
    )
    yield one(
        "ri_named_addresses", "gauge", "Addresses that are allowed by name now.",
        figures.named_addresses,
    )  # fmt: skip
    yield one(
        "ri_resolver_starts_total", "counter", "Resolver processes that were started.",
        figures.resolver_starts,
    )  # fmt: skip
    yield one("ri_audit_last_record", "gauge", "Id of the newest record.", figures.last_record)
    yield one("ri_audit_waiting", "gauge", "Records that wait to be written.", figures.waiting)
    yield one(
        "ri_audit_ok", "gauge", "1: records are written; 0: the log cannot be written.",
        int(not figures.audit_problem),
    )  # fmt: skip
    yield one(
        "ri_audit_head_ok", "gauge", "1: the log's head is kept; 0: it cannot be written.",
        int(not figures.head_problem),
    )  # fmt: skip


def prometheus(figures: Figures) -> str:
    """All figures in the text exposition format."""
    lines: list[str] = []
    for family in families(figures):
        lines += [
            f"# HELP {family.name} {_help(family.help)}",
            f"# TYPE {family.name} {family.kind}",
        ]
        lines += [
            f"{family.name}{_labels(labels)} {_number(value)}" for labels, value in family.samples
        ]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return _help(value).replace('"', '\\"')


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))

# SPDX-License-Identifier: Apache-2.0
"""rictl signal: what another system says of a session, an agent or a user."""

from __future__ import annotations

import json
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from monitor.cli import console
from monitor.cli.failure import CommandError, UsageError
from monitor.cli.options import JsonOption, SocketOption, WhyOption, client

app = typer.Typer()
SUBJECTS = ("user:", "agent:", "session:", "spiffe://")


class Direction(Enum):
    """Where an assurance level went."""

    INCREASE = "increase"
    DECREASE = "decrease"


class Kind(Enum):
    """What happened."""

    REVOKED = "session-revoked"
    ASSURANCE = "assurance-level-change"
    RISK = "risk-score-change"


@app.command()
def signal(
    context: typer.Context,
    kind: Annotated[
        Kind | None, typer.Argument(metavar="KIND", help="What happened.", show_default=False)
    ] = None,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="user:NAME, agent:NAME, a SPIFFE id, or a session's id or four characters from"
            " either end of it.",
            show_default=False,
        ),
    ] = "",
    score: Annotated[
        int | None,
        typer.Option("--score", min=0, max=100, help="The risk, 0 to 100.", show_default=False),
    ] = None,
    direction: Annotated[
        Direction, typer.Option("--direction", help="Where the assurance level went.")
    ] = Direction.DECREASE,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file",
            metavar="FILE",
            help="The whole signal as JSON, - for standard input.",
            show_default=False,
        ),
    ] = None,
    why: WhyOption = "",
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Pass on a signal of another system, and have the profiles' reactions follow at once.

    KIND is session-revoked, assurance-level-change or risk-score-change. Without KIND: the signals
    that stand. A risk score stands until the next one (0 takes it away), a lower assurance level
    until it is increased; both count for sessions that start later, too.

    \b
    examples:
      rictl signal risk-score-change user:alice --score 80 --why "impossible travel"
      rictl signal risk-score-change user:alice --score 0
      rictl signal assurance-level-change agent:demo/coder --direction decrease
      rictl signal session-revoked 7f3a2b1c
      rictl signal --file event.json
      rictl signal
    """
    daemon = client(context, socket)
    if kind is None and file is None:
        _list(daemon.get("/v1/signals"), as_json=as_json)
        return
    body = _read(file) if file is not None else _made(kind, subject, score, direction, why)
    answer = daemon.post("/v1/signals", body)
    if as_json:
        console.document(answer)
        return
    if answer["problem"]:
        console.note(f"held in memory only: {answer['problem']}")
    for each in answer["sessions"]:
        console.line(f"{each['then']:<8} {each['id']}  {each['agent']}")
    if not answer["sessions"]:
        console.note("no live session is concerned; it counts for those that start")


def _made(
    kind: Kind | None, subject: str, score: int | None, direction: Direction, why: str
) -> dict[str, Any]:
    if kind is None or not subject:
        raise UsageError("KIND and SUBJECT are both given, or --file", "rictl signal --help")
    if (score is not None) is not (kind is Kind.RISK):
        raise UsageError("--score goes with risk-score-change", "rictl signal --help")
    event: dict[str, Any] = {"reason_admin": why} if why else {}
    if score is not None:
        event["score"] = score
    if kind is Kind.ASSURANCE:
        event["change_direction"] = direction.value
    named = subject if subject.startswith(SUBJECTS) else f"session:{subject}"
    return {"sub_id": {"format": "opaque", "id": named}, "events": {kind.value: event}}


def _read(file: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        found = json.loads(text)
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{file} is not JSON") from error
    if not isinstance(found, dict):
        raise CommandError(f"{file} is no JSON object")
    return found


def _list(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        console.document(answer)
        return
    if not answer["signals"]:
        console.note("no signals stand")
    for each in answer["signals"]:
        facts = [each["kind"], each["subject"], str(each.get("score", each.get("direction", "")))]
        console.line("  ".join(filter(None, [*facts, each["why"]])))

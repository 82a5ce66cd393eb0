# SPDX-License-Identifier: Apache-2.0
"""rictl doctor: which controls this host gives, and what stands in the way of the others."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from monitor.cli import console
from monitor.cli.failure import REFUSED, UsageError
from monitor.cli.moment import local
from monitor.cli.options import JsonOption, SocketOption, client

app = typer.Typer()


@app.command()
def doctor(
    context: typer.Context,
    prove: Annotated[
        bool,
        typer.Option("--prove", help="Try known ways out in sessions, each with its record."),
    ] = False,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="NAME", help="Try as this user (root only; nobody)."),
    ] = None,
    row: Annotated[
        list[int] | None,
        typer.Option("--row", metavar="N", help="Try only this row; can be repeated."),
    ] = None,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Say what this host can enforce. Exit status 1 when something is wrong.

    With --prove, known ways out of a sandbox are tried in sessions that are thrown away: exit
    status 1 when one succeeds, or when its refusal is not recorded. All that it touches is its own.

    \b
    examples:
      rictl doctor
      rictl doctor --json
      rictl doctor --prove
      rictl doctor --prove --row 22
    """
    if prove:
        from monitor.cli.prove import prove as try_all

        if not try_all(client(context, socket), user, row or [], as_json):
            raise typer.Exit(REFUSED)
        return
    if user is not None or row:
        raise UsageError("--user and --row go with --prove")
    answer = client(context, socket).get("/v1/doctor")
    if as_json:
        console.document(answer)
    else:
        _print(answer)
    if answer["problems"]:
        raise typer.Exit(REFUSED)


def _print(answer: dict[str, Any]) -> None:
    rows = [
        (
            each["name"],
            "yes" if each["active"] else "no",
            local(each["active_since"]) if each.get("active_since") else "-",
            each["mechanism"],
            _detail(each),
        )
        for each in answer["controls"]
    ]
    whole = ["CONTROL", "ACTIVE", "SINCE", "MECHANISM"]
    console.table([*whole, "DETAIL"], rows, whole=whole)
    for title, key in (("problems", "problems"), ("notes", "notes")):
        if answer[key]:
            console.line()
            console.line(f"{title}:")
            for each in answer[key]:
                console.line(f"  {each}")
    if not answer["problems"]:
        console.line()
        console.line("no problems")


def _detail(control: dict[str, Any]) -> str:
    if control["active"]:
        return str(control.get("detail") or "")
    missing = control.get("missing") or control.get("detail") or "missing"
    since = control.get("since")
    return f"{missing} (there since {since})" if since else str(missing)

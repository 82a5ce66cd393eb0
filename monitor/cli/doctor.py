# SPDX-License-Identifier: Apache-2.0
"""rictl doctor: which controls this host gives, and what stands in the way of the others."""

from __future__ import annotations

from typing import Any

import typer

from monitor.cli import console
from monitor.cli.failure import REFUSED
from monitor.cli.options import JsonOption, SocketOption, client

app = typer.Typer()


@app.command()
def doctor(
    context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None
) -> None:
    """Say what this host can enforce. Exit status 1 when something is wrong.

    \b
    examples:
      rictl doctor
      rictl doctor --json
    """
    answer = client(context, socket).get("/v1/doctor")
    if as_json:
        console.document(answer)
    else:
        _print(answer)
    if answer["problems"]:
        raise typer.Exit(REFUSED)


def _print(answer: dict[str, Any]) -> None:
    rows = [
        (each["name"], "yes" if each["active"] else "no", each["mechanism"], _detail(each))
        for each in answer["controls"]
    ]
    console.table(
        ["CONTROL", "ACTIVE", "MECHANISM", "DETAIL"], rows, whole=["CONTROL", "ACTIVE", "MECHANISM"]
    )
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

# SPDX-License-Identifier: Apache-2.0
"""rictl explain: why one action was decided as it was, and the change that would allow it."""

from __future__ import annotations

from typing import Annotated

import typer

from monitor.cli import console
from monitor.cli.client import path
from monitor.cli.options import JsonOption, SocketOption, client

app = typer.Typer()


@app.command()
def explain(
    context: typer.Context,
    event: Annotated[
        int, typer.Argument(metavar="EVENT", min=1, help="Id of a record, as rictl log prints it.")
    ],
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Explain a decision.

    Shows chain, rule, facts, and the smallest change to the profile that would allow the action.

    \b
    examples:
      rictl explain 42
      rictl explain 42 --json
    """
    answer = client(context, socket).get(path("records", str(event)))
    if as_json:
        console.document({name: answer[name] for name in ("record", "explanation")})
    else:
        console.line(str(answer["text"]).rstrip("\n"))

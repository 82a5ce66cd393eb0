# SPDX-License-Identifier: Apache-2.0
"""rictl label: what sessions have seen that takes rights away from them."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from monitor.cli import console
from monitor.cli.client import path
from monitor.cli.options import JsonOption, SessionArgument, SocketOption, client

label = typer.Typer(help="Show and take off the labels of sessions.", no_args_is_help=True)


@label.command("list")
def list_(
    context: typer.Context,
    session: SessionArgument,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """List the labels that a session has, and those that it would take on.

    A session takes a label on by what it opens, starts or connects to, as its profiles say. From
    then on it may do less. Sub-agents take over the labels of the session that they run in.

    \b
    examples:
      rictl label list 7f3a2b1c
    """
    answer = client(context, socket).get(path("sessions", session, "labels"))
    if as_json:
        console.document(answer)
        return
    labels: list[dict[str, Any]] = answer["labels"]
    if not labels:
        console.note("no profile of this session has labels")
        return
    rows = [
        [each["name"], _since(each["since"]), each["profile"], _then(each["then"]), each["rule"]]
        for each in labels
    ]
    console.table(["LABEL", "SINCE", "PROFILE", "TAKES", "RULE"], rows)


@label.command()
def remove(
    context: typer.Context,
    session: SessionArgument,
    name: Annotated[
        str, typer.Argument(metavar="LABEL", help="The label's name.", show_default=False)
    ],
    why: Annotated[
        str, typer.Option("--why", metavar="TEXT", help="The reason, for the log; required.")
    ],
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Take a label off a session: what it took away is allowed again.

    Only root and administrators may. The session is stopped while it is done.

    \b
    examples:
      rictl label remove 7f3a2b1c customers --why "read a test file only"
    """
    answer = client(context, socket).post(
        path("sessions", session, "labels", name, "remove"), {"why": why}
    )
    if as_json:
        console.document(answer)
        return
    console.line(f"session {answer['session']} has the label {name} no more")


def _since(since: float | None) -> str:
    return "-" if since is None else time.strftime("%F %T", time.localtime(since))


def _then(then: dict[str, Any]) -> str:
    parts = ["network"] if then["network"] and not then["ask"] else []
    parts += ["exec"] if then["exec"] else []
    parts += ["asks"] if then["ask"] else []
    return ", ".join(parts) or "nothing"

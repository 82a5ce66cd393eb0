# SPDX-License-Identifier: Apache-2.0
"""Options that several commands of rictl share."""

from __future__ import annotations

from typing import Annotated

import typer

from monitor.cli.client import Client

SocketOption = Annotated[
    str | None,
    typer.Option(
        "--socket",
        metavar="PATH",
        help="Socket of the daemon (RI_SOCKET, or /run/ri/ri.sock).",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
WhyOption = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="The reason, for the log.", show_default=False)
]
SessionArgument = Annotated[
    str,
    typer.Argument(
        metavar="SESSION",
        help="The session's id, or four or more characters from either end of it.",
        show_default=False,
    ),
]


def client(context: typer.Context, socket: str | None) -> Client:
    """The daemon's client; an option after the command's name beats one before it."""
    return Client(socket or context.find_root().obj)

# SPDX-License-Identifier: Apache-2.0
"""rictl ps, freeze, thaw, kill: the sessions of this host and what can be done to them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from monitor.cli import console, moment
from monitor.cli.client import path
from monitor.cli.options import JsonOption, SessionArgument, SocketOption, WhyOption, client

COUNTS = ("allow", "deny", "would-deny", "lost")

app = typer.Typer()


@app.command()
def ps(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also sessions that ended.")] = False,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """List sessions.

    Who runs what on whose behalf, until when, and how much was allowed and refused.

    \b
    examples:
      rictl ps
      rictl ps --all
      rictl ps --json | python3 -m json.tool
    """
    answer = client(context, socket).get("/v1/sessions", {"all": int(everything)})
    sessions: list[dict[str, Any]] = answer["sessions"]
    if as_json:
        console.document(answer)
        return
    if not sessions:
        console.note("no sessions" if everything else "no live sessions; --all shows ended ones")
        return
    counts = [
        name
        for name in COUNTS
        if name != "would-deny" or any(each["counts"].get(name) for each in sessions)
    ]
    columns = ["ID", "AGENT", "CHAIN", "PROFILE", "STATE", "PID", "EXPIRES"]
    columns += [name.upper() for name in counts]
    numbers = ["PID", *(name.upper() for name in counts)]
    rows = [
        [*_row(each), *(str(each["counts"].get(name, 0)) for name in counts)] for each in sessions
    ]
    if everything:
        columns.append("WHY")
        rows = [[*row, each.get("why") or ""] for row, each in zip(rows, sessions, strict=True)]
    console.table(columns, rows, right=numbers, whole=["ID", "STATE", "EXPIRES", *numbers])


def _row(session: dict[str, Any]) -> list[str]:
    terminal = console.is_terminal()
    over = session["state"] == "ended"
    return [
        session["id"],
        _agent(session["agent"]) if terminal else session["agent"],
        " > ".join(_agent(name) for name in session["chain"]),
        session["profile"],
        session["state"],
        str(session.get("pid") or "-"),
        "-" if over else moment.until(session.get("expires")),
    ]


def _agent(name: str) -> str:
    """The part of an agent's id after its trust domain; other names as they are."""
    return name.partition("/agent/")[2] or name if name.startswith("spiffe://") else name


@app.command()
def freeze(
    context: typer.Context,
    session: SessionArgument,
    why: WhyOption = "",
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Stop all processes of a session until it is thawed.

    \b
    examples:
      rictl freeze 7f3a2b1c
      rictl freeze 7f3a2b1c --why "what is it doing with that file?"
    """
    _change(context, socket, session, "freeze", why, as_json)


@app.command()
def thaw(
    context: typer.Context,
    session: SessionArgument,
    why: WhyOption = "",
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Let a frozen session go on.

    \b
    examples:
      rictl thaw 7f3a2b1c
    """
    _change(context, socket, session, "thaw", why, as_json)


@app.command()
def kill(
    context: typer.Context,
    session: SessionArgument,
    why: WhyOption = "",
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """End a session at once.

    It is frozen, its connections are cut, its processes killed, and its rules go last.

    \b
    examples:
      rictl kill 7f3a2b1c --why "reads what it should not"
    """
    _change(context, socket, session, "kill", why, as_json)


def _change(
    context: typer.Context, socket: str | None, session: str, verb: str, why: str, as_json: bool
) -> None:
    body = {"why": why} if why else {}
    answer = client(context, socket).post(path("sessions", session, verb), body)
    if as_json:
        console.document(answer)
        return
    changed = answer["session"]
    steps = ", ".join(f"{step['name']} {step['milliseconds']:.1f} ms" for step in answer["steps"])
    text = f"session {changed['id']} is {changed['state']}"
    console.line(f"{text} ({steps})" if steps else text)

# SPDX-License-Identifier: Apache-2.0
"""rictl ps, freeze, thaw, kill: the sessions of this host and what can be done to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from monitor.cli import console
from monitor.cli.client import path
from monitor.cli.moment import until
from monitor.cli.options import JsonOption, SessionArgument, SocketOption, WhyOption, client

WIDE = 150  # columns of a terminal that has room for everything
SHORT_ID = 12
COUNTS = ("allow", "deny", "would-deny", "lost")

app = typer.Typer()


@app.command()
def ps(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", help="Also sessions that ended.")] = False,
    tree: Annotated[
        bool,
        typer.Option("--tree", help="Who delegated to whom: users, agents, and their sessions."),
    ] = False,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """List sessions.

    Who runs what on whose behalf, until when, and how much was allowed and refused.

    \b
    examples:
      rictl ps
      rictl ps --all
      rictl ps --tree
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
    if tree:
        for text in _tree(sessions):
            console.line(text)
        return
    columns = _columns(sessions)
    if everything:
        columns["WHY"] = lambda each: each.get("why") or ""
    rows = [[show(each) for show in columns.values()] for each in sessions]
    numbers = {"PID", *(name.upper() for name in COUNTS)}
    console.table([*columns], rows, right=numbers, whole=[*columns])


def _columns(sessions: list[dict[str, Any]]) -> dict[str, Callable[[dict[str, Any]], str]]:
    """What is shown of each session, by column; less on a terminal that has no room for all."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "ID": lambda each: each["id"],
        "AGENT": lambda each: each["agent"],
        "CHAIN": lambda each: " > ".join(map(_short, each["chain"])),
        "PROFILE": lambda each: each["profile"],
        "STATE": _state,
        "PID": lambda each: str(each.get("pid") or "-"),
        "EXPIRES": lambda each: "-" if each["state"] == "ended" else until(each.get("expires")),
    }
    for name in COUNTS:
        if name != "would-deny" or any(each["counts"].get(name) for each in sessions):
            columns[name.upper()] = lambda each, name=name: str(each["counts"].get(name, 0))  # type: ignore[misc]
    if any(each.get("labels") for each in sessions):
        columns["LABELS"] = lambda each: ", ".join(each.get("labels", []))
    if console.columns() < WIDE:
        # The random end of the id, which every command takes; the chain ends with the agent.
        columns["ID"] = lambda each: each["id"][-SHORT_ID:]
        for name in ("AGENT", "PROFILE", "PID"):
            del columns[name]
    return columns


class _Node:
    """A user, an agent or a session: whom it delegated to, and what runs as it."""

    def __init__(self) -> None:
        self.agents: dict[str, _Node] = {}
        self.sessions: list[dict[str, Any]] = []


def _tree(sessions: list[dict[str, Any]]) -> list[str]:
    """Sessions under the chains that they run under, a line for each link and each session.

    Sub-agents stand under the session that they were started in.
    """
    by_id = {session["id"]: session for session in sessions}
    inside = {identity: _Node() for identity in by_id}
    root = _Node()
    for session in sessions:
        node, names = root, session["chain"]
        outer = by_id.get(session.get("inside"))
        if outer is not None:
            node, names = inside[outer["id"]], names[len(outer["chain"]) :]
        for name in names:
            node = node.agents.setdefault(name, _Node())
        node.sessions.append(session)
    return list(_branches(root, inside, 0))


def _branches(node: _Node, inside: dict[str, _Node], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for session in node.sessions:
        facts = [
            session["id"] if console.columns() >= WIDE else session["id"][-SHORT_ID:],
            _state(session),
            session["profile"],
            "" if session["state"] == "ended" else f"expires {_left(session)}",
            " ".join(f"[{name}]" for name in session.get("labels", [])),
            session["purpose"],
        ]
        yield indent + "  ".join(each for each in facts if each)
        yield from _branches(inside[session["id"]], inside, depth + 1)
    short = Counter(map(_short, node.agents))
    for name, below in sorted(node.agents.items()):
        # The same name in two trust domains is two agents.
        yield indent + (_short(name) if short[_short(name)] == 1 else name)
        yield from _branches(below, inside, depth + 1)


def _left(session: dict[str, Any]) -> str:
    left = until(session.get("expires"))
    return left if left in ("never", "over") else f"in {left}"


def _state(session: dict[str, Any]) -> str:
    """The state; of one that lives on without its authority, what took it away."""
    state, denied = str(session["state"]), session.get("denied")
    if session.get("hold") == "expiry":
        denied = "expired"
    if not denied or state == "ended":
        return state
    return str(denied) if state == "running" else f"{state}, {denied}"


def _short(name: str) -> str:
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

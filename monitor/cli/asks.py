# SPDX-License-Identifier: Apache-2.0
"""rictl asks, approve, deny: what agents wait for, and the answers of people."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from monitor.cli import console, moment
from monitor.cli.client import Client, path
from monitor.cli.failure import REFUSED, CommandError, UnreachableError, UsageError
from monitor.cli.options import JsonOption, SocketOption, WhyOption, client

RECONNECT_SECONDS = 10.0
SHORT_ID = 12

app = typer.Typer()

Identities = Annotated[
    list[str],
    typer.Argument(
        metavar="ID...",
        help="The ask's id, or four or more characters of its beginning.",
        show_default=False,
    ),
]
OnceOption = Annotated[
    bool, typer.Option("--once", help="One action, the one that waits longest; the default.")
]
UsesOption = Annotated[
    int | None,
    typer.Option(
        "--uses", metavar="N", min=1, help="So many actions, later ones too.", show_default=False
    ),
]
ForOption = Annotated[
    str | None,
    typer.Option("--for", metavar="TIME", help="All until then: 90s, 10m, 2h.", show_default=False),
]
SessionOption = Annotated[
    bool, typer.Option("--session", help="All for as long as the session runs.")
]


@app.command()
def asks(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on with what comes, until interrupted.")
    ] = False,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """List actions that are held until somebody answers.

    Who asks on whose behalf, what would be done, with its arguments, and why it needs an answer.
    Shown are the asks that you may answer: those of agents that run on your behalf, and for root
    and administrators all.

    \b
    examples:
      rictl asks
      rictl asks --watch
      rictl asks --json | python3 -m json.tool
    """
    daemon = client(context, socket)
    if watch:
        _watch(daemon, as_json=as_json)
        return
    answer = daemon.get("/v1/asks")
    if as_json:
        console.document(answer)
        return
    for ask in answer["asks"]:
        _print(ask)
    if not answer["asks"]:
        console.note("nothing waits for an answer")


@app.command()
def approve(
    context: typer.Context,
    identities: Identities,
    once: OnceOption = False,
    uses: UsesOption = None,
    for_: ForOption = None,
    session: SessionOption = False,
    why: WhyOption = "",
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Let a held action go on.

    It goes on with exactly what was asked: the same program with the same arguments, the same
    destination, the same file, in this session. An approval never goes to another link of the
    chain, and never lifts what the profile denies.

    \b
    examples:
      rictl approve 3f9a1c2b
      rictl approve 3f9a1c2b --uses 3 --why "release 1.4"
      rictl approve 3f9a 77c0 --for 10m
      rictl approve 3f9a1c2b --session
    """
    body = _body(once, uses, for_, session, why)
    _answer(client(context, socket), identities, "approve", body, as_json=as_json)


@app.command()
def deny(
    context: typer.Context,
    identities: Identities,
    once: OnceOption = False,
    uses: UsesOption = None,
    for_: ForOption = None,
    session: SessionOption = False,
    why: WhyOption = "",
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Refuse a held action: the program is told that it is not permitted.

    All that wait for the ask are refused; with `--uses`, `--for` or `--session` those that come
    later too, without asking.

    \b
    examples:
      rictl deny 3f9a1c2b
      rictl deny 3f9a1c2b --session --why "not from here"
    """
    body = _body(once, uses, for_, session, why)
    _answer(client(context, socket), identities, "deny", body, as_json=as_json)


# ----------------------------------------------------------------------------------------------


def _body(
    once: bool, uses: int | None, for_: str | None, session: bool, why: str
) -> dict[str, Any]:
    if sum((once, uses is not None, for_ is not None, session)) > 1:
        raise UsageError("only one of --once, --uses, --for and --session can be given")
    given = {"uses": uses, "for": for_, "session": session or None, "why": why or None}
    return {name: value for name, value in given.items() if value is not None}


def _answer(
    daemon: Client, identities: list[str], verb: str, body: dict[str, Any], *, as_json: bool
) -> None:
    """Answer one after another; what cannot be answered does not keep the others waiting."""
    failed = False
    for identity in identities:
        try:
            answer = daemon.post(path("asks", identity, verb), body)
        except (UnreachableError, UsageError):
            raise
        except CommandError as error:
            console.flush()
            console.failure(str(error), error.hint)
            failed = True
            continue
        if as_json:
            console.json_line(answer)
        else:
            _say(answer)
    if failed:
        raise typer.Exit(REFUSED)


def _say(answer: dict[str, Any]) -> None:
    ask, allow, let = answer["ask"], answer["answer"]["allow"], answer["let"]
    done = "approved" if allow else "denied"
    scope = "" if answer["scope"] == "once" else f", {answer['scope']}"
    goes = (
        f"{let} {'goes on' if allow else 'is refused'}"
        if let == 1
        else (f"{let} {'go on' if allow else 'are refused'}")
    )
    console.line(f"{done} {ask['id']}{scope}: {ask['verb']} {_what(ask)} ({goes})")
    if answer["more"]:
        console.line(f"the others wait for ask {answer['more']}")


def _what(ask: dict[str, Any]) -> str:
    """The action with its real arguments, as a shell would take them."""
    return shlex.join(ask["argv"]) if ask["argv"] else str(ask["object"])


def _print(ask: dict[str, Any]) -> None:
    times = f"  ({ask['count']} times)" if ask["count"] > 1 else ""
    session = ask["session"][-SHORT_ID:] if console.is_terminal() else ask["session"]
    console.raw(
        f"{console.styled(ask['id'], 'ask')}  {console.visible(ask['verb'])}"
        f"  {console.visible(ask['object'])}{times}"
    )
    facts = {
        "runs": shlex.join(ask["argv"]),
        "in": ask["cwd"],
        "for": " > ".join(ask["chain"]),
        "session": f"{session} (link {ask['link']}, profile {ask['profile']})",
        "purpose": ask["purpose"],
        "why": ask["why"],
        "rule": ask["rule"],
        "left": moment.until(ask["left"], now=0.0),
    }
    for name, value in facts.items():
        if value:
            console.raw(f"    {name:<8} {console.visible(value)}")


def _watch(daemon: Client, *, as_json: bool) -> None:
    for change in _changes(daemon):
        if as_json:
            console.json_line(change)
        elif "raised" in change:
            _print(change["raised"])
        else:
            ask, answer = change["over"], change["answer"]
            done = "approved" if answer["allow"] else "denied"
            why = f": {answer['why']}" if answer["why"] else ""
            console.line(f"{ask['id']}  {done} by {answer['by']}{why}")
        console.flush()


def _changes(daemon: Client) -> Iterator[dict[str, Any]]:
    """What is raised and what is over. A daemon that starts again in between is waited for."""
    shown: set[str] = set()
    deadline = 0.0
    while True:
        try:
            for change in daemon.lines("/v1/asks", {"follow": 1}):
                deadline = 0.0
                identity = change.get("raised", change.get("over", {})).get("id", "")
                if "over" in change:
                    shown.discard(identity)
                elif identity in shown:
                    continue
                else:
                    shown.add(identity)
                yield change
        except UnreachableError:
            if not deadline:
                deadline = time.monotonic() + RECONNECT_SECONDS
            elif time.monotonic() > deadline:
                raise
        time.sleep(0.2)

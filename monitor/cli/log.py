# SPDX-License-Identifier: Apache-2.0
"""rictl log and log verify: the records of what agents did and what they were refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from monitor.cli import console, moment
from monitor.cli.client import Client, Parameters
from monitor.cli.failure import REFUSED, CommandError, UnreachableError, UsageError
from monitor.cli.options import JsonOption, SocketOption, client
from monitor.cli.sessions import SHORT_ID

PAGE = 1000
SHOWN = 100  # of the newest, where nothing says how many
FOLLOWED = 10
RECONNECT_SECONDS = 10.0
VERIFY_SECONDS = 3600.0

app = typer.Typer(invoke_without_command=True)


def _word(kind: str, value: str) -> str:
    """`value`, which must be a verdict or a verb; UsageError lists them."""
    if value:
        from monitor.policy.action import Verb, Verdict

        known = [each.value for each in (Verdict if kind == "verdict" else Verb)]
        if value not in known:
            raise UsageError(f"{value!r} is not a {kind}", f"one of {', '.join(known)}")
    return value


@app.callback()
def log(
    context: typer.Context,
    session: Annotated[
        str,
        typer.Option("--session", metavar="ID", help="Only of this session.", show_default=False),
    ] = "",
    verdict: Annotated[
        str,
        typer.Option(
            "--verdict",
            metavar="V",
            help="Only with this verdict: allow, deny, kill, would-deny.",
            show_default=False,
        ),
    ] = "",
    verb: Annotated[
        str,
        typer.Option(
            "--verb",
            metavar="V",
            help="Only of this verb: file.open, net.connect, proc.exec, ...",
            show_default=False,
        ),
    ] = "",
    agent: Annotated[
        str,
        typer.Option(
            "--agent",
            metavar="GLOB",
            help="Only of agents whose name or id matches.",
            show_default=False,
        ),
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            "--since",
            metavar="T",
            help="Only since then: 10m (ago), 2h, today, or RFC 3339.",
            show_default=False,
        ),
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on printing records as they come.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=0,
            help="Only the newest N. Without --json and --since: 100.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Print what agents did and were refused.

    One record a line: id, time, session, verdict, verb, object, reason.

    \b
    examples:
      rictl log --verdict deny --since 10m
      rictl log --session 7f3a2b1c --verb net.connect
      rictl log --follow
      rictl log --json --since today
      rictl log verify
    """
    daemon = client(context, socket)
    if context.invoked_subcommand is not None:
        # `rictl log --socket PATH verify` means that socket too.
        context.find_root().obj = socket or context.find_root().obj
        return
    wanted: dict[str, str | int | float | None] = {
        "session": session,
        "verdict": _word("verdict", verdict),
        "verb": _word("verb", verb),
        "agent": agent,
        "since": moment.parse(since) if since else None,
    }
    if limit is None and not since and (follow or not as_json):
        limit = FOLLOWED if follow else SHOWN
    show = console.json_line if as_json else _print
    last = _newest(daemon) if follow and limit == 0 else 0
    for record in _stored(daemon, wanted, limit):
        show(record)
        last = record["id"]
    if follow:
        console.flush()
        for record in _followed(daemon, wanted | {"since": None}, last):
            show(record)
            console.flush()


def _stored(daemon: Client, wanted: Parameters, limit: int | None) -> Iterator[dict[str, Any]]:
    """What is in the store: the newest `limit`, or all of it page by page; oldest first."""
    if limit == 0:
        return
    if limit is not None and limit <= PAGE:
        answer = daemon.get("/v1/records", {**wanted, "limit": limit, "newest": 1})
        yield from sorted(answer["records"], key=lambda record: int(record["id"]))
        return
    after = 0
    if limit is not None:
        after = _before_newest(daemon, wanted, limit)
    while True:
        answer = daemon.get("/v1/records", {**wanted, "after": after, "limit": PAGE})
        if not answer["records"]:
            return
        yield from answer["records"]
        after = answer["records"][-1]["id"]


def _before_newest(daemon: Client, wanted: Parameters, limit: int) -> int:
    """The id after which `limit` matching records, or fewer if there are not so many, stand."""
    found: list[int] = []
    after = 0
    while True:
        answer = daemon.get("/v1/records", {**wanted, "after": after, "limit": PAGE})
        if not answer["records"]:
            return found[0] - 1 if found else 0
        found += [record["id"] for record in answer["records"]]
        after = found[-1]
        del found[:-limit]


def _newest(daemon: Client) -> int:
    """The id of the newest record that the caller may see, 0 where there is none."""
    records = daemon.get("/v1/records", {"limit": 1, "newest": 1})["records"]
    return int(records[-1]["id"]) if records else 0


def _followed(daemon: Client, wanted: Parameters, after: int) -> Iterator[dict[str, Any]]:
    """Records after `after` as they come. A daemon that starts again in between is waited for."""
    deadline = 0.0
    while True:
        try:
            for record in daemon.lines("/v1/records", {**wanted, "after": after, "follow": 1}):
                yield record
                after = record["id"]
                deadline = 0.0
        except UnreachableError:
            if not deadline:
                deadline = time.monotonic() + RECONNECT_SECONDS
            elif time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def _print(record: dict[str, Any]) -> None:
    """One record on one line: the fixed columns first, what was chosen by the agent last."""
    session = record["session"] or "-"
    if console.is_terminal():
        session = session[-SHORT_ID:]  # the random end of a UUIDv7; `--session` takes it
    verdict = console.styled(f"{record['verdict']:<10}", record["verdict"])
    count = f" ({record['count']} times)" if record["count"] > 1 else ""
    reason = f"  -- {console.visible(record['reason'])}" if record["reason"] else ""
    console.raw(
        f"{record['id']:>6} {moment.local(record['time'])} {session} {verdict}"
        f" {console.visible(record['verb']):<14} {console.visible(record['object'])}{count}{reason}"
    )


@app.command()
def verify(
    context: typer.Context, as_json: JsonOption = False, socket: SocketOption = None
) -> None:
    """Check the hash chain of the log.

    Says whether anything in it was changed, taken out or put in.

    \b
    examples:
      rictl log verify
    """
    answer = client(context, socket).get("/v1/log/verify", seconds=VERIFY_SECONDS)
    if as_json:
        console.document(answer)
        if not answer["ok"]:
            raise typer.Exit(REFUSED)
    elif answer["ok"]:
        console.line(f"the log is whole: {answer['records']} records")
    else:
        raise CommandError(
            f"the log is not whole: {answer['problem']} (record {answer['record']})",
            "records before that one are as they were written; keep a copy of the file as it is",
        )

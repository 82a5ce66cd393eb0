# SPDX-License-Identifier: Apache-2.0
"""rictl reload and rictl profile diff: what changed profiles do to the sessions that run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from monitor.cli import console
from monitor.cli.failure import REFUSED
from monitor.cli.options import JsonOption, SocketOption, client

app = typer.Typer()


@app.command()
def reload(
    context: typer.Context,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Put changed profiles in force in the sessions that run.

    The daemon watches the folders of profiles and does this by itself a second or two after a file
    was written. A file that cannot be used changes nothing; exit status 1 then.

    \b
    examples:
      rictl profile diff && rictl reload
      rictl reload --json
    """
    answer = client(context, socket).post("/v1/reload", {})
    failed = answer["problems"] or any(each["problem"] for each in answer["sessions"])
    if as_json:
        console.document(answer)
    else:
        for problem in answer["problems"]:
            console.note(problem)
        for line in _described(answer["sessions"], done=True):
            console.line(line)
        if not answer["sessions"]:
            console.note("nothing has changed for the sessions that run")
    if failed:
        raise typer.Exit(REFUSED)


def diff(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Of this profile only (all that changed).", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Show what changed profiles would add to and take away from each session that runs.

    `+` adds, `-` takes away, `~` may do both. What a session puts on at its start only narrows:
    rules marked "new sessions only" count for those that start later.

    \b
    examples:
      rictl profile diff
      rictl profile diff coder
      rictl profile diff --json
    """
    answer = client(context, socket).get("/v1/profiles/diff", {"profile": name})
    if as_json:
        console.document(answer)
    else:
        for problem in answer["problems"]:
            console.note(problem)
        for line in _described(answer["sessions"], done=False):
            console.line(line)
        if not answer["sessions"] and not answer["problems"]:
            console.note("no difference for the sessions that run")
    if answer["problems"]:
        raise typer.Exit(REFUSED)


def _described(sessions: list[dict[str, Any]], *, done: bool) -> Iterator[str]:
    for each in sessions:
        facts = [each["agent"]]
        if each["problem"]:
            facts.append(f"stays as it is: {each['problem']}")
        elif done:
            facts.append(f"changed, {each['cut']} socket{'' if each['cut'] == 1 else 's'} cut")
        if each["pinned"]:
            facts.append("delegated: only what is taken away counts")
        yield f"session {each['id']}  {'; '.join(facts)}"
        yield from (f"  {line}" for line in each["lines"])
        yield from (f"  ! kept until it ends: {line}" for line in each["pending"])

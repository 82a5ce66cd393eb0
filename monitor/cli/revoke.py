# SPDX-License-Identifier: Apache-2.0
"""rictl revoke: takes authority back, from a session, a grant, an agent or a user."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from monitor.cli import console
from monitor.cli.client import Client
from monitor.cli.failure import CommandError
from monitor.cli.options import JsonOption, SocketOption, WhyOption, client

LARGEST = 20_000  # bytes of a file that can be a grant
REVOCATION_ID = re.compile(r"[0-9a-f]{128}")
# No agent's name begins like this.
PATHS = ("/", "./", "../")

app = typer.Typer()


class Then(Enum):
    """What becomes of the processes."""

    KILL = "kill"
    DENY = "deny"


ThenOption = Annotated[
    Then,
    typer.Option(
        "--then", help="End the processes, or let them run on with the network denied for good."
    ),
]


@app.command()
def revoke(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="SESSION|GRANT|AGENT|PRINCIPAL",
            help="A session's id or four characters from either end of it; a grant's file or the id"
            " of one of its links; an agent's name or SPIFFE id; user:NAME.",
            show_default=False,
        ),
    ],
    then: ThenOption = Then.KILL,
    why: WhyOption = "",
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Take authority back, at once, from everything that the name stands for.

    All sessions concerned are denied the network in the kernel, then frozen, then their open
    connections are cut, each step for all of them before the next; then they are killed, or run on
    with the network denied for good. A grant takes with it what was made of it; an agent or a user
    takes the grants that their sessions run under. Rights in /etc/ri/delegations.yaml stay: who has
    them may start a session again.

    \b
    examples:
      rictl revoke 7f3a2b1c --why "reads what it should not"
      rictl revoke coder.grant
      rictl revoke demo/coder --then deny
      rictl revoke user:alice --why "left the team"
    """
    take_back(client(context, socket), _meant(what), then, why, as_json=as_json)


def _meant(what: str) -> dict[str, str]:
    """The part of the request that says what; a grant's file is read here."""
    if what.startswith(PATHS):
        return {"grant": read(Path(what))}
    file = Path(what)
    if REVOCATION_ID.fullmatch(what) or not file.is_file():
        if file.suffix == ".grant":
            read(file)  # says why it cannot be
        return {"what": what}
    text = read(file)
    # The daemon judges whether the name means something else as well.
    return {"what": what, "grant": text} if _is_grant(text) else {"what": what}


def _is_grant(text: str) -> bool:
    from monitor.identity import grant
    from monitor.identity.grant_error import GrantError

    try:
        grant.read(text)
    except GrantError:
        return False
    return True


def take_back(
    daemon: Client, what: Mapping[str, str], then: Then, why: str, *, as_json: bool
) -> None:
    """Have the daemon revoke `what`, and print what was done."""
    body = {**what, "then": then.value} | ({"why": why} if why else {})
    answer = daemon.post("/v1/revoke", body)
    if as_json:
        console.document(answer)
        return
    for problem in answer["problems"]:
        console.note(problem)
    for line in _described(answer):
        console.line(line)


def _described(answer: dict[str, Any]) -> list[str]:
    sessions, grants, sockets = answer["sessions"], answer["grants"], answer["sockets"]
    done = "killed" if answer["then"] == Then.KILL.value else "denied everything"
    parts = [f"{_counted(len(sessions), 'session')} {done}"]
    parts += [f"{_counted(sockets, 'socket')} cut"] if sessions else []
    if grants and answer["kind"] != "grant":
        parts.append(f"{_counted(len(grants), 'grant')} taken back")
    name = answer["name"] if answer["kind"] != "grant" else answer["name"][:16] + "..."
    lines = [f"revoked {answer['kind']} {name}: {', '.join(parts)}"]
    if sessions:
        steps = [f"{each['name']} {each['since']:.1f} ms" for each in answer["steps"]]
        lines += [f"  {each['id']}  {each['agent']}" for each in sessions]
        lines.append(f"done since receipt: {', '.join(steps)}")
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def read(file: Path) -> str:
    """The text of a grant's file."""
    try:
        with file.open("rb") as opened:
            return opened.read(LARGEST).decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise CommandError(f"{file} is no grant") from error
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror or error}") from error

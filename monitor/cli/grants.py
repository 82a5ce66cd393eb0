# SPDX-License-Identifier: Apache-2.0
"""rictl delegate, rictl grant: signed delegations, made by the daemon and narrowed by anybody.

biscuit_auth and what reads profiles are imported by the commands that need them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monitor.cli import console
from monitor.cli.failure import CommandError, UnreachableError, UsageError
from monitor.cli.moment import local, until
from monitor.cli.options import JsonOption, SocketOption, WhyOption, client
from monitor.cli.profiles import ConfigOption
from monitor.cli.revoke import REVOCATION_ID, Then, ThenOption, read, take_back

if TYPE_CHECKING:
    from monitor.identity.grant import Grant


FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="The grant.", show_default=False)
]

app = typer.Typer()
grant = typer.Typer(no_args_is_help=True, help="Show and revoke grants.")


@app.command()
def delegate(
    context: typer.Context,
    agent: Annotated[
        str,
        typer.Option("--agent", metavar="NAME", help="The agent that may act.", show_default=False),
    ],
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            metavar="NAME",
            help="Profile that must allow its actions; with --from, one more.",
            show_default=False,
        ),
    ] = None,
    ttl: Annotated[
        str | None,
        typer.Option(
            "--ttl",
            metavar="DURATION",
            help="How long it holds: 30m, 8h, 7d (8h, or less where you may not have that).",
            show_default=False,
        ),
    ] = None,
    purpose: Annotated[
        str,
        typer.Option(
            "--purpose", metavar="TEXT", help="What it is for, for the records.", show_default=False
        ),
    ] = "",
    depth: Annotated[
        int,
        typer.Option("--depth", metavar="N", min=0, max=99, help="How often it may be passed on."),
    ] = 0,
    uses: Annotated[
        int | None,
        typer.Option(
            "--uses",
            metavar="N",
            min=1,
            max=999_999,
            help="How many sessions may be started (any number).",
            show_default=False,
        ),
    ] = None,
    bearer: Annotated[
        str | None,
        typer.Option(
            "--bearer",
            metavar="USER",
            help="User who may start sessions under it (you).",
            show_default=False,
        ),
    ] = None,
    host_group: Annotated[
        str | None,
        typer.Option(
            "--host-group",
            metavar="NAME",
            help="For all hosts of a group that this one belongs to (this host).",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Pass this grant on, narrowed; needs no daemon.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Write it there (print it).", show_default=False
        ),
    ] = None,
    config: ConfigOption = None,
    socket: SocketOption = None,
) -> None:
    """Delegate to an agent: make a grant, or narrow one.

    The daemon signs where /etc/ri/delegations.yaml gives you the right to delegate. Whoever holds a
    grant can pass it on with less, by --from; nobody can make it more.

    \b
    examples:
      rictl delegate --agent coder --profile coding-agent --ttl 8h --depth 1 --out coder.grant
      rictl delegate --from coder.grant --agent tester --profile ci-agent --ttl 30m --uses 1
      rictl delegate --agent ci/build --profile ci-agent --bearer builder --out ci.grant
    """
    if source is None:
        if profile is None:
            raise UsageError("--profile is missing: a grant names what must allow its actions")
        body = {
            "agent": agent,
            "profile": profile,
            "ttl": ttl,
            "purpose": purpose,
            "depth": depth,
            "uses": uses,
            "bearer": bearer,
            "host_group": host_group,
        }
        text = str(client(context, socket).post("/v1/grants", body)["grant"])
    else:
        if bearer is not None or host_group is not None:
            raise UsageError("--bearer and --host-group are said once, by who makes the grant")
        text = _narrowed(source, agent, profile, ttl, purpose, depth, uses, config)
    if out is None:
        console.line(text)
        return
    _write(out, text)
    made = _parsed(text)
    console.line(f"{out}: {made.agent}, until {local(made.expires)} ({until(made.expires)})")


def _narrowed(
    source: Path,
    agent: str,
    profile: str | None,
    ttl: str | None,
    purpose: str,
    depth: int,
    uses: int | None,
    config: Path | None,
) -> str:
    from monitor.identity import grant as tokens
    from monitor.identity.chain import agent_id
    from monitor.identity.grant_block import Step
    from monitor.identity.grant_error import GrantError
    from monitor.profile import durations

    text = read(source)
    before = _parsed(text)
    left = before.expires - time.time()
    if left <= 0:
        raise CommandError(f"{source} expired at {local(before.expires)}")
    if depth > max(before.depth - 1, 0):
        raise CommandError(
            f"{source} may be passed on {before.depth} times: what is made of it,"
            f" {max(before.depth - 1, 0)} times"
        )
    domain = before.agent.removeprefix("spiffe://").partition("/agent/")[0]
    try:
        seconds = None if ttl is None else durations.seconds(ttl)
    except ValueError as error:
        raise UsageError(f"--ttl: {error}") from error
    try:
        step = Step(
            agent=agent_id(domain, agent),
            profile=profile,
            digest=None if profile is None else _digest(profile, config),
            purpose=purpose,
            # More than is left would say nothing.
            expires=None if seconds is None or seconds >= left else int(time.time()) + seconds,
            depth=depth,
            uses=uses,
        )
        return tokens.narrow(text, step)
    except (GrantError, ValueError) as error:
        raise CommandError(str(error)) from error


def _digest(profile: str, config: Path | None) -> str:
    """The digest of a profile as this host has it."""
    from monitor.cli.profiles import folders
    from monitor.profile.catalog import Catalog
    from monitor.profile.errors import ProfileError
    from monitor.profile.resolve import digest, resolve

    found = Catalog(folders(config))
    try:
        return digest(resolve(found.load(profile), found.load))
    except ProfileError as error:
        raise CommandError(str(error)) from error


@grant.command()
def show(
    context: typer.Context,
    file: FileArgument,
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Print what a grant gives, to whom and until when.

    The daemon is asked whether it holds on this host now.

    \b
    examples:
      rictl grant show coder.grant
      rictl grant show coder.grant --json
    """
    from monitor.identity.grant_json import to_json

    text = read(file)
    found = to_json(_parsed(text))
    status: dict[str, Any] = {"holds": None, "problem": "", "used": []}
    try:
        status = client(context, socket).post("/v1/grants/check", {"grant": text})
    except UnreachableError as error:
        status["problem"] = str(error)
    except CommandError as error:
        status |= {"holds": False, "problem": str(error)}
    if as_json:
        console.document(found | status)
        return
    for line in _described(found, status):
        console.line(line)


def _described(found: dict[str, Any], status: dict[str, Any]) -> list[str]:
    places = [*found["hosts"], *(f"group {each}" for each in found["host_groups"])]
    holds = {True: "yes", False: f"no: {status['problem']}", None: f"unknown: {status['problem']}"}
    lines = [
        f"grant      {found['id']}",
        f"holds here {holds[status['holds']]}",
        f"for        {found['bearer']} on {', '.join(places)}",
        f"until      {local(found['expires'])} ({until(found['expires'])})",
        f"signed     {local(found['issued'])} with {found['key']}",
        "",
        found["principal"],
    ]
    used = iter(status["used"])
    for place, link in enumerate(found["links"]):
        indent = "  " * place
        lines.append(f"{indent}  > {link['agent']}")
        facts = {
            "profile": link["profile"],
            "purpose": link["purpose"],
            "expires": None if link["expires"] is None else local(link["expires"]),
            "passed on": _times(link["depth"]),
            "sessions": link["uses"],
        }
        if link["uses"] is not None:
            counted = next(used, None)
            facts["sessions"] = f"{link['uses']}" + (
                "" if counted is None else f" ({counted} started)"
            )
        lines += [f"{indent}      {name:<9} {value}" for name, value in facts.items() if value]
        lines += [f"{indent}      check     {each}" for each in link["checks"]]
        lines.append(f"{indent}      revoke by {link['revocation_id']}")
    return lines


def _times(depth: int | None) -> str:
    if depth is None:
        return ""
    return {0: "never", 1: "once"}.get(depth, f"{depth} times")


@grant.command("revoke")
def revoke_grant(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|ID",
            help="The grant, or the id that `rictl grant show` prints behind a link.",
            show_default=False,
        ),
    ],
    then: ThenOption = Then.KILL,
    why: WhyOption = "",
    as_json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Take a grant back, with all that was made of it; the same as `rictl revoke`.

    \b
    examples:
      rictl grant revoke coder.grant --why "the task is done"
    """
    body = {"what": what} if REVOCATION_ID.fullmatch(what) else {"grant": read(Path(what))}
    take_back(client(context, socket), body, then, why, as_json=as_json)


@grant.command()
def key(context: typer.Context, socket: SocketOption = None) -> None:
    """Print the public key of this host's grants.

    Another host trusts them when it stands there in /etc/ri/keys/trusted/NAME.pub.

    \b
    examples:
      rictl grant key > builder.pub
    """
    console.line(client(context, socket).get("/v1/grants/key")["key"])


def _parsed(text: str) -> Grant:
    from monitor.identity import grant as tokens
    from monitor.identity.grant_error import GrantError

    try:
        return tokens.read(text)
    except GrantError as error:
        raise CommandError(str(error)) from error


def _write(file: Path, text: str) -> None:
    """A new file that its owner alone can read: who holds a grant can pass it on."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            opened.write(text + "\n")
    except FileExistsError as error:
        raise CommandError(f"{file} exists already", "remove it, or name another") from error
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror or error}") from error

# SPDX-License-Identifier: Apache-2.0
"""rictl profile check, show, schema: profiles as this host would take them, without the daemon.

pydantic and YAML are imported by the commands that need them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from monitor.cli import console
from monitor.cli.failure import REFUSED, CommandError, UsageError
from monitor.cli.options import JsonOption

if TYPE_CHECKING:
    import pwd

    from monitor.policy.plan import Plan
    from monitor.profile.catalog import Catalog
    from monitor.profile.model import Profile
    from monitor.profile.variables import Variables

# What a session's id looks like; none is running here.
SAMPLE_SESSION = "01900000-0000-7000-8000-000000000000"

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Configuration that names the folders of profiles (/etc/ri/config.yaml).",
        show_default=False,
    ),
]
WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        metavar="DIR",
        help="What {workspace} stands for (the working directory).",
        show_default=False,
    ),
]
UserOption = Annotated[
    str,
    typer.Option(
        "--user",
        metavar="NAME",
        help="Whose session it would be (you; with sudo, who called it).",
        show_default=False,
    ),
]

app = typer.Typer(no_args_is_help=True, help="Check and show profiles.")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The profile.", show_default=False)],
    workspace: WorkspaceOption = None,
    user: UserOption = "",
    config: ConfigOption = None,
) -> None:
    """Check a profile file.

    Prints what is wrong with it and what is doubtful, each with its place, and whether this host
    can hold it. Exit status 1 when something is wrong.

    \b
    examples:
      rictl profile check coder.yaml
      rictl profile check coder.yaml --workspace ~/src/shop
    """
    from monitor.profile import lint
    from monitor.profile.errors import ProfileError
    from monitor.profile.load import load
    from monitor.profile.resolve import resolve

    catalog = _catalog(config)
    try:
        profiles = resolve(load(file), catalog.load)
        findings = lint.lint(profiles, _variables(workspace, _account(user)))
    except ProfileError as error:
        raise _wrong(file, str(error)) from error
    except OSError as error:
        raise _unreadable(file, error) from error
    for finding in findings:
        place = finding.position
        where = f"{place.source}:{place.line}:{place.column}" if place else str(file)
        level = console.styled(finding.level, finding.level)
        parts = [console.visible(each) for each in (where, finding.key, finding.message)]
        console.raw(f"{parts[0]}: {level}: {': '.join(each for each in parts[1:] if each)}")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(REFUSED)
    plan = _compiled(profiles, workspace, _account(user))
    lacking = f"; this host lacks {', '.join(plan.missing)}" if plan.missing else ""
    console.line(f"{file}: ok{lacking}")


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Name of a profile, or a file with a / or .yaml.",
            show_default=False,
        ),
    ],
    effective: Annotated[
        bool,
        typer.Option(
            "--effective", help="What the kernel is told: variables, include, extends worked out."
        ),
    ] = False,
    as_json: JsonOption = False,
    workspace: WorkspaceOption = None,
    user: UserOption = "",
    config: ConfigOption = None,
) -> None:
    """Print a profile, as written or as it takes effect.

    \b
    examples:
      rictl profile show coding-agent
      rictl profile show coding-agent --effective --workspace ~/src/shop
      rictl profile show ./coder.yaml --effective --json
    """
    from monitor.profile.errors import ProfileError
    from monitor.profile.load import load
    from monitor.profile.resolve import resolve

    if as_json and not effective:
        raise UsageError("--json shows what takes effect", "add --effective")
    catalog = _catalog(config)
    file = _file(name, catalog, config)
    try:
        if not effective:
            console.line(file.read_text(encoding="utf-8").rstrip("\n"))
            return
        profiles = resolve(load(file), catalog.load)
    except ProfileError as error:
        raise _wrong(file, str(error)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error
    plan = _compiled(profiles, workspace, _account(user))
    if as_json:
        import json

        from monitor.policy import plan_json

        console.document(json.loads(plan_json.to_json(plan)))
        return
    from monitor.cli.plan_text import describe

    for line in describe(plan):
        console.line(line)


@app.command()
def schema() -> None:
    """Print the JSON Schema of profiles, for editors.

    \b
    examples:
      rictl profile schema > ri-profile.schema.json
    """
    from monitor.profile.schema import schema as made

    console.document(made())


def folders(config: Path | None) -> tuple[Path, ...]:
    """Where the daemon looks for profiles."""
    from monitor.daemon import config as configuration

    file = config or configuration.DEFAULT_FILE
    if config is None and not file.exists():
        return configuration.Config().profiles
    try:
        return configuration.load(file).profiles
    except configuration.ConfigError as error:
        raise CommandError(
            str(error), "this is the daemon's configuration, not the profile"
        ) from error


def _catalog(config: Path | None) -> Catalog:
    from monitor.profile.catalog import Catalog

    return Catalog(folders(config))


def _file(name: str, catalog: Catalog, config: Path | None) -> Path:
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    for folder in folders(config):
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise CommandError(f"no profile {name}", f"there are: {', '.join(catalog.names()) or 'none'}")


def _wrong(file: Path, problems: str) -> CommandError:
    """The problems go to standard output, one a line with its place, where editors find them."""
    console.line(problems)
    return CommandError(f"{file} cannot be used", "man ri-profile describes every key")


def _unreadable(file: Path, error: Exception) -> CommandError:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CommandError(f"cannot read {file}: {text}")


def _workspace(workspace: Path | None) -> str:
    chosen = Path.cwd() if workspace is None else workspace
    if not chosen.is_dir():
        raise CommandError(f"the workspace {chosen} is no directory", "name one with --workspace")
    return str(chosen.resolve())


def _account(user: str) -> pwd.struct_passwd:
    """The user whose session it would be."""
    import pwd

    try:
        if user:
            return pwd.getpwnam(user)
        caller = os.environ.get("SUDO_USER")
        return pwd.getpwnam(caller) if caller and not os.getuid() else pwd.getpwuid(os.getuid())
    except KeyError:
        raise CommandError(f"no user {user or os.getuid()}", "name one with --user") from None


def _variables(workspace: Path | None, account: pwd.struct_passwd) -> Variables:
    from monitor.profile.variables import Variables

    return Variables(_workspace(workspace), account.pw_dir, SAMPLE_SESSION, account.pw_uid)


def _compiled(
    profiles: tuple[Profile, ...], workspace: Path | None, account: pwd.struct_passwd
) -> Plan:
    """The plan that the daemon would make for a session of `account` on this host."""
    from monitor.daemon import facts, paths
    from monitor.kernel import features
    from monitor.policy.compile import CompileError, Context, compile_plan

    context = Context(
        workspace=_workspace(workspace),
        home=account.pw_dir,
        session=SAMPLE_SESSION,
        uid=account.pw_uid,
        ttl=None,
        observe=False,
        resolve=paths.Resolver(),
    )
    host = facts.host_features(features.probe(unix_hooks=_unix_hooks()))
    try:
        return compile_plan(profiles, context, host)
    except CompileError as error:
        raise CommandError(str(error), "`rictl doctor` says what this host can hold") from error


def _unix_hooks() -> bool:
    """Whether the kernel can decide on unix sockets by name; the loader asks the same question."""
    from monitor.kernel.btf import Btf, BtfError

    try:
        found = Btf(["bpf_sock_addr_kern"]).offset("bpf_sock_addr_kern", "uaddrlen")
    except BtfError:
        return False
    return found is not None

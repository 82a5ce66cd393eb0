# SPDX-License-Identifier: Apache-2.0
"""rictl: reads, explains and ends what agents do. Prints what failed, and never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from monitor import __version__
from monitor.cli import (
    asks,
    console,
    doctor,
    explain,
    grants,
    labels,
    log,
    profiles,
    reload,
    revoke,
    sessions,
    signals,
)
from monitor.cli.client import SOCKET_VARIABLE
from monitor.cli.failure import REFUSED, USAGE, CommandError
from monitor.cli.options import SocketOption

COMPLETION_VARIABLE = "_RICTL_COMPLETE"
EPILOG = f"""\b
exit status:
  0  done
  1  the daemon refused, or a check failed
  2  usage
  3  the daemon cannot be reached

\b
environment:
  {SOCKET_VARIABLE}  socket of the daemon (default /run/ri/ri.sock)
  NO_COLOR   no colours, also on a terminal

\b
examples:
  rictl ps                          sessions
  rictl log --verdict deny          what was refused
  rictl explain 42                  why, and what would allow it
  rictl asks                        what waits for an answer
  rictl approve 3f9a1c2b            let it go on, once
  rictl label list 7f3a2b1c         what it has seen that takes rights away
  rictl kill 7f3a2b1c               end a session
  rictl revoke demo/coder           take back what an agent may do, wherever it runs
  rictl profile check coder.yaml    is this profile right?
  rictl grant show coder.grant      what does this grant give?
  rictl doctor                      what this host can enforce
"""

app = typer.Typer(
    name="rictl",
    add_completion=False,  # packaging/install puts static scripts in place
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    epilog=EPILOG,
)
for group in (
    sessions.app,
    asks.app,
    revoke.app,
    reload.app,
    signals.app,
    explain.app,
    doctor.app,
    grants.app,
):
    app.registered_commands += group.registered_commands
app.add_typer(log.app, name="log")
app.add_typer(profiles.app, name="profile")
app.add_typer(grants.grant, name="grant")
profiles.app.command("diff")(reload.diff)
app.add_typer(labels.label, name="label")


def _version(asked: bool) -> None:
    if asked:
        console.line(f"rictl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    socket: SocketOption = None,
) -> None:
    """Watch, explain and end what AI agents do on this host."""
    context.obj = socket


def main() -> int:
    """Run the command; the exit status."""
    console.prepare()
    if COMPLETION_VARIABLE in os.environ:
        return _complete()
    try:
        return _run(sys.argv[1:])
    except CommandError as error:
        console.failure(str(error), error.hint)
        return error.status
    except BrokenPipeError:
        return _end_by(signal.SIGPIPE)
    except KeyboardInterrupt:
        return _end_by(signal.SIGINT)
    except OSError as error:
        _discard()
        what = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
        console.failure(f"cannot go on{what}: {error.strerror or error}")
        return REFUSED
    except Exception as error:  # noqa: BLE001
        console.failure(_defect(error), "please report this with the command and `rictl --version`")
        return REFUSED


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        with command.make_context("rictl", arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        console.flush()
        return end.exit_code
    except typer.TyperException as error:
        where = getattr(error, "ctx", None)
        message = error.format_message()
        # Without a command the help is the message.
        if error.exit_code == USAGE and "\n" in message:
            sys.stderr.write(message + "\n")
        else:
            path = where.command_path if where is not None else "rictl"
            console.failure(message, f"`{path} --help` shows what there is")
        return error.exit_code
    console.flush()
    return 0


def _complete() -> int:
    """Answer a completion script; see packaging/completions."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()
    try:
        app(prog_name="rictl", complete_var=COMPLETION_VARIABLE)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except Exception:  # noqa: BLE001 - a shell that completes has no place for messages
        return REFUSED
    return 0


def _end_by(number: signal.Signals) -> int:
    """End as the signal would have ended us, so that the shell sees it; the status if it cannot."""
    _discard()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number


def _discard() -> None:
    """Give up what is still in the buffer, so that the exit does not fail by it once more."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _defect(error: Exception) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else "?"
    return f"a defect in rictl: {type(error).__name__}: {error} ({place})"


if __name__ == "__main__":
    sys.exit(main())

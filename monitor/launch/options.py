# SPDX-License-Identifier: Apache-2.0
"""The command line of ri-exec, read by hand: argparse would cost more than all of the launcher."""

import os

HELP = """\
usage: ri-exec [OPTION ...] [--] CMD [ARG ...]

Run CMD, and everything it starts, in a session that may do only what its profile allows.

options:
  --profile NAME|FILE  profile by name, or a file (has a `/` or ends in .yaml, .yml);
                       without it, the first that your delegation names
  --grant FILE         what somebody delegated (rictl delegate): it names agent and profiles
  --agent NAME         name of the agent in records (default: the profile's name)
  --ttl DURATION       end the session after this time: 90s, 30m, 8h, 7d
  --lease DURATION     let its authority run out this long after ri-exec last renewed it, which it
                       does by itself while it runs and the grant or right stands (3s or more)
  --depth N            how many sub-agents may follow one upon the other (default: as many as
                       your right or the grant allows)
  --purpose TEXT       what it is for, in one line, for the records
  --workspace DIR      what {workspace} stands for (default: the working directory)
  --user NAME          run CMD as this user (root only)
  --observe            refuse system calls only; record what else would have been denied
  --version            print the version
  -h, --help           print this

Inside a session, the new one is a sub-agent's: it may do what both profiles allow, and ends with
the one that it was started in.

environment:
  RI_SOCKET            socket of the daemon (default: /run/ri/ri.sock)

exit status:
  CMD's own; 128+N when signal N ended it
  125  no session: the daemon refused, cannot be reached, or a step of the launch failed
  126  CMD may not be executed
  127  CMD was not found

examples:
  ri-exec --profile coding-agent -- mini
  ri-exec --profile coding-agent --ttl 30m --purpose "fix issue 12" -- codex
  ri-exec --profile ./agent.yaml --workspace ~/project -- python3 agent.py
  ri-exec --profile ci-agent --observe -- make test
  ri-exec --grant tester.grant -- make test
  sudo ri-exec --profile ci-agent --user builder -- make test
"""
TAKES_VALUE = ("lease", "profile", "agent", "ttl", "depth", "purpose", "workspace", "user", "grant")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DEFAULT_SOCKET = "/run/ri/ri.sock"
DEFAULT_AGENT = "agent"
FILE_ENDINGS = (".yaml", ".yml")


class UsageError(ValueError):
    """The command line cannot be understood, or asks for what cannot be done."""


class Options:
    """What the command line says. `done` is text to print instead of running anything."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.observe = False
        self.command: list[str] = []
        self.done: str | None = None

    @property
    def lease(self) -> int | None:
        """The seconds of --lease, None where it is not given."""
        text = self.values.get("lease")
        return None if text is None else int(text[:-1]) * UNITS[text[-1]]

    @property
    def profile_file(self) -> str | None:
        """The file that --profile names, None where it is a name."""
        profile = self.values.get("profile")
        if profile is not None and ("/" in profile or profile.endswith(FILE_ENDINGS)):
            return profile
        return None

    @property
    def agent(self) -> str:
        """The agent's name: as given, or the profile's; "": the grant's."""
        name = self.values.get("agent")
        if name is None and "grant" in self.values:
            return ""
        if name is None:
            name = os.path.basename(self.values.get("profile", DEFAULT_AGENT))
            for ending in FILE_ENDINGS:
                name = name.removesuffix(ending)
        return name


def parse(arguments: list[str]) -> Options:
    """Read the command line; UsageError in one line."""
    options = Options()
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        name, separator, value = word[2:].partition("=")
        if word in ("-h", "--help"):
            options.done = HELP
            return options
        if word == "--version":
            from monitor import __version__

            options.done = f"ri-exec {__version__}\n"
            return options
        if word == "--observe":
            options.observe = True
        elif word.startswith("--") and name in TAKES_VALUE:
            if not separator:
                if not rest:
                    raise UsageError(f"--{name} needs a value")
                value = rest.pop(0)
            _take(options, name, value)
        else:
            raise UsageError(f"unknown option {word}")
    if not rest:
        raise UsageError("no CMD to run")
    options.command = rest
    return options


def _take(options: Options, name: str, value: str) -> None:
    if not value:
        raise UsageError(f"--{name} needs a value")
    if name in options.values:
        raise UsageError(f"--{name} is given twice")
    if name == "lease" and not (value[:-1].isdecimal() and len(value) < 9 and value[-1] in UNITS):
        raise UsageError(f"--lease: {value} is not a duration: 60s, 5m, 1h")
    options.values[name] = value
    if "grant" in options.values and "profile" in options.values:
        raise UsageError("--grant and --profile exclude each other: the grant names its profiles")


def launch_socket() -> str:
    """The daemon's launch socket: it stands beside the socket that RI_SOCKET names."""
    api = os.environ.get("RI_SOCKET") or DEFAULT_SOCKET
    return os.path.join(os.path.dirname(api), "launch.sock")

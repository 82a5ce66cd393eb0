# SPDX-License-Identifier: Apache-2.0
"""The profile: what an agent may do, as a person writes it (YAML) and pydantic checks it.

Nothing listed is denied; an empty list denies all; deny beats ask beats allow. Every model refuses
unknown keys. A rule is a string, or a mapping where it needs more than its text; each rule keeps
the place it came from (`position`), put there by `load.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"


class Model(BaseModel):
    """Base of all: unknown keys are errors, and what was loaded never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


class Position(Model):
    """Where a rule stands: `line` and `column` count from 1."""

    source: str
    line: int
    column: int


# Put there by load.py; not a key of the file.
Origin = Annotated[Position | None, Field(exclude=True)]


def _says(description: str) -> FieldInfo:
    # pydantic's Field() is typed as whatever it is assigned to; in Annotated it is a FieldInfo.
    made: FieldInfo = Field(description=description)
    return made


class PathRule(Model):
    """A path: absolute or starting with a variable. `DIR/**` means DIR and all beneath it."""

    path: Annotated[str, _says("Absolute, or beginning with {workspace} or {home}.")]
    position: Origin = None


Paths = tuple[PathRule, ...]


class AskPathRule(Model):
    """A path or glob whose opening a person is asked about, and why."""

    path: Annotated[str, _says("Absolute, or beginning with {workspace} or {home}; globs.")]
    why: Annotated[str, _says("What the person is told.")] = ""
    position: Origin = None


class FilesSection(Model):
    """Which files may be read, written, executed; `deny` and `read_only` take away inside those.

    Allow lists take exact paths and `DIR/**`. `deny` (no access at all) and `read_only` (no
    writing) also take globs. `ask` takes globs too: opening one of those is held until a person
    answers.
    """

    read: Annotated[Paths, _says("May be read, and folders listed: PATH or DIR/**.")] = ()
    write: Annotated[
        Paths, _says("May be written, made, renamed and removed: PATH or DIR/**. Not read.")
    ] = ()
    execute: Annotated[Paths, _says("May be run as a program: PATH or DIR/**. Not read.")] = ()
    deny: Annotated[Paths, _says("No access at all, for what exists at launch; globs.")] = ()
    read_only: Annotated[Paths, _says("No writing, for what exists at launch; globs.")] = ()
    ask: Annotated[
        tuple[AskPathRule, ...], _says("Opening is held until a person answers; globs.")
    ] = ()


class NetworkRule(Model):
    """`ADDRESS[/PREFIX]:PORTS[/PROTOCOL]`: `10.0.0.0/8:443`, `[::1]:8000-8100/udp`, `any:53/udp`.

    PORTS is `*`, one port, a range or a comma list; PROTOCOL is tcp (default) or udp.
    """

    to: Annotated[str, _says("ADDRESS[/PREFIX]:PORTS[/PROTOCOL]; `any` is every address.")]
    position: Origin = None


class ConnectRule(Model):
    """As NetworkRule, or a host name for ADDRESS: `api.example.com:443`, `*.example.org:443`.

    `*.` stands for one label, `**.` for one or more. `private`: the name may have addresses that
    are not public.
    """

    to: Annotated[str, _says("ADDRESS[/PREFIX]:PORTS[/PROTOCOL] or NAME:PORTS[/PROTOCOL].")]
    private: Annotated[
        bool, _says("The name may be answered with addresses that are not public.")
    ] = False
    position: Origin = None


class AskNetworkRule(Model):
    """A destination, as NetworkRule's, that a person is asked about, and why."""

    to: Annotated[str, _says("ADDRESS[/PREFIX]:PORTS[/PROTOCOL]; `any` is every address.")]
    why: Annotated[str, _says("What the person is told.")] = ""
    position: Origin = None


class UnixRule(Model):
    """An absolute path of a unix socket, or `@name` for an abstract one."""

    path: Annotated[str, _says("Absolute, or beginning with a variable; or @NAME.")]
    position: Origin = None


class NetworkSection(Model):
    """Where the agent may connect, send, bind and listen; deny beats ask beats connect."""

    connect: Annotated[
        tuple[ConnectRule, ...],
        _says("May be connected to, and datagrams sent to; names may be looked up."),
    ] = ()
    bind: Annotated[
        tuple[NetworkRule, ...], _says("Own addresses and ports that may be bound and listened on.")
    ] = ()
    expose: Annotated[
        tuple[NetworkRule, ...], _says("Of what may be bound, what other hosts may reach as well.")
    ] = ()
    deny: Annotated[
        tuple[NetworkRule, ...], _says("Taken away from `connect`, `bind` and `expose`.")
    ] = ()
    ask: Annotated[
        tuple[AskNetworkRule, ...], _says("connect(2) to it is held until a person answers.")
    ] = ()
    unix: Annotated[tuple[UnixRule, ...], _says("Unix sockets that may be connected to.")] = ()
    netlink: Annotated[
        Literal["route-read", "closed"] | None,
        _says("Listing interfaces, addresses and routes: `route-read` or `closed`."),
    ] = None


class ExecRule(Model):
    """A program by path; with `args` or `outside`, only calls whose arguments match.

    `args` are globs, one for each argument behind the program's name; `...` stands for any number
    of arguments. `outside`: only where an argument names a path outside this folder. `sha256`: any
    other file with the same content as well.
    """

    path: Annotated[str, _says("Absolute, or beginning with {workspace} or {home}; globs.")]
    args: Annotated[
        tuple[str, ...] | None, _says("Globs, one for each argument; ... is any number of them.")
    ] = None
    outside: Annotated[
        str | None, _says("Only where an argument names a path outside of this folder.")
    ] = None
    sha256: Annotated[bool, _says("Other files with the same content are meant as well.")] = False
    why: Annotated[str, _says("What the person is told who is asked, or the agent.")] = ""
    position: Origin = None

    @property
    def whatever_arguments(self) -> bool:
        """Whether the rule is about the program as such."""
        return self.args is None and self.outside is None


class ExecSection(Model):
    """Programs taken away from what `files.execute` grants, whatever name they are started by."""

    deny: Annotated[tuple[ExecRule, ...], _says("May not be run, under any name.")] = ()
    ask: Annotated[tuple[ExecRule, ...], _says("The start is held until a person answers.")] = ()


class LabelNetwork(Model):
    """What is left of the network: only these, of what the profile allows."""

    only: Annotated[tuple[NetworkRule, ...], _says("Destinations that stay allowed.")] = ()


class LabelThen(Model):
    """What a label takes away from the moment on that a session has it."""

    network: Annotated[LabelNetwork | None, _says("What is left of the network.")] = None
    exec: Annotated[ExecSection | None, _says("Further rules on program starts.")] = None
    ask: Annotated[
        Literal["everywhere"] | None,
        _says("Each connection and program start is asked about: `everywhere`."),
    ] = None


class LabelSection(Model):
    """What earns a label, and what follows. It never comes off but by a person."""

    files: Annotated[Paths, _says("Opening one of these earns it; globs.")] = ()
    connect: Annotated[tuple[NetworkRule, ...], _says("Connecting or sending there earns it.")] = ()
    exec: Annotated[tuple[ExecRule, ...], _says("Starting one of these earns it.")] = ()
    then: Annotated[LabelThen, _says("What follows.")]


class TimeWindow(Model):
    """On `days`, from `start` to `until`, by the clock of the time zone `zone`."""

    days: Annotated[
        tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...],
        _says("mon, tue, …; left out: every day."),
    ] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    start: Annotated[str, _says("HH:MM, in quotes.")] = "00:00"
    until: Annotated[str, _says("HH:MM, not in it; before `start`: on the next day.")] = "24:00"
    zone: Annotated[str, _says("Time zone: Europe/Berlin, UTC.")] = "UTC"
    position: Origin = None


class ConditionsSection(Model):
    """What must hold while a session runs; looked at all the time.

    `otherwise` is what follows while something does not hold.
    """

    time: Annotated[tuple[TimeWindow, ...], _says("When it may act: in one of these.")] = ()
    purpose: Annotated[
        Literal["required"] | None, _says("No session without --purpose: `required`.")
    ] = None
    load_below: Annotated[
        Annotated[int, Field(ge=1)] | None, _says("The host's load average over a minute.")
    ] = None
    memory_available: Annotated[str | None, _says("Available on the host: 512M.")] = None
    otherwise: Annotated[
        Literal["deny", "freeze", "kill"],
        _says("While something does not hold: `deny`, `freeze` or `kill`."),
    ] = "deny"


class RiskRule(Model):
    """From a risk score of `at` (0 to 100) on, `then` follows."""

    at: Annotated[int, Field(ge=0, le=100), _says("Score from which on it counts.")]
    then: Annotated[Literal["deny", "freeze", "kill"], _says("What follows.")]
    position: Origin = None


class SignalsSection(Model):
    """What signals from outside (`rictl signal`) do to a session."""

    session_revoked: Annotated[
        Literal["deny", "freeze", "kill"], _says("A session or grant was revoked elsewhere.")
    ] = "kill"
    assurance_level_change: Annotated[
        Literal["nothing", "deny", "freeze", "kill"],
        _says("The principal's assurance level went down."),
    ] = "freeze"
    risk_score: Annotated[tuple[RiskRule, ...], _says("By the score that was given.")] = ()


class SyscallsSection(Model):
    """The syscall floor's preset. `standard` is the floor; `strict` refuses more.

    `allow` re-opens a named group (`sysv-ipc`); nothing else of the floor can be re-opened.
    `deny` refuses further system calls by name.
    """

    preset: Annotated[
        Literal["standard", "strict"], _says("`standard` is the floor; `strict` refuses more.")
    ] = "standard"
    allow: Annotated[
        tuple[Literal["sysv-ipc"], ...], _says("Groups of the floor that are opened again.")
    ] = ()
    deny: Annotated[tuple[str, ...], _says("Further system calls to refuse, by name.")] = ()


Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


class LimitsSection(Model):
    """Limits of a session. Durations are `90s`, `30m`, `8h`, `7d`; sizes `512M`, `2G`.

    `on_budget` is what follows when one of the counted ones is used up.
    """

    ttl: Annotated[str | None, _says("How long a session lasts: 90s, 30m, 8h, 7d.")] = None
    processes: Annotated[
        Annotated[int, Field(ge=1, le=4_194_304)] | None,  # PID_MAX_LIMIT of linux/threads.h
        _says("Processes and threads at a time."),
    ] = None
    open_files: Annotated[
        Annotated[int, Field(ge=16, le=1_048_576)] | None,  # fs.nr_open as the kernel sets it
        _says("Open files of one process (RLIMIT_NOFILE)."),
    ] = None
    memory: Annotated[str | None, _says("Memory of all its processes together: 512M, 2G.")] = None
    on_expiry: Annotated[
        Literal["deny", "freeze", "kill"] | None,
        _says("What follows when its time is over: `kill` (default), `freeze` or `deny`."),
    ] = None
    connects_per_minute: Annotated[
        Count | None, _says("Connections and unconnected datagrams within a minute.")
    ] = None
    destinations: Annotated[Count | None, _says("Different addresses, in all.")] = None
    egress_bytes: Annotated[str | None, _says("Bytes sent, in all: 10M, 2G.")] = None
    execs_per_minute: Annotated[Count | None, _says("Program starts within a minute.")] = None
    deletes_per_minute: Annotated[Count | None, _says("Names removed within a minute.")] = None
    on_budget: Annotated[
        Literal["deny", "ask", "freeze"] | None,
        _says("What follows when one of these is used up: `deny` (default), `ask`, `freeze`."),
    ] = None
    asks_per_minute: Annotated[
        Count | None, _says("Asks within a minute; more are refused. Default 30.")
    ] = None
    ask_timeout: Annotated[
        str | None, _says("How long an action is held for an answer. Default 5m.")
    ] = None


class EnvironmentSection(Model):
    """Environment of CMD. `keep` and `scrub` are globs on names; then `set`.

    `scrub` wins, but for a name that `keep` spells out and `scrub` only matches by a pattern.
    """

    keep: Annotated[tuple[str, ...], _says("Names that stay: PATH, LC_*.")] = ()
    scrub: Annotated[
        tuple[str, ...], _says("Names that go; a pattern yields to a full name in `keep`.")
    ] = ()
    set: Annotated[
        dict[str, str], _says("Names that get a value; {workspace} and the like are filled in.")
    ] = Field(default_factory=dict)


class AuditSection(Model):
    """`records`: the first occurrence and counts, or every one.

    `required`: no audit, no running.
    """

    records: Annotated[
        Literal["first", "every"],
        _says("Allowed actions: the `first` of its kind and a count, or `every` one."),
    ] = "first"
    required: Annotated[
        bool, _says("The session is frozen while its records cannot be written.")
    ] = False


class Profile(Model):
    """One profile file.

    `include` composes: the rules of the named profiles are added to this one's. `extends` narrows:
    an action must be allowed by this profile *and* by the one it extends; a section that is absent
    here is taken over from it. `may_lack` names controls a host may be without ("view", "unix"),
    instead of refusing the session.

    `places` says where each key and list item stands (`limits.ttl`, `include[0]`); load.py fills
    it.
    """

    name: Annotated[
        str,
        Field(pattern=NAME_PATTERN),
        _says("As in the file's name: NAME.yaml; lower-case letters, digits, '.', '_' and '-'."),
    ]
    description: Annotated[str, _says("One sentence for people.")] = ""
    extends: Annotated[str | None, _says("The profile that this one narrows.")] = None
    include: Annotated[tuple[str, ...], _says("Profiles whose rules are added to these.")] = ()
    files: FilesSection | None = None
    network: NetworkSection | None = None
    exec: ExecSection | None = None
    syscalls: SyscallsSection | None = None
    limits: LimitsSection | None = None
    environment: EnvironmentSection | None = None
    audit: AuditSection | None = None
    labels: Annotated[
        dict[str, LabelSection], _says("Labels by name, what earns them and what follows.")
    ] = Field(default_factory=dict)
    conditions: ConditionsSection | None = None
    signals: SignalsSection | None = None
    ask_fallback: Annotated[
        Literal["deny", "allow"] | None,
        _says("The answer where nobody can be asked: `deny` (default) or `allow`."),
    ] = None
    run_as: Annotated[
        Literal["user", "root"], _says("`root`: a session that root starts stays root.")
    ] = "user"
    may_lack: Annotated[
        tuple[Literal["view", "unix"], ...],
        _says("Controls this profile does without where need be."),
    ] = ()
    places: Annotated[dict[str, Position], Field(exclude=True)] = Field(default_factory=dict)

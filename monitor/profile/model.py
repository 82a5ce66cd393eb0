# SPDX-License-Identifier: Apache-2.0
"""The profile: what an agent may do, as a person writes it (YAML) and pydantic checks it.

Nothing listed is denied; an empty list denies all; deny beats ask beats allow. Every model refuses
unknown keys. A rule is a string, or a mapping where it needs more than its text; each rule keeps
the place it came from (`origin`), put there by `load.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Model(BaseModel):
    """Base of all: unknown keys are errors, and what was loaded never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=False)


class Position(Model):
    """Where a rule stands: `line` and `column` count from 1."""

    source: str
    line: int
    column: int


class PathRule(Model):
    """A path: absolute or starting with a variable. `DIR/**` means DIR and all beneath it."""

    path: str
    position: Position | None = Field(default=None, exclude=True)


class FilesSection(Model):
    """Which files may be read, written, executed; `deny` and `read_only` take away inside those.

    Allow lists take exact paths and `DIR/**`. `deny` (no access at all) and `read_only` (no
    writing) also take globs, for what exists at launch. `ask` is enforced by a later release.
    """

    read: tuple[PathRule, ...] = ()
    write: tuple[PathRule, ...] = ()
    execute: tuple[PathRule, ...] = ()
    deny: tuple[PathRule, ...] = ()
    read_only: tuple[PathRule, ...] = ()
    ask: tuple[PathRule, ...] = ()


class NetworkRule(Model):
    """`ADDRESS[/PREFIX]:PORTS[/PROTOCOL]`: `10.0.0.0/8:443`, `[::1]:8000-8100/udp`, `any:53/udp`.

    PORTS is `*`, one port, a range or a comma list; PROTOCOL is tcp (default) or udp. A host name
    in place of ADDRESS is enforced by a later release.
    """

    to: str
    position: Position | None = Field(default=None, exclude=True)


class UnixRule(Model):
    """An absolute path of a unix socket, or `@name` for an abstract one."""

    path: str
    position: Position | None = Field(default=None, exclude=True)


class NetworkSection(Model):
    """Where the agent may connect, send, bind and listen. `ask` is enforced by a later release."""

    connect: tuple[NetworkRule, ...] = ()
    bind: tuple[NetworkRule, ...] = ()
    deny: tuple[NetworkRule, ...] = ()
    ask: tuple[NetworkRule, ...] = ()
    unix: tuple[UnixRule, ...] = ()


class ExecRule(Model):
    """A program by path; with `args`, only calls whose arguments match (a later release)."""

    path: str
    args: tuple[str, ...] | None = None
    position: Position | None = Field(default=None, exclude=True)


class ExecSection(Model):
    """Programs taken away from what `files.execute` grants, whatever name they are started by."""

    deny: tuple[ExecRule, ...] = ()
    ask: tuple[ExecRule, ...] = ()


class SyscallsSection(Model):
    """The syscall floor's preset. `standard` is the floor; `strict` refuses more.

    `allow` re-opens a named group (`sysv-ipc`); nothing else of the floor can be re-opened.
    `deny` refuses further system calls by name.
    """

    preset: Literal["standard", "strict"] = "standard"
    allow: tuple[Literal["sysv-ipc"], ...] = ()
    deny: tuple[str, ...] = ()


class LimitsSection(Model):
    """Limits of a session. Durations are `90s`, `30m`, `8h`, `7d`; sizes `512M`, `2G`.

    `connects_per_minute`, `execs_per_minute`, `egress_bytes` and `deletes_per_minute` are enforced
    by a later release.
    """

    ttl: str | None = None
    processes: Annotated[int, Field(ge=1)] | None = None
    open_files: Annotated[int, Field(ge=16)] | None = None
    memory: str | None = None
    connects_per_minute: int | None = None
    execs_per_minute: int | None = None
    deletes_per_minute: int | None = None
    egress_bytes: str | None = None


class EnvironmentSection(Model):
    """Environment of CMD. `keep` and `scrub` are globs on names; `scrub` wins; then `set`."""

    keep: tuple[str, ...] = ()
    scrub: tuple[str, ...] = ()
    set: dict[str, str] = Field(default_factory=dict)


class AuditSection(Model):
    """`records`: the first occurrence and counts, or every one. `required`: no audit, no running."""

    records: Literal["first", "every"] = "first"
    required: bool = False


class Profile(Model):
    """One profile file.

    `include` composes: the rules of the named profiles are added to this one's. `extends` narrows:
    an action must be allowed by this profile *and* by the one it extends; a section that is absent
    here is taken over from it. `may_lack` names controls a host may be without ("view"), instead
    of refusing the session.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    description: str = ""
    extends: str | None = None
    include: tuple[str, ...] = ()
    files: FilesSection | None = None
    network: NetworkSection | None = None
    exec: ExecSection | None = None
    syscalls: SyscallsSection | None = None
    limits: LimitsSection | None = None
    environment: EnvironmentSection | None = None
    audit: AuditSection | None = None
    run_as: Literal["user", "root"] = "user"
    may_lack: tuple[Literal["view"], ...] = ()

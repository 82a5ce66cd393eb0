# SPDX-License-Identifier: Apache-2.0
"""Who may start sessions and make grants: the rights that `/etc/ri/delegations.yaml` gives.

Users and groups have them. Nothing listed is refused. One entry has to grant a request as a whole:
two that grant one half each grant nothing. pydantic and ruamel.yaml are imported where a file is
read, not before.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from monitor.identity import grant_rights
from monitor.identity.grant_rights import GrantRequest, GrantRight

LARGEST_FILE = 1 << 20

_WHO = r"^(user|group):[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,254}\$?$"
_NAME = r"^[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,254}\$?$"
_PLAIN_PROFILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# The same words as in a profile; this room imports no other.
_DURATION = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class DelegationsError(ValueError):
    """The file cannot be used; one line for each problem, with its place."""


class NotAuthorized(PermissionError):  # noqa: N818 - a refusal, as its user words it
    """The request is refused; the message is one line that names the missing right."""


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks for.

    `user`, `uid`, `groups` are the caller's, as the kernel and the user database give them.
    `profile` is a name (None: not said); `profile_file`: the caller brings the profile as a file.
    `agent` is a name without trust domain; `ttl` in seconds (None: not said); `run_as` is the name
    of the user whom CMD is to run as; `depth` how many sub-agents may follow one upon the other
    (None: not said).
    """

    user: str
    uid: int
    groups: tuple[str, ...]
    profile: str | None
    profile_file: bool
    agent: str
    observe: bool
    ttl: int | None
    run_as: str
    depth: int | None = None


@dataclass(frozen=True, slots=True)
class Permission:
    """What is granted: the profile's name, the seconds a session may last (None: no bound), and
    how many sub-agents may follow one upon the other.
    """

    profile: str
    ttl: int | None
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One right. `profiles` and `agents` are globs in which `*` also matches `/`.

    `delegate` None: no grants may be made by it.
    """

    who: str
    profiles: tuple[str, ...]
    agents: tuple[str, ...]
    observe: bool
    profile_files: bool
    max_ttl: int | None
    run_as: tuple[str, ...]
    delegate: GrantRight | None = None
    depth: int = 0

    def names(self, request: Request | GrantRequest) -> bool:
        kind, _, name = self.who.partition(":")
        return name == request.user if kind == "user" else name in request.groups

    def default_profile(self) -> str | None:
        return next((name for name in self.profiles if _PLAIN_PROFILE.fullmatch(name)), None)


@dataclass(frozen=True, slots=True)
class Delegations:
    """All rights of one file."""

    source: str
    entries: tuple[Entry, ...] = ()

    def authorize(self, request: Request) -> Permission:
        """What of the rights grants `request`; NotAuthorized says which right is missing."""
        if request.uid == 0:
            return Permission(_named(request.profile), request.ttl, request.depth or 0)
        granted: list[Permission] = []
        refused: list[tuple[int, str]] = []
        for entry in self.entries:
            if entry.names(request):
                outcome = _judge(entry, request)
                if isinstance(outcome, Permission):
                    granted.append(outcome)
                else:
                    refused.append(outcome)
        if granted:
            # The entry that grants the longest; of equals the deepest, and the first of those.
            return max(granted, key=lambda each: (each.ttl or float("inf"), each.depth))
        if not refused:
            raise NotAuthorized(f"user {request.user} has no right in {self.source}")
        # Of several entries, the one that came nearest to granting says what is missing.
        _, missing = max(refused, key=lambda refusal: refusal[0])
        raise NotAuthorized(f"user {request.user} {missing} ({self.source})")

    def authorize_grant(self, request: GrantRequest) -> int:
        """The seconds that such a grant may hold; NotAuthorized says which right is missing."""
        if request.uid == 0:
            return request.ttl or grant_rights.DEFAULT_TTL
        outcomes = [
            grant_rights.judge(each.delegate, each.profiles, each.agents, each.run_as, request)
            for each in self.entries
            if each.names(request)
        ]
        granted = [outcome for outcome in outcomes if isinstance(outcome, int)]
        if granted:
            return max(granted)
        refused = [outcome for outcome in outcomes if not isinstance(outcome, int)]
        if not refused:
            raise NotAuthorized(f"user {request.user} has no right in {self.source}")
        _, missing = max(refused, key=lambda refusal: refusal[0])
        raise NotAuthorized(f"user {request.user} {missing} ({self.source})")


def _named(profile: str | None) -> str:
    if profile is None:
        raise NotAuthorized("no right names one profile to take: say --profile")
    return profile


def _judge(entry: Entry, request: Request) -> Permission | tuple[int, str]:
    """A permission, or how many of the checks passed and the right that is missing."""
    profile = request.profile
    if profile is None and not request.profile_file:
        profile = entry.default_profile()
    checks = (
        (
            profile is not None or request.profile_file,
            "has no profile that is taken by default: say --profile",
        ),
        (
            entry.profile_files
            if request.profile_file
            else any(fnmatchcase(profile or "", glob) for glob in entry.profiles),
            "may not bring a profile as a file: profile_files is missing"
            if request.profile_file
            else f"may not use the profile {profile}: it is missing in profiles",
        ),
        (
            any(fnmatchcase(request.agent, glob) for glob in entry.agents),
            f"may not run the agent {request.agent}: it is missing in agents",
        ),
        (
            request.run_as == request.user or request.run_as in entry.run_as,
            f"may not run as {request.run_as}: that user is missing in run_as",
        ),
        (
            entry.observe or not request.observe,
            "may not run without enforcement: observe is missing",
        ),
        (
            entry.max_ttl is None or request.ttl is None or request.ttl <= entry.max_ttl,
            f"may not have a session of {request.ttl} s: max_ttl is {entry.max_ttl} s",
        ),
        (
            (request.depth or 0) <= entry.depth,
            f"may not have sub-agents {request.depth} deep: depth is {entry.depth}",
        ),
    )
    for passed, (holds, missing) in enumerate(checks):
        if not holds:
            return passed, missing
    return Permission(
        profile or "",
        entry.max_ttl if request.ttl is None else request.ttl,
        entry.depth if request.depth is None else request.depth,
    )


def load(path: Path) -> Delegations:
    """Read the rights at `path`; where there is no such file, nobody has any.

    DelegationsError where it is malformed, or where others than its owner could have written it.
    """
    try:
        text = _read(path)
    except FileNotFoundError:
        return Delegations(str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DelegationsError(f"cannot read {path}: {error}") from error
    return parse(text, str(path))


def _read(path: Path) -> str:
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise DelegationsError(f"{path} is not a regular file")
        others = facts.st_mode & stat.S_IWOTH or (facts.st_mode & stat.S_IWGRP and facts.st_gid)
        if others or facts.st_uid not in {0, os.geteuid()}:
            raise DelegationsError(
                f"{path} can be written by others than root: it would give rights to anybody"
            )
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise DelegationsError(f"{path} is larger than {LARGEST_FILE} bytes")
    return data.decode()


def parse(text: str, source: str) -> Delegations:
    """The rights that `text` gives; `source` is its name in messages. DelegationsError."""
    from pydantic import (
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        ValidationError,
        field_validator,
    )
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError

    def duration(value: object) -> int:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ValueError("a duration is a number from 1 with s, m, h or d behind it")
        return int(match[1]) * _SECONDS[match[2]]

    class DelegateFile(BaseModel):
        model_config = ConfigDict(extra="forbid")
        max_ttl: Annotated[int, BeforeValidator(duration)] = grant_rights.DEFAULT_TTL
        max_depth: int = Field(default=0, ge=0, le=grant_rights.LARGEST_DEPTH, strict=True)

    class EntryFile(BaseModel):
        model_config = ConfigDict(extra="forbid")
        who: str = Field(pattern=_WHO)
        profiles: list[str]
        agents: list[str]
        observe: bool = Field(default=False, strict=True)
        profile_files: bool = Field(default=False, strict=True)
        max_ttl: Annotated[int, BeforeValidator(duration)] | None = None
        run_as: list[str] = []
        delegate: DelegateFile | None = None
        depth: int = Field(default=0, ge=0, le=grant_rights.LARGEST_DEPTH, strict=True)

        @field_validator("run_as")
        @classmethod
        def _users(cls, value: list[str]) -> list[str]:
            for name in value:
                if not re.match(_NAME, name):
                    raise ValueError(f"{name!r} is not the name of a user")
            return value

    class DelegationsFile(BaseModel):
        model_config = ConfigDict(extra="forbid")
        delegations: list[EntryFile]

    try:
        document = YAML().load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DelegationsError(f"{source}:{line}: {error.problem or 'not YAML'}") from error
    except Exception as error:
        # A file that is broken enough breaks ruamel.yaml itself: it is refused all the same.
        raise DelegationsError(f"{source}: {' '.join(str(error).split())}") from error
    if document is None:
        return Delegations(source)
    try:
        parsed = DelegationsFile.model_validate(document)
    except ValidationError as error:
        lines = [
            f"{source}:{_line(document, problem['loc'])}: {_key(problem['loc'])}{_message(problem)}"
            for problem in error.errors()
        ]
        raise DelegationsError("\n".join(lines)) from error
    return Delegations(source, tuple(_entry(entry) for entry in parsed.delegations))


def _entry(parsed: Any) -> Entry:
    return Entry(
        who=parsed.who,
        profiles=tuple(parsed.profiles),
        agents=tuple(parsed.agents),
        observe=parsed.observe,
        profile_files=parsed.profile_files,
        max_ttl=parsed.max_ttl,
        run_as=tuple(parsed.run_as),
        delegate=None if parsed.delegate is None else GrantRight(**parsed.delegate.model_dump()),
        depth=parsed.depth,
    )


_MESSAGES = {
    "extra_forbidden": "unknown key",
    "missing": "is missing",
    "list_type": "must be a list",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "string_pattern_mismatch": "must be user:NAME or group:NAME",
    "model_type": "must be a mapping of keys to values",
}


def _message(problem: Any) -> str:
    own = str(problem["msg"]).removeprefix("Value error, ")
    return _MESSAGES.get(problem["type"], own)


def _key(location: tuple[Any, ...]) -> str:
    """`delegations[0].who: `, or nothing where the file as a whole is meant."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return f"{text[1:]}: " if text else ""


def _line(document: Any, location: tuple[Any, ...]) -> int:
    """The line of the deepest part of `location` that stands in the file."""
    line = 1
    for key in location:
        try:
            place = document.lc.item(key) if isinstance(key, int) else document.lc.key(key)
            line = place[0] + 1
            document = document[key]
        except (AttributeError, KeyError, IndexError, TypeError):
            break
    return line

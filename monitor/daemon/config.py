# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: read once at start by the command, handed to each worker as JSON.

So a restarted worker needs neither YAML nor pydantic to be ready, and a file edited in between
cannot change what a running daemon does. Imports of both stay inside `load`.
"""

from __future__ import annotations

import json
import os
import pwd
import re
from dataclasses import asdict, dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

DEFAULT_FILE = Path("/etc/ri/config.yaml")
# The profiles that come with the software; those under /etc/ri are looked at first.
SHIPPED_PROFILES = Path(__file__).resolve().parents[2] / "profiles"
INSTANCE_PATTERN = r"^[a-z][a-z0-9-]{0,31}$"
TRUST_DOMAIN_PATTERN = r"^[a-z0-9][a-z0-9.-]{0,254}$"
HOST_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$"
API_SOCKET = "ri.sock"
LAUNCH_SOCKET = "launch.sock"
APPROVER_SECONDS = 60.0
MOST_APPROVERS = 16
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class ConfigError(ValueError):
    """The configuration cannot be used; the message is one line per problem, with its place."""


def _host_name() -> str:
    """What the host calls itself; one that a grant cannot say must not keep the daemon down."""
    name = os.uname().nodename
    return name if re.fullmatch(HOST_PATTERN, name) else "localhost"


@dataclass(frozen=True, slots=True)
class Limits:
    """`sessions` at a time on this host, `per_user` of one user, `per_session` directly inside
    one; `launch_seconds` for a launch.
    """

    sessions: int = 256
    per_user: int = 64
    per_session: int = 16
    launch_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Resolver:
    """Where names of sessions are looked up: `upstream` servers (none: the host's).

    `unlisted` is what a name that may not be looked up is answered with: nxdomain or refused. `own`
    are networks whose addresses a name has only where a rule says `private`.
    """

    upstream: tuple[str, ...] = ()
    unlisted: str = "nxdomain"
    own: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Approver:
    """Who is asked for each ask: `run` is a program with its arguments, or `post` a webhook's URL.

    `timeout` in seconds. `user`: whom the program runs as; "": the daemon's. `secret_file` holds
    what the webhook's requests are signed with.
    """

    timeout: float
    run: tuple[str, ...] = ()
    user: str = ""
    post: str = ""
    secret_file: Path | None = None

    @property
    def name(self) -> str:
        """How records call it; of a URL, what cannot be a secret."""
        if self.run:
            return f"approver {self.run[0]}"
        found = urlsplit(self.post)
        return f"approver {found.scheme}://{found.netloc}"


@dataclass(frozen=True, slots=True)
class Config:
    """`socket` is the API's path; the launch socket stands beside it, as does the lock.

    `host` and `host_groups` are what grants call this host.
    """

    instance: str = "ri"
    socket: Path = Path("/run/ri/ri.sock")
    state: Path = Path("/var/lib/ri")
    trust_domain: str = "localhost"
    profiles: tuple[Path, ...] = (Path("/etc/ri/profiles"), SHIPPED_PROFILES)
    delegations: Path = Path("/etc/ri/delegations.yaml")
    admin_group: str = "ri-admin"
    host: str = field(default_factory=_host_name)
    host_groups: tuple[str, ...] = ()
    keys: Path = Path("/etc/ri/keys")
    limits: Limits = field(default_factory=Limits)
    approvers: tuple[Approver, ...] = ()
    resolver: Resolver = field(default_factory=Resolver)

    @property
    def runtime(self) -> Path:
        return self.socket.parent

    @property
    def launch_socket(self) -> Path:
        return self.runtime / LAUNCH_SOCKET

    @property
    def alive(self) -> Path:
        """Its mtime is the last moment at which a worker was reading records."""
        return self.runtime / "alive"

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The reverse of `to_json`; trusts what it reads."""
        data: dict[str, Any] = json.loads(text)
        return cls(
            instance=data["instance"],
            socket=Path(data["socket"]),
            state=Path(data["state"]),
            trust_domain=data["trust_domain"],
            profiles=tuple(Path(path) for path in data["profiles"]),
            delegations=Path(data["delegations"]),
            admin_group=data["admin_group"],
            host=data["host"],
            host_groups=tuple(data["host_groups"]),
            keys=Path(data["keys"]),
            limits=Limits(**data["limits"]),
            approvers=tuple(map(_approver, data["approvers"])),
            resolver=_resolver(data["resolver"]),
        )


def load(path: Path) -> Config:
    """Read and check a configuration file. ConfigError names file, line and key."""
    from pydantic import BaseModel, ConfigDict, Field, ValidationError
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    class LimitsFile(BaseModel):
        model_config = ConfigDict(extra="forbid")
        sessions: int = Field(default=Limits().sessions, ge=1, le=65536)
        per_user: int = Field(default=Limits().per_user, ge=1, le=65536)
        per_session: int = Field(default=Limits().per_session, ge=1, le=65536)
        launch_seconds: float = Field(default=Limits().launch_seconds, gt=0, le=300)

    class ApproverFile(BaseModel):
        model_config = ConfigDict(extra="forbid")
        timeout: float = Field(default=APPROVER_SECONDS, gt=0, le=86400)
        run: list[Annotated[str, Field(min_length=1)]] = []
        user: str = ""
        post: str = ""
        secret_file: Path | None = None

    class ResolverFile(BaseModel):
        model_config = ConfigDict(extra="forbid")
        upstream: list[str] = Field(default=[], max_length=8)
        unlisted: Literal["nxdomain", "refused"] = "nxdomain"
        own: list[str] = []

    class ConfigFile(BaseModel):
        model_config = ConfigDict(extra="forbid")
        instance: str = Field(default=Config().instance, pattern=INSTANCE_PATTERN)
        socket: Path | None = None
        state: Path | None = None
        trust_domain: str = Field(default=Config().trust_domain, pattern=TRUST_DOMAIN_PATTERN)
        profiles: list[Path] = Field(default=list(Config().profiles), min_length=1)
        delegations: Path = Config().delegations
        admin_group: str = Field(default=Config().admin_group, min_length=1)
        host: str = Field(default=Config().host, pattern=HOST_PATTERN)
        host_groups: list[Annotated[str, Field(pattern=HOST_PATTERN)]] = []
        keys: Path = Config().keys
        limits: LimitsFile = LimitsFile()
        approvers: list[ApproverFile] = Field(default=[], max_length=MOST_APPROVERS)
        resolver: ResolverFile = ResolverFile()

    try:
        document = YAML().load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if document is None:
        document = CommentedMap()
    if not isinstance(document, CommentedMap):
        raise ConfigError(f"{path}:1: the configuration is a mapping of keys to values")
    try:
        parsed = ConfigFile.model_validate(dict(document))
    except ValidationError as error:
        lines = [
            f"{path}:{_line(document, problem['loc'])}:"
            f" {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from error
    config = Config(
        instance=parsed.instance,
        socket=parsed.socket or Path("/run") / parsed.instance / API_SOCKET,
        state=parsed.state or Path("/var/lib") / parsed.instance,
        trust_domain=parsed.trust_domain,
        profiles=tuple(parsed.profiles),
        delegations=parsed.delegations,
        admin_group=parsed.admin_group,
        host=parsed.host,
        host_groups=tuple(parsed.host_groups),
        keys=parsed.keys,
        limits=Limits(**parsed.limits.model_dump()),
        approvers=tuple(_approver(each.model_dump()) for each in parsed.approvers),
        resolver=_resolver(parsed.resolver.model_dump()),
    )
    check_paths(config)
    problem = _resolver_problem(config.resolver)
    if problem:
        raise ConfigError(f"{path}:{_line(document, ('resolver',))}: resolver: {problem}")
    for number, approver in enumerate(config.approvers):
        problem = approver_problem(approver)
        if problem:
            line = _line(document, ("approvers", number))
            raise ConfigError(f"{path}:{line}: approvers.{number}: {problem}")
    return config


def check_paths(config: Config) -> None:
    """ConfigError where a path is not absolute: the daemon's working directory is `/`."""
    for path in (config.socket, config.state, config.delegations, config.keys, *config.profiles):
        if not path.is_absolute():
            raise ConfigError(f"{path} must be an absolute path")


def _resolver(data: dict[str, Any]) -> Resolver:
    return Resolver(tuple(data["upstream"]), data["unlisted"], tuple(data["own"]))


def _resolver_problem(resolver: Resolver) -> str:
    """Why it cannot be as configured; "" where it can."""
    from monitor.daemon.resolver.upstreams import parse_upstream

    try:
        for text in resolver.upstream:
            parse_upstream(text)
        for text in resolver.own:
            ip_network(text)
    except ValueError as error:
        return str(error)
    return ""


def _approver(data: dict[str, Any]) -> Approver:
    secret = data["secret_file"]
    return Approver(**data | {"run": tuple(data["run"]), "secret_file": secret and Path(secret)})


def approver_problem(approver: Approver) -> str:
    """Why an approver cannot be used; "" where it can."""
    if bool(approver.run) == bool(approver.post):
        return "either run or post is given"
    if approver.run:
        if not Path(approver.run[0]).is_absolute():
            return f"{approver.run[0]} must be an absolute path"
        if approver.secret_file is not None:
            return "secret_file is for post only"
        return _user_problem(approver.user)
    if approver.user:
        return "user is for run only"
    if approver.secret_file is None or not approver.secret_file.is_absolute():
        return "post needs secret_file, an absolute path"
    try:
        found = urlsplit(approver.post)
        host, _port = found.hostname, found.port
    except ValueError as error:
        return f"{approver.post!r} is no URL: {error}"
    if not host or found.username is not None:
        return f"{approver.post!r} is no URL of a webhook"
    # Its answer is believed: over plain HTTP anybody on the way could give it.
    if found.scheme != "https" and (found.scheme, host in LOOPBACK) != ("http", True):
        return "post is an https URL (http only on this host: 127.0.0.1, ::1, localhost)"
    return ""


def _user_problem(name: str) -> str:
    try:
        if name:
            pwd.getpwnam(name)
    except KeyError:
        return f"no user {name!r} on this host"
    return ""


def _line(document: Any, location: tuple[Any, ...]) -> int:
    """The line of the deepest key of `location` that stands in the file."""
    line = 1
    for key in location:
        try:
            places = document.lc
            line = (places.item if isinstance(key, int) else places.value)(key)[0] + 1
            document = document[key]
        except (AttributeError, LookupError, TypeError):
            break
    return line

# SPDX-License-Identifier: Apache-2.0
"""The facts of one run of the demo: where everything is, and the secrets that must not get out."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path


def _token(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class Secrets:
    """Random text made for one run. Where one of them turns up outside, an attack has worked."""

    ssh_key: str = field(default_factory=lambda: _token("key"))
    dotenv: str = field(default_factory=lambda: _token("dotenv"))
    neighbour: str = field(default_factory=lambda: _token("neighbour"))
    document: str = field(default_factory=lambda: _token("document"))
    planted: str = field(default_factory=lambda: _token("planted"))
    docker: str = field(default_factory=lambda: _token("docker"))


@dataclass(frozen=True, slots=True)
class Network:
    """The host outside the profile: a network namespace behind a veth pair.

    Addresses are from the documentation ranges (RFC 5737, RFC 3849), so that none is anyone's.
    """

    host_ipv4: str = "203.0.113.65"
    host_ipv6: str = "2001:db8:7269::1"
    outside_ipv4: str = "203.0.113.66"
    outside_ipv6: str = "2001:db8:7269::2"
    prefix_ipv4: int = 30
    prefix_ipv6: int = 64
    port: int = 443
    listen_port: int = 4444


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything the script of replies and the checks from outside need to know."""

    home: Path
    workspace: Path
    docker_socket: Path
    secrets: Secrets = field(default_factory=Secrets)
    network: Network = field(default_factory=Network)

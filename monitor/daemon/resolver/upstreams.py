# SPDX-License-Identifier: Apache-2.0
"""Which servers answer for this host: those configured, or those of resolv.conf."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from monitor.resolver.names import canonical

DNS_PORT = 53
MOST_SERVERS = 8
MOST_SEARCHED = 32


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that is asked. `address` may have a zone: `fe80::1%eth0`."""

    address: str
    port: int = DNS_PORT

    def __str__(self) -> str:
        return (
            f"[{self.address}]:{self.port}"
            if ":" in self.address
            else f"{self.address}:{self.port}"
        )

    @property
    def target(self) -> tuple[str, int]:
        return self.address, self.port


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """What resolv.conf(5) says that matters here: servers, and what is put behind short names."""

    upstreams: tuple[Upstream, ...]
    search: tuple[str, ...]


def parse_upstream(text: str) -> Upstream:
    """`ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`; ValueError says what is wrong."""
    address, port = text, str(DNS_PORT)
    if text.startswith("["):
        address, closed, rest = text[1:].partition("]")
        if not closed or rest and not rest.startswith(":"):
            raise ValueError(f"{text!a} is not [ADDRESS]:PORT")
        port = rest[1:] if rest else port
    elif text.count(":") == 1:
        address, _colon, port = text.partition(":")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{text!a} names no server: {address!a} is not an address") from None
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!a} names no server: {port!a} is not a port")
    return Upstream(address, int(port))


def read_resolv_conf(path: Path = Path("/etc/resolv.conf")) -> ResolvConf:
    """The servers and search domains of `path`; where it is absent, the host's own port 53.

    Lines that say something else, or nothing that can be read, are passed over, as resolvers do.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    upstreams: list[Upstream] = []
    search: tuple[str, ...] = ()
    for words in (line.split() for line in lines):
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            upstreams += _server(words[1])
        elif words[0] in {"search", "domain"}:
            search = _domains(words[1:])  # the last line counts
    return ResolvConf(tuple(upstreams[:MOST_SERVERS]) or (Upstream("127.0.0.1"),), search)


def _server(text: str) -> list[Upstream]:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return []
    return [Upstream(text)]


def _domains(words: Iterable[str]) -> tuple[str, ...]:
    found = []
    for word in words:
        try:
            found.append(canonical(word))
        except ValueError:
            continue
    return tuple(found[:MOST_SEARCHED])

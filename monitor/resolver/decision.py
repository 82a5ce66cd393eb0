# SPDX-License-Identifier: Apache-2.0
"""May this session look this name up? Every link of its chain must list the name. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from monitor.resolver.addresses import Address
from monitor.resolver.names import Depth, NameRule
from monitor.resolver.ports import PROTOCOLS, Range, common, merge

# Types of records (IANA, DNS parameters) that are answered.
A, CNAME, SOA, AAAA, SRV, HTTPS = 1, 5, 6, 28, 33, 65
TYPES = {A: "A", AAAA: "AAAA", SRV: "SRV", HTTPS: "HTTPS"}


class Cause(Enum):
    """Why a question is not answered, or an answer not given."""

    UNLISTED = "unlisted"  # a link has no rule for the name
    SEARCH = "search domain"  # the same, for a listed name with the host's search domain behind it
    PORTS = "no port"  # the links' rules for the name have no port in common
    MALFORMED = "malformed name"
    TYPE = "type"  # not one of TYPES
    RATE = "rate"
    VOLUME = "label bytes"  # too much was said in the names that wildcards stand for
    WAITING = "waiting"  # too many questions of this session wait for upstream already
    PRIVATE = "private address"  # a public name answered with an address that is not public
    UPSTREAM = "upstream"  # no answer, or none that could be used
    TABLES = "tables"  # the addresses could not be allowed


@dataclass(frozen=True, slots=True)
class Permission:
    """A name that every link lists; `links` are each one's rules for it."""

    name: str
    links: tuple[tuple[NameRule, ...], ...]

    @property
    def free(self) -> int:
        """Bytes of the name that the asking program could choose: what the strictest link says."""
        return max(0, min(min(rule.free(self.name) for rule in rules) for rules in self.links))

    def ports(self) -> dict[int, tuple[Range, ...]]:
        """What all links allow there: ranges by protocol."""
        allowed: dict[int, tuple[Range, ...]] = {}
        for protocol in PROTOCOLS.values():
            each = [
                merge(part for rule in rules if rule.protocol == protocol for part in rule.ports)
                for rules in self.links
            ]
            both = each[0]
            for other in each[1:]:
                both = common(both, other)
            if both:
                allowed[protocol] = both
        return allowed

    def for_private(self) -> Permission | None:
        """What is left of it for addresses that are not public; None: nothing."""
        links = tuple(tuple(rule for rule in rules if rule.private) for rules in self.links)
        if not all(links):
            return None
        left = Permission(self.name, links)
        return left if left.ports() else None


@dataclass(frozen=True, slots=True)
class Admission:
    """One address that a session may connect to under a name, for `ttl` seconds from now.

    `permission.links` are each link's rules for it, `permission.ports()` what they have in common.
    """

    name: str
    address: Address
    ttl: int
    permission: Permission


class NameTable:
    """The rules of one link, found by the name without going through all of them."""

    def __init__(self, rules: Iterable[NameRule]) -> None:
        self._any: list[NameRule] = []
        self._by_name: dict[str, list[NameRule]] = {}
        self._wild: dict[str, list[NameRule]] = {}
        for rule in rules:
            if rule.depth is Depth.ANY:
                self._any.append(rule)
            elif rule.depth is Depth.EXACT:
                self._by_name.setdefault(rule.name, []).append(rule)
            else:
                self._wild.setdefault(rule.name, []).append(rule)

    def match(self, name: str) -> tuple[NameRule, ...]:
        """Every rule that means `name`."""
        found = list(self._by_name.get(name, ()))
        candidates = list(self._any)
        if self._wild:
            _label, dot, suffix = name.partition(".")
            while dot:
                candidates += self._wild.get(suffix, ())
                _label, dot, suffix = suffix.partition(".")
        found += (rule for rule in candidates if rule.matches(name))
        return tuple(found)


def match(name: str, rules: Iterable[NameRule]) -> tuple[NameRule, ...]:
    """Every one of `rules` that means the canonical `name`: what NameTable must agree with."""
    return tuple(rule for rule in rules if rule.matches(name))


def judge(
    name: str | None, kind: int, tables: Sequence[NameTable], search: Sequence[str] = ()
) -> Permission | Cause:
    """What a session whose links have `tables` may be told of `name`; None: not a host name.

    `search` are the host's search domains. A session without links may look nothing up.
    """
    if name is None:
        return Cause.MALFORMED
    if not tables:
        return Cause.UNLISTED
    permission = _permission(name, tables)
    if permission is None:
        return Cause.SEARCH if _searched(name, tables, search) else Cause.UNLISTED
    if not permission.ports():
        return Cause.PORTS
    return permission if kind in TYPES else Cause.TYPE


def _permission(name: str, tables: Sequence[NameTable]) -> Permission | None:
    links = tuple(table.match(name) for table in tables)
    return Permission(name, links) if all(links) else None


def _searched(name: str, tables: Sequence[NameTable], search: Sequence[str]) -> bool:
    """Whether a resolver only tries what resolv.conf tells it to put behind a listed name."""
    return any(
        name.endswith(f".{domain}") and _permission(name[: -len(domain) - 1], tables) is not None
        for domain in search
    )

# SPDX-License-Identifier: Apache-2.0
"""Packet rules of sessions put in force, changed and taken away.

All of it lies in one table of the instance's; tables of others are never named. What is in force
stays when the daemon dies. Every change is one transaction, or several of which only one is seen by
packets. Not for several threads at once.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.daemon.packets import base
from monitor.daemon.packets.chains import (
    COUNTERS,
    DIRECTIONS,
    FAMILIES,
    VERSIONS,
    Chains,
    Item,
    counter_name,
    fixed_name,
    named_name,
    owner,
    span_name,
)
from monitor.kernel.cgroup import instance_root
from monitor.kernel.nft import NAMES, Nft, cgroup_level, cgroup_name
from monitor.policy.action import IPAddress
from monitor.policy.packets import PacketRules, Span

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
# How some names of libnftables are numbers here.
PROTOCOLS = {"tcp": 6, "udp": 17}
# In one command; more would need a larger netlink message than every kernel takes.
BATCH = 2000


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """Which session: its id, and its cgroup, which must exist when its rules are put in force."""

    id: str
    cgroup: Path


@dataclass(frozen=True, slots=True)
class Element:
    """An address that a session may reach at ports `low`..`high`, for `seconds`; None: always.

    More than one port only as a union of the spans that its rules were made with.
    """

    address: IPAddress
    protocol: int
    low: int
    high: int
    seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Count:
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the session's rules were put in force: what was sent, and what was refused.

    `refused` wanted out, `turned` wanted in. `sent` is what its own chain let pass, so that
    with nested sessions it holds theirs as well. `rules`: sent by each interval of the rules in
    force, as (first address, last address, protocol, low port, high port).
    """

    sent: Count
    refused: Count
    turned: Count
    rules: Mapping[tuple[str, str, int, int, int], Count]


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where a session's chains hang: its version, the cgroup as the maps list it, its level."""

    version: str
    key: Any
    level: int


class Packets:
    """The instance's table. OSError of the kernel's from every function."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._table = base.table_name(instance)
        self._nft = Nft()
        self._level = 0
        self._placed: dict[str, _Placed] = {}
        self._spans: dict[str, tuple[Span, ...]] = {}

    def prepare(self) -> list[str]:
        """Make the table or take the one that is there over; the sessions that have rules in it.

        One that another version of the daemon left, and that does not fit, is replaced: then no
        session has rules, and each is refused everything until `install`.
        """
        root = instance_root(self._instance)
        self._level = cgroup_level(root)
        script = base.script(self._table, cgroup_name(root), self._level)
        try:
            self._nft.run(script)
            self._read()
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EINVAL, errno.EBUSY, errno.EOPNOTSUPP):
                raise
            old = f"add table inet {self._table}\ndelete table inet {self._table}\n"
            self._nft.run(old + script)
            self._read()
        return sorted(self._placed)

    def install(self, session: SessionFacts, rules: PacketRules) -> None:
        """Put a session's rules in force. Before its first process; FileExistsError: it has some.

        With a session that is nested in another, that one must have its rules already.
        """
        name = _checked(session.id)
        if name in self._placed:
            raise FileExistsError(errno.EEXIST, f"session {name} has network rules already")
        chains = Chains(self._table, name)
        self._nft.run(chains.lasting(rules))
        self._nft.apply(chains.version("a", rules))
        self._enter(chains, session, "a", rules)

    def replace(self, session: SessionFacts, rules: PacketRules) -> None:
        """Go over to other rules: a packet meets all of the old or all of the new.

        What was added at run time stays. Installs where there are none.
        """
        name = _checked(session.id)
        old = self._placed.get(name)
        if old is None:
            self.install(session, rules)
            return
        new = VERSIONS[1 - VERSIONS.index(old.version)]
        chains = Chains(self._table, name)
        self._nft.run(chains.lasting(rules))
        self._nft.apply(chains.version(new, rules))
        outermost = self._outermost(old.level)
        leaving = chains.leave(old.key, old.level, old.version, outermost=outermost)
        self._enter(chains, session, new, rules, leaving)
        self._nft.apply(chains.without_version(old.version))

    def remove(self, session: str) -> None:
        """Take a session's rules away; nothing where it has none.

        From then on its cgroup is refused everything, so this comes after its last process, and
        `cgroup` may still be there or not. Those nested in it come first.
        """
        if session in self._placed:
            self._remove([session])

    def add_elements(self, session: str, elements: Iterable[Element]) -> None:
        """Let a session reach more; for one that is there, its time begins anew.

        ValueError: several ports that are no union of the session's spans. ENOSPC: there are
        65,536 already.
        """
        self._change(session, elements, adding=True)

    def remove_elements(self, session: str, elements: Iterable[Element]) -> None:
        """Take back what was added; what is gone already is passed over."""
        self._change(session, elements, adding=False)

    def counters(self, session: str) -> Counters:
        """What a session's rules have counted. OSError (ENOENT) where it has none."""
        placed = self._placed_of(session)
        counts = [
            self._nft.read(self._list("counter", counter_name(kind, session)))[0]["counter"]
            for kind in COUNTERS
        ]
        rules: dict[tuple[str, str, int, int, int], Count] = {}
        for family in FAMILIES:
            for each in self._elements(fixed_name("send", family, session, placed.version)):
                counted = each["elem"]["counter"]
                rules[_interval(each["elem"]["val"])] = _count(counted)
        sent, refused, turned = (_count(each) for each in counts)
        return Counters(sent, refused, turned, rules)

    def leftovers(self, live: Collection[str]) -> list[str]:
        """Remove the rules of sessions that are not `live`; which those were."""
        self._read()
        gone = sorted(set(self._placed) - set(live))
        if gone:
            self._remove(gone)
        self._sweep()
        return gone

    def missing(self, live: Iterable[str]) -> list[str]:
        """Those of `live` without rules in force, as after another tool flushed the ruleset.

        They are refused everything while the table stands, and nothing where it does not: then
        `prepare` and `install` come next.
        """
        try:
            self._read()
        except FileNotFoundError:
            self._placed.clear()
        return sorted(set(live) - set(self._placed))

    def drop(self) -> None:
        """Take the whole table away, when the instance's sessions have all ended."""
        self._nft.run(f"add table inet {self._table}\ndelete table inet {self._table}\n")
        self._placed.clear()
        self._spans.clear()

    # -- how --------------------------------------------------------------------------------------

    def _enter(
        self,
        chains: Chains,
        session: SessionFacts,
        version: str,
        rules: PacketRules,
        before: Sequence[Item] = (),
    ) -> None:
        level = cgroup_level(session.cgroup)
        if not self._level < level <= self._level + base.LEVELS:
            raise OSError(errno.EINVAL, f"{session.cgroup} is not within the instance's levels")
        key = cgroup_name(session.cgroup)
        entering = chains.enter(key, level, version, outermost=self._outermost(level))
        self._nft.apply([*before, *entering])
        self._placed[session.id] = _Placed(version, key, level)
        self._spans[session.id] = rules.spans

    def _outermost(self, level: int) -> bool:
        return level == self._level + 1

    def _placed_of(self, session: str) -> _Placed:
        placed = self._placed.get(session)
        if placed is None:
            raise FileNotFoundError(errno.ENOENT, f"session {session} has no network rules")
        return placed

    def _change(self, session: str, elements: Iterable[Element], *, adding: bool) -> None:
        self._placed_of(session)
        sets: dict[str, dict[str, tuple[Any, int | None]]] = {}
        for each in elements:
            for name, key in self._keys(session, each):
                sets.setdefault(name, {})[str(key)] = (key, each.seconds)
        for name, keys in sets.items():
            found = list(keys.values())
            for first in range(0, len(found), BATCH):
                some = found[first : first + BATCH]
                bare = [key for key, _seconds in some]
                # Kernels before 6.12 leave the old time: so added, taken away and added again.
                commands = [self._element("add", name, bare), self._element("delete", name, bare)]
                if adding:
                    timed = [_timed(key, seconds) for key, seconds in some]
                    commands.append(self._element("add", name, timed))
                self._nft.apply(commands)

    def _keys(self, session: str, element: Element) -> Iterable[tuple[str, Any]]:
        family = element.address.version
        if element.low == element.high:
            key = {"concat": [str(element.address), element.protocol, element.low]}
            yield named_name(family, session), key
            return
        spans = [
            span
            for span in self._spans.get(session, ())
            if span.protocol == element.protocol
            and element.low <= span.low
            and span.high <= element.high
        ]
        if sum(span.high - span.low + 1 for span in spans) != element.high - element.low + 1:
            raise ValueError(
                f"ports {element.low}-{element.high} are none that session {session} has spans for"
            )
        for span in spans:
            yield span_name(span, family, session), str(element.address)

    def _element(self, command: str, name: str, elements: list[Any]) -> Item:
        return {command: {"element": {**self._in(name), "elem": elements}}}

    def _in(self, name: str) -> Item:
        return {"family": "inet", "table": self._table, "name": name}

    def _list(self, what: str, name: str) -> Item:
        return {"list": {what: self._in(name)}}

    def _elements(self, name: str, what: str = "set") -> list[Any]:
        found = self._nft.read(self._list(what, name))
        return list(found[0][what].get("elem", ())) if found else []

    def _read(self) -> None:
        """Which sessions have chains that the maps lead to, and which spans those have."""
        self._placed.clear()
        self._spans.clear()
        for level in range(self._level + 1, self._level + base.LEVELS + 1):
            for key, verdict in self._elements(f"send_{level}", "map"):
                _direction, rest = verdict["jump"]["target"].split("_", 1)
                name, version = rest.rsplit("_", 1)
                self._placed[name] = _Placed(version, key, level)
        spans: dict[str, list[Span]] = {}
        for name in self._names("set"):
            if name.startswith("span4_"):
                protocol, low, high, session = name.split("_", 4)[1:]
                spans.setdefault(session, []).append(Span(int(protocol), int(low), int(high)))
        self._spans.update({session: tuple(sorted(each)) for session, each in spans.items()})

    def _names(self, what: str) -> list[str]:
        listed = self._nft.read({"list": {f"{what}s": {"family": "inet", "table": self._table}}})
        return [
            each[what]["name"]
            for each in listed
            if what in each and each[what]["table"] == self._table
        ]

    def _remove(self, sessions: Sequence[str]) -> None:
        going = {name: self._placed[name] for name in sessions}
        commands: list[Item] = []
        for name, placed in going.items():
            outermost = self._outermost(placed.level)
            chains = Chains(self._table, name)
            commands += chains.leave(placed.key, placed.level, placed.version, outermost=outermost)
        if not all(_exists(placed.key) for placed in going.values()):
            commands = self._without(going)
        self._nft.apply(commands)
        for name in going:
            del self._placed[name]
            self._spans.pop(name, None)
        self._sweep(list(going))

    def _without(self, going: Mapping[str, _Placed]) -> list[Item]:
        """Empty the maps and fill them again: libnftables cannot name a cgroup that is gone."""
        levels = {placed.level for placed in going.values()}
        commands: list[Item] = []
        for level in levels:
            commands += [{"flush": {"map": self._in(f"{each}_{level}")}} for each in DIRECTIONS]
            if self._outermost(level):
                commands.append({"flush": {"set": self._in("known")}})
        for name, placed in self._placed.items():
            if name not in going and placed.level in levels and _exists(placed.key):
                chains = Chains(self._table, name)
                commands += chains.enter(
                    placed.key,
                    placed.level,
                    placed.version,
                    outermost=self._outermost(placed.level),
                )
        return commands

    def _sweep(self, sessions: Collection[str] | None = None) -> None:
        """Take away what is of no version in force: of these sessions, or of whatever session."""
        commands: list[Item] = []
        for what in ("chain", "set", "counter"):  # chains first: they refer to the others
            for name in self._names(what):
                found = owner(name)
                if found is None or (sessions is not None and found[0] not in sessions):
                    continue
                placed = self._placed.get(found[0])
                if placed is None or found[1] not in ("", placed.version):
                    commands.append({"delete": {what: self._in(name)}})
        if commands:
            self._nft.apply(commands)


def _checked(session: str) -> str:
    if not NAME.fullmatch(session):
        raise ValueError(f"{session!r} is no name for a session's network rules")
    return session


def _exists(key: Any) -> bool:
    """Whether the cgroup that the maps list as `key` is there: else they list its number."""
    return os.path.isdir(os.path.join(NAMES, str(key)))  # noqa: PTH112, PTH118 - joined as it is


def _timed(key: Any, seconds: int | None) -> Any:
    return key if seconds is None else {"elem": {"val": key, "timeout": max(seconds, 1)}}


def _count(counter: Mapping[str, int]) -> Count:
    return Count(counter["packets"], counter["bytes"])


def _interval(value: Mapping[str, Sequence[Any]]) -> tuple[str, str, int, int, int]:
    addresses, protocol, ports = value["concat"]
    first, last = _ends(addresses)
    low, high = _ends(ports)
    return first, last, PROTOCOLS.get(protocol, protocol), low, high


def _ends(value: Any) -> tuple[Any, Any]:
    if isinstance(value, dict) and "range" in value:
        return value["range"][0], value["range"][1]
    if isinstance(value, dict) and "prefix" in value:
        network = ipaddress.ip_network(f"{value['prefix']['addr']}/{value['prefix']['len']}")
        return str(network[0]), str(network[-1])
    return value, value

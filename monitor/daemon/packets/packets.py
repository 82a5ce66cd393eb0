# SPDX-License-Identifier: Apache-2.0
"""Packet rules of sessions put in force, changed and taken away.

All of it lies in one table of the instance's; tables of others are never named. What is in force
stays when the daemon dies. Every change is one transaction, or several of which only one is seen by
packets. Not for several threads at once.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import sys
import zlib
from collections.abc import Collection, Iterable, Sequence

from monitor.daemon.packets import base
from monitor.daemon.packets.chains import (
    COUNTERS,
    DIRECTIONS,
    FAMILIES,
    VERSIONS,
    counter_name,
    end_key,
    fixed_name,
    named_name,
    owner,
    span_name,
)
from monitor.daemon.packets.changes import Changes, cgroup_key
from monitor.daemon.packets.facts import Count, Counters, Element, Placed, SessionFacts
from monitor.daemon.packets.shapes import Shapes
from monitor.kernel import nfnetlink
from monitor.kernel.cgroup import instance_root
from monitor.kernel.nfmonitor import Monitor
from monitor.kernel.nft import Nft, cgroup_level, cgroup_name
from monitor.policy.packets import PacketRules, Span

# Of the groups that packets are told of to: small numbers are those that people choose.
FIRST_GROUP = 0x4000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


class Packets:
    """The instance's table. OSError of the kernel's from every function."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._table = base.table_name(instance)
        self._nft = Nft()
        self._netlink = nfnetlink.Connection()
        self._monitor = Monitor()
        self._own = {self._netlink.port}  # who changes the table on our behalf
        self._touched = False
        self._level = 0
        self._changes = Changes(self._table, self._level)
        self.group = self._listened_to()
        self._shapes = Shapes(self._nft, self._netlink, self._table, self.group)
        self._placed: dict[str, Placed] = {}
        self._spans: dict[str, tuple[Span, ...]] = {}

    def close(self) -> None:
        """Leave what is in force in force."""
        self._netlink.close()
        self._monitor.close()

    def prepare(self) -> list[str]:
        """Make the table or take the one that is there over; the sessions that have rules in it.

        One that another version of the daemon left, and that does not fit, is replaced: then no
        session has rules, and each is refused everything until `install`.
        """
        root = instance_root(self._instance)
        self._level = cgroup_level(root)
        self._changes = Changes(self._table, self._level)
        script = base.script(self._table, cgroup_name(root), self._level)
        self._hear()
        try:
            self._nft.run(script)
            self._read()
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EINVAL, errno.EBUSY, errno.EOPNOTSUPP):
                raise
            old = f"add table inet {self._table}\ndelete table inet {self._table}\n"
            self._nft.run(old + script)
            self._read()
        # Nobody else knows the table's name yet, or touches it in just this moment.
        with contextlib.suppress(OSError):
            self._own |= self._monitor.changed(self._table)
        self._sweep()
        return sorted(self._placed)

    def install(self, session: SessionFacts, rules: PacketRules) -> None:
        """Put a session's rules in force. Before its first process; FileExistsError: it has some.

        With a session that is nested in another, that one must have its rules already.
        """
        name = _checked(session.id)
        if name in self._placed:
            raise FileExistsError(errno.EEXIST, f"session {name} has network rules already")
        placed = self._place(session, VERSIONS[0])
        built = self._shapes.build(name, placed.version, rules)
        self._netlink.apply([*built, *self._changes.entering(name, placed)])
        self._placed[name] = placed
        self._spans[name] = rules.spans

    def replace(self, session: SessionFacts, rules: PacketRules) -> None:
        """Go over to other rules: a packet meets all of the old or all of the new.

        What was added at run time stays, but for ports of spans that are others now. Installs where
        there are none.
        """
        name = _checked(session.id)
        old = self._placed.get(name)
        if old is None:
            self.install(session, rules)
            return
        placed = self._place(session, VERSIONS[1 - VERSIONS.index(old.version)])
        gone = {*self._spans.get(name, ())} - {*rules.spans}
        # Elements of an interval set are there a moment after the rest of their transaction.
        self._build(name, placed.version, rules)
        self._netlink.apply([*self._changes.leaving(old), *self._changes.entering(name, placed)])
        self._netlink.apply(
            self._changes.without(name, old.version) + self._changes.without_spans(name, gone)
        )
        self._placed[name] = placed
        self._spans[name] = rules.spans

    def remove(self, session: str) -> None:
        """Take a session's rules away; nothing where it has none.

        From then on its cgroup is refused everything, so this comes after its last process, and
        `cgroup` may still be there or not. Those nested in it come first.
        """
        if session not in self._placed:
            return
        try:
            self._remove([session])
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EBUSY):
                raise
            # Another tool was here, or a replacement failed. What is left goes, whatever that is.
            self.missing(())
            self._placed.pop(session, None)
            self._spans.pop(session, None)
            with contextlib.suppress(FileNotFoundError):
                self._sweep()

    def add_elements(
        self, session: str, elements: Iterable[Element], *, widely: bool = False
    ) -> None:
        """Let a session reach more; for one that is there, its time begins anew.

        `widely`: all ports of each span that an element has any of. ValueError: several ports that
        are no union of the session's spans. ENOSPC: there are 65,536 already.
        """
        self._change(session, elements, adding=True, widely=widely)

    def remove_elements(self, session: str, elements: Iterable[Element]) -> None:
        """Take back what was added; what is gone already is passed over."""
        self._change(session, elements, adding=False)

    def counters(self, session: str) -> Counters:
        """What a session's rules have counted. OSError (ENOENT) where it has none."""
        placed = self._placed_of(session)
        sent, refused, turned = (
            Count(*self._netlink.counter(self._table, counter_name(kind, session)))
            for kind in COUNTERS
        )
        rules = {
            _interval(family, each.key, each.end): Count(each.packets, each.bytes)
            for family in FAMILIES
            for each in self._netlink.elements(
                self._table, fixed_name("send", family, session, placed.version)
            )
        }
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

    def touched(self) -> bool:
        """Whether somebody else changed the table since the last call, or might have.

        Then `prepare` comes next, and `replace` for each session.
        """
        self._hear()
        found, self._touched = self._touched, False
        return found

    def drop(self) -> None:
        """Take the whole table away, when the instance's sessions have all ended."""
        self._nft.run(f"add table inet {self._table}\ndelete table inet {self._table}\n")
        self._placed.clear()
        self._spans.clear()

    # -- how --------------------------------------------------------------------------------------

    def _listened_to(self) -> int | None:
        """The group of the instance's that is told of refused packets; None: no kernel tells."""
        group = FIRST_GROUP + zlib.crc32(self._instance.encode()) % (65536 - FIRST_GROUP)
        trial = f"{self._table}_trial"
        try:
            self._nft.run(
                f"table inet {trial} {{ chain one {{ log group {group}; }}; }}\n"
                f"delete table inet {trial}\n"
            )
        except OSError:
            return None
        return group

    def _hear(self) -> None:
        try:
            others = self._monitor.changed(self._table) - self._own
        except OSError:
            others = {0}
        self._touched = self._touched or bool(others)

    def _place(self, session: SessionFacts, version: str) -> Placed:
        level = cgroup_level(session.cgroup)
        if not self._level < level <= self._level + base.LEVELS:
            raise OSError(errno.EINVAL, f"{session.cgroup} is not within the instance's levels")
        return Placed(version, session.cgroup.stat().st_ino, level)

    def _build(self, session: str, version: str, rules: PacketRules) -> None:
        """Make a version that nothing leads to yet, whatever was left of it."""
        made = self._shapes.build(session, version, rules)
        try:
            self._netlink.apply(made)
        except FileExistsError:
            self._netlink.apply([*self._changes.without(session, version), *made])

    def _placed_of(self, session: str) -> Placed:
        placed = self._placed.get(session)
        if placed is None:
            raise FileNotFoundError(errno.ENOENT, f"session {session} has no network rules")
        return placed

    def _change(
        self, session: str, elements: Iterable[Element], *, adding: bool, widely: bool = False
    ) -> None:
        self._placed_of(session)
        sets: dict[str, dict[bytes, int | None]] = {}
        for each in elements:
            timeout = None if each.seconds is None else max(each.seconds, 1) * 1000
            for name, key in self._keys(session, each, widely):
                sets.setdefault(name, {})[key] = timeout
        changes: list[nfnetlink.Message] = []
        for name, keys in sets.items():
            # Kernels before 6.12 leave the old time: so added, taken away and added again.
            bare = [(key, None) for key in keys]
            changes += nfnetlink.add_elements(self._table, name, bare)
            changes += nfnetlink.delete_elements(self._table, name, list(keys))
            if adding:
                changes += nfnetlink.add_elements(self._table, name, list(keys.items()))
        self._netlink.apply(changes)

    def _keys(self, session: str, element: Element, widely: bool) -> Iterable[tuple[str, bytes]]:
        family = element.address.version
        if element.low == element.high:
            yield (
                named_name(family, session),
                end_key(element.address, element.protocol, element.low),
            )
            return
        spans = [
            span
            for span in self._spans.get(session, ())
            if span.protocol == element.protocol
            and span.low <= element.high
            and element.low <= span.high
            and (widely or (element.low <= span.low and span.high <= element.high))
        ]
        if (
            not widely
            and sum(span.high - span.low + 1 for span in spans) != element.high - element.low + 1
        ):
            raise ValueError(
                f"ports {element.low}-{element.high} are none that session {session} has spans for"
            )
        for span in spans:
            yield span_name(span, family, session), element.address.packed

    def _read(self) -> None:
        """Which sessions are led to as they should be, and which spans those have."""
        self._placed.clear()
        self._spans.clear()
        known = {each.key for each in self._netlink.elements(self._table, "known")}
        for level in range(self._level + 1, self._level + base.LEVELS + 1):
            there: list[dict[str, Placed]] = []
            for direction in DIRECTIONS:
                led: dict[str, Placed] = {}
                for each in self._netlink.elements(self._table, f"{direction}_{level}"):
                    found = owner(each.chain)
                    if found and (not self._changes.outermost(level) or each.key in known):
                        cgroup = int.from_bytes(each.key, sys.byteorder)
                        led[found[0]] = Placed(found[1], cgroup, level)
                there.append(led)
            sends, takes = there
            self._placed |= {
                name: placed for name, placed in sends.items() if takes.get(name) == placed
            }
        spans: dict[str, list[Span]] = {}
        for name in self._netlink.names("set", self._table):
            if name.startswith("span4_"):
                protocol, low, high, session = name.split("_", 4)[1:]
                spans.setdefault(session, []).append(Span(int(protocol), int(low), int(high)))
        self._spans.update({session: tuple(sorted(each)) for session, each in spans.items()})

    def _remove(self, sessions: Sequence[str]) -> None:
        changes = [
            message
            for name in sessions
            for message in self._changes.removing(
                name, self._placed[name], self._spans.get(name, ())
            )
        ]
        self._netlink.apply(changes)
        for name in sessions:
            del self._placed[name]
            self._spans.pop(name, None)

    def _strays(self) -> list[nfnetlink.Message]:
        """What the maps hold of sessions that are not in force."""
        held = {(each.level, cgroup_key(each.cgroup)) for each in self._placed.values()}
        maps = {
            f"{direction}_{level}": level
            for direction in DIRECTIONS
            for level in range(self._level + 1, self._level + base.LEVELS + 1)
        }
        changes: list[nfnetlink.Message] = []
        for name, level in {**maps, "known": self._level + 1}.items():
            keys = [each.key for each in self._netlink.elements(self._table, name)]
            strays = [key for key in keys if (level, key) not in held]
            changes += nfnetlink.delete_elements(self._table, name, strays)
        return changes

    def _sweep(self) -> None:
        """Take away what is of no session or version in force."""
        self._netlink.apply(self._strays())
        deletions = {
            "chain": nfnetlink.delete_chain,  # chains first: they refer to the others
            "set": nfnetlink.delete_set,
            "counter": nfnetlink.delete_counter,
        }
        changes: list[nfnetlink.Message] = []
        for what, delete in deletions.items():
            for name in self._netlink.names(what, self._table):
                found = owner(name)
                if found is None:
                    continue
                placed = self._placed.get(found[0])
                if placed is None or found[1] not in ("", placed.version):
                    changes += delete(self._table, name)
        self._netlink.apply(changes)


def _checked(session: str) -> str:
    if not NAME.fullmatch(session):
        raise ValueError(f"{session!r} is no name for a session's network rules")
    return session


def _interval(family: int, first: bytes, last: bytes) -> tuple[str, str, int, int, int]:
    size = 4 if family == 4 else 16
    start, end = (str(ipaddress.ip_address(each[:size])) for each in (first, last))
    low, high = (int.from_bytes(each[size + 4 : size + 6], "big") for each in (first, last))
    return start, end, first[size], low, high

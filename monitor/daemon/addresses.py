# SPDX-License-Identifier: Apache-2.0
"""What one session may reach by name: its book of addresses, and the kernel's rows of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence

from monitor.daemon.packets.facts import Element
from monitor.daemon.probes.naming import Naming
from monitor.kernel.sockdiag import OpenSocket
from monitor.policy.action import IPAddress, Verdict
from monitor.policy.decide_network import port_range
from monitor.policy.plan import Plan, Policy
from monitor.resolver.addresses import Network, is_own, is_public
from monitor.resolver.book import Book, Row, Span
from monitor.resolver.decision import A, Admission, NameTable, Permission, judge
from monitor.resolver.hosts import admitted
from monitor.resolver.names import Depth, NameRule
from monitor.resolver.ports import TCP, UDP
from monitor.wire.named import NamedSpan

# A connection that is open keeps its address for so long, again and again.
RENEWED_SECONDS = 60.0
LONGEST_SECONDS = 3600  # that an answer counts
# How long a line of /etc/hosts counts; it is read again long before.
HOSTS_SECONDS = 3600
# Names that an observed session was told, beyond those that its plan allows.
MOST_SEEN = 4096
_EVERYTHING = tuple(
    NameRule("", Depth.ANY, ((0, 65535),), protocol, private=True) for protocol in (TCP, UDP)
)


def now() -> float:
    """The clock of all times here: CLOCK_BOOTTIME in seconds, as the kernel compares them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Addresses:
    """Of one session."""

    def __init__(self, session: str, cgroup: int, naming: Naming) -> None:
        self.session = session
        self.cgroup = cgroup
        self.book = Book()
        self.looked = 0.0  # when its sockets were last looked at
        self._naming = naming
        self._seen: dict[IPAddress, str] = {}
        self._taken: set[IPAddress] = set()  # by changes of its rules

    # -- its rules -----------------------------------------------------------------------------

    def govern(self, plan: Plan) -> None:
        """The rules of all its links, from now on."""
        self._plan = plan
        self._links = [policy.names for policy in plan.policies]
        self._rules = [{rule.rule: rule for rule in link} for link in self._links]
        self.tables = [NameTable(link) for link in self._links]

    def links(self) -> Sequence[Sequence[NameRule]]:
        """What the resolver lets it look up: all there is, where it is only observed."""
        return [_EVERYTHING] if self._plan.observe else self._links

    def lacking(self, name: str) -> int | None:
        """The first link that does not list `name`."""
        return next((n for n, table in enumerate(self.tables) if not table.match(name)), None)

    def permission(self, name: str) -> Permission | None:
        found = judge(name, A, self.tables)
        return found if isinstance(found, Permission) else None

    # -- its addresses -------------------------------------------------------------------------

    def restore(self) -> None:
        """Take over the rows that a worker before wrote; names are known as rules have them."""
        told = self._naming.told(self.cgroup)
        for address, spans in self._naming.rows(self.cgroup):
            for span in spans:
                rules = [
                    known.get(number)
                    for known, number in zip(self._rules, span.rules, strict=False)
                ]
                found = [rule for rule in rules if rule is not None]
                if len(found) != len(self._rules):
                    continue
                names = {
                    name for name in told.get(address, ()) if all(r.matches(name) for r in found)
                }
                # The narrowest rule says most of what other names were.
                rule = max(found, key=lambda rule: (rule.depth is Depth.EXACT, rule.name))
                for name in names or {str(rule)}:
                    allowed = Permission(name, tuple((rule,) for rule in found))
                    self.book.restore(address, allowed, span.until / 1e9)
        self._write(self.book.rows())
        kept = {row.address for row in self.book.rows()}
        for address, _spans in tuple(self._naming.rows(self.cgroup)):
            if address not in kept:
                self._naming.put(self.cgroup, address, ())
        self._tell(told)

    def admit(self, admissions: Sequence[Admission], own: Iterable[Network] = ()) -> list[Element]:
        """Let it connect to these; what packets are to be let pass for it. OSError, RowError.

        Judged anew: the resolver, which reads strangers' bytes, is believed which addresses a name
        has, and not what is allowed.
        """
        return self._admit(list(self._only_listed(admissions, own)))

    def _admit(self, admissions: Sequence[Admission]) -> list[Element]:
        try:
            rows = self.book.admit(admissions, now())
            self._tell({each.address for each in admissions})
            return self._write(rows)
        except (OSError, ValueError):
            self._give_up(admissions)
            raise

    def admit_hosts(self, hosts: dict[str, tuple[IPAddress, ...]]) -> list[Element]:
        """Let it connect to what the host's own table says of names that it may look up.

        Where all links list any name, they list any address, and nothing is to be added.
        """
        found = admitted(hosts, self.tables, HOSTS_SECONDS)
        return self._admit([each for each in found if _named(each)])

    def _only_listed(
        self, admissions: Sequence[Admission], own: Iterable[Network]
    ) -> Iterator[Admission]:
        for each in admissions:
            if self._plan.observe and len(self._seen) < MOST_SEEN:
                self._seen[each.address] = each.name
            allowed = self.permission(each.name)
            if allowed is not None and not _public(each.address, own):
                allowed = allowed.for_private()
            if allowed is not None:
                ttl = min(max(each.ttl, 0), LONGEST_SECONDS)
                yield Admission(each.name, each.address, ttl, allowed)

    def _give_up(self, admissions: Iterable[Admission]) -> None:
        """Book and kernel must not differ: these are looked up anew."""
        gone = {each.address for each in admissions}
        self.book.forget(gone)
        for address in gone:
            self._naming.put(self.cgroup, address, ())

    def judge_again(self, own: Iterable[Network]) -> list[Element]:
        """After its rules have changed: rows narrow, and none is added."""
        networks = tuple(own)
        before = {row.address for row in self.book.rows()}
        rows = self.book.judge_again(self.tables, lambda address: _public(address, networks))
        self._taken |= before - {row.address for row in self.book.rows()}
        self._tell(self._naming.told(self.cgroup))
        return self._write(rows)

    def expire(self, open_sockets: Iterable[OpenSocket], ahead: float) -> list[Element]:
        """Take away what is over; what is open and soon over lasts on."""
        at = now()
        used = {each.remote.address for each in open_sockets if each.remote.port}
        ending = [address for address in self.book.ending(at + ahead) if address in used]
        renewed = self._write(self.book.renew(ending, at + RENEWED_SECONDS))
        expired = self.book.expire(at)
        self._tell(self._naming.told(self.cgroup))
        return renewed + self._write(expired)

    def ending(self, ahead: float) -> bool:
        """Whether anything is over by then."""
        until = self.book.next_end()
        return until is not None and until <= now() + ahead

    @property
    def observed(self) -> bool:
        return self._plan.observe

    def lost(self, each: OpenSocket, narrowed: Sequence[Policy] = ()) -> bool:
        """Whether neither names nor rules let it be open; `narrowed`: what its labels leave."""
        if not each.remote.port or self._plan.observe:
            return False
        spans = self.book.spans(each.remote.address)
        if not spans and each.remote.address not in self._taken:
            return False  # no name ever came to it
        by_name = not narrowed and any(
            span.protocol == each.protocol and span.first <= each.remote.port <= span.last
            for span in spans
        )
        return not by_name and not self._by_rules(each, narrowed)

    def _by_rules(self, each: OpenSocket, narrowed: Sequence[Policy]) -> bool:
        found = (
            port_range(policy.connect, each.remote.address, each.remote.port, each.protocol)
            for policy in (*self._plan.policies, *narrowed)
        )
        return all(ports is not None and ports.verdict is not Verdict.DENY for ports in found)

    def name(self, address: IPAddress) -> str:
        """What name an address was told for last; "": none."""
        names = self.book.names(address)
        return names[0] if names else self._seen.get(address, "")

    def elements(self) -> list[Element]:
        """What packets are to be let pass for now."""
        return list(_elements(self.book.rows(), now()))

    # -- the kernel's rows ---------------------------------------------------------------------

    def _tell(self, addresses: Iterable[IPAddress]) -> None:
        """Which names TLS may ask for there."""
        for address in addresses:
            self._naming.tell(self.cgroup, address, self.book.over_tls(address))

    def _write(self, rows: Iterable[Row]) -> list[Element]:
        rows = list(rows)
        for row in rows:
            self._naming.put(self.cgroup, row.address, [self._span(each) for each in row.spans])
        return list(_elements(rows, now()))

    def _span(self, span: Span) -> NamedSpan:
        rules = [known[number] for known, number in zip(self._rules, span.rules, strict=True)]
        return NamedSpan(
            protocol=span.protocol,
            first=span.first,
            last=span.last,
            until=int(span.until * 1e9),
            rules=span.rules,
            host=any(rule.depth is not Depth.ANY for rule in rules),
        )


def _named(admission: Admission) -> bool:
    """Whether a link names the host."""
    links = admission.permission.links
    return any(rule.depth is not Depth.ANY for rules in links for rule in rules)


def _public(address: IPAddress, own: Iterable[Network]) -> bool:
    return is_public(address) and not is_own(address, own)


def _elements(rows: Iterable[Row], at: float) -> Iterator[Element]:
    for row in rows:
        for span in row.spans:
            if span.until > at:
                seconds = math.ceil(span.until - at)
                yield Element(row.address, span.protocol, span.first, span.last, seconds)

# SPDX-License-Identifier: Apache-2.0
"""What a session may reach by name, in its book and in rows: admitted, renewed, over, restored."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Iterator, Sequence

import pytest

from monitor.daemon import addresses
from monitor.daemon.addresses import Addresses
from monitor.daemon.probes.naming import Naming
from monitor.kernel.sockdiag import Endpoint, OpenSocket
from monitor.policy.action import IPAddress
from monitor.policy.plan import Plan
from monitor.profile.load import parse
from monitor.profile.network import names_hosts
from monitor.resolver.decision import Admission, Permission
from monitor.resolver.names import Depth, NameRule
from monitor.wire.named import NamedSpan
from tests.support.profiles import compiled

PUBLIC, OTHER, PRIVATE = map(ipaddress.ip_address, ("93.184.216.34", "93.184.216.35", "10.0.0.1"))
NAME = "api.example.org"
TCP = socket.IPPROTO_TCP
CGROUP = 7


class Rows(Naming):
    """Rows in memory; `full`: no further address has room."""

    def __init__(self) -> None:
        self.known: dict[IPAddress, tuple[NamedSpan, ...]] = {}
        self.names: dict[IPAddress, frozenset[str]] = {}
        self.full = False

    def put(self, cgroup: int, address: IPAddress, spans: Sequence[NamedSpan]) -> None:
        assert cgroup == CGROUP
        if not spans:
            self.known.pop(address, None)
            return
        if self.full:
            raise OSError(7, "full")
        self.known[address] = tuple(spans)

    def tell(self, _cgroup: int, address: IPAddress, names: Iterable[str]) -> None:
        self.names[address] = frozenset(names)

    def told(self, _cgroup: int) -> dict[IPAddress, frozenset[str]]:
        return self.names

    def rows(self, _cgroup: int) -> Iterator[tuple[IPAddress, tuple[NamedSpan, ...]]]:
        yield from self.known.items()


class Clock:
    """A clock that stands still."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(addresses, "now", made)
    return made


def plan(*texts: str, observe: bool = False, private: bool = False) -> Plan:
    rules = ", ".join(
        f'{{to: "{text}", private: {str(private and names_hosts(text)).lower()}}}' for text in texts
    )
    return compiled([parse(f"name: a\nnetwork: {{connect: [{rules}]}}", "a")], observe=observe)


def session(governed: Plan, rows: Rows | None = None) -> tuple[Addresses, Rows]:
    rows = rows or Rows()
    made = Addresses("s-1", CGROUP, rows)
    made.govern(governed)
    return made, rows


def admission(made: Addresses, name: str = NAME, *, ttl: int = 60,
              address: IPAddress = PUBLIC) -> Admission:  # fmt: skip
    allowed = made.permission(name)
    assert allowed is not None
    return Admission(name, address, ttl, allowed)


def opened(address: IPAddress, port: int, protocol: int = TCP) -> OpenSocket:
    here = Endpoint(ipaddress.ip_address("127.0.0.1"), 40000)
    return OpenSocket(socket.AF_INET, protocol, False, here, Endpoint(address, port), b"")


def test_a_row_says_when_for_what_and_by_which_rule(clock: Clock) -> None:
    made, rows = session(plan(f"{NAME}:443,8443", "any:80"))
    found = made.admit([admission(made)])
    assert [(each.low, each.high, each.seconds) for each in found] == [
        (80, 80, 60),
        (443, 443, 60),
        (8443, 8443, 60),
    ]
    assert {each.address for each in found} == {PUBLIC} == set(rows.known)
    assert len({span.rules for span in rows.known[PUBLIC]}) == 2


def test_rows_of_named_hosts_are_told_apart_from_those_of_any(clock: Clock) -> None:
    made, rows = session(plan(f"{NAME}:443", "any:80"))
    made.admit([admission(made)])
    assert {span.first: span.host for span in rows.known[PUBLIC]} == {80: False, 443: True}
    assert all(span.until == int(1060 * 1e9) for span in rows.known[PUBLIC])
    assert made.name(PUBLIC) == NAME
    assert made.name(OTHER) == ""


def test_what_is_over_goes_and_what_is_open_stays(clock: Clock) -> None:
    made, rows = session(plan("*.example.org:443"))
    made.admit([admission(made), admission(made, "b.example.org", address=OTHER)])
    assert not made.ending(10)
    clock.at += 55
    assert made.ending(10)
    made.expire([opened(OTHER, 443)], 10)
    assert rows.known[OTHER][0].until == int((1055 + 60) * 1e9)
    assert rows.known[PUBLIC][0].until == int(1060 * 1e9)
    clock.at += 10
    made.expire([opened(OTHER, 443)], 10)
    assert set(rows.known) == {OTHER}
    clock.at += 100
    made.expire([], 10)
    assert not rows.known
    assert not made.ending(10**6)


def test_a_full_table_leaves_nothing_behind(clock: Clock) -> None:
    made, rows = session(plan(f"{NAME}:443"))
    made.admit([admission(made)])
    rows.full = True
    with pytest.raises(OSError, match="full"):
        made.admit([admission(made, ttl=90)])
    assert not rows.known
    rows.full = False
    assert made.admit([admission(made)])
    assert set(rows.known) == {PUBLIC}


def test_changed_rules_narrow_what_there_is(clock: Clock) -> None:
    made, rows = session(plan("*.example.org:443,8443"))
    made.admit([admission(made), admission(made, "b.example.org", address=OTHER)])
    made.govern(plan(f"{NAME}:443"))
    made.judge_again(())
    assert set(rows.known) == {PUBLIC}
    assert [(span.first, span.last) for span in rows.known[PUBLIC]] == [(443, 443)]
    assert made.lost(opened(OTHER, 443))
    assert made.lost(opened(PUBLIC, 8443))
    assert not made.lost(opened(PUBLIC, 443))
    # What no name ever came to is no matter of names.
    assert not made.lost(opened(PRIVATE, 443))


def test_private_addresses_go_where_no_rule_foresees_them_any_more(clock: Clock) -> None:
    made, rows = session(plan(f"{NAME}:443", private=True))
    made.admit([admission(made, address=PRIVATE)])
    made.govern(plan(f"{NAME}:443"))
    made.judge_again(())
    assert not rows.known


def test_the_next_worker_takes_over_what_is_in_force(clock: Clock) -> None:
    made, rows = session(plan(f"{NAME}:443", "*.example.net:80"))
    made.admit([admission(made), admission(made, "b.example.net", address=OTHER)])
    before = dict(rows.known)
    again, _ = session(plan(f"{NAME}:443", "*.example.net:80"), rows)
    again.restore()
    assert rows.known == before
    assert again.name(PUBLIC) == NAME
    clock.at += 61
    again.expire([opened(PUBLIC, 443)], 10)
    assert set(rows.known) == {PUBLIC}


def test_rows_of_rules_that_are_gone_are_not_taken_over(clock: Clock) -> None:
    made, rows = session(plan("127.0.0.1:1", f"{NAME}:443", "*.example.net:80"))
    made.admit([admission(made, "b.example.net", address=OTHER)])
    again, _ = session(plan(f"{NAME}:443"), rows)
    again.restore()
    assert OTHER not in rows.known or rows.known[OTHER][0].rules == (0,)


def test_an_observed_session_is_told_everything_and_allowed_what_is_listed(clock: Clock) -> None:
    made, rows = session(plan(f"{NAME}:443", observe=True))
    [everything, _udp] = made.links()[0]
    assert everything.matches("whatever.example.net")
    told = Admission("whatever.example.net", OTHER, 60, admission(made).permission)
    made.admit([told, admission(made)])
    assert set(rows.known) == {PUBLIC}
    assert made.name(OTHER) == "whatever.example.net"
    assert not made.lost(opened(OTHER, 443))


def test_the_hosts_own_table_counts(clock: Clock) -> None:
    made, rows = session(plan("host.corp:443"))
    made.admit_hosts({"host.corp": (PRIVATE,), "other.corp": (OTHER,)})
    assert set(rows.known) == {PRIVATE}


def test_the_resolver_is_not_believed_what_is_allowed(clock: Clock) -> None:
    """It reads strangers' bytes: whoever takes it over gets no more than the rules give."""
    everywhere = tuple(
        NameRule("", Depth.ANY, ((0, 65535),), protocol, 0, True) for protocol in (6, 17)
    )
    made, rows = session(plan(f"{NAME}:443"))
    forged = [
        Admission("evil.example", OTHER, 60, Permission("evil.example", (everywhere,))),
        Admission(NAME, PRIVATE, 60, Permission(NAME, (everywhere,))),
        Admission(NAME, PUBLIC, 10**9, Permission(NAME, (everywhere,))),
    ]
    made.admit(forged)
    assert set(rows.known) == {PUBLIC}
    assert [(span.first, span.last) for span in rows.known[PUBLIC]] == [(443, 443)]
    assert rows.known[PUBLIC][0].until <= int((1000 + 3600) * 1e9)
    made.admit([Admission(NAME, OTHER, 60, forged[0].permission)], [ipaddress.ip_network(OTHER)])
    assert set(rows.known) == {PUBLIC}

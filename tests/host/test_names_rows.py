# SPDX-License-Identifier: Apache-2.0
"""Rows of names on the real kernel: by port, protocol, time and link; denials come first."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator

import pytest

from monitor.daemon.probes.naming import Naming
from monitor.policy.plan import Policy
from monitor.wire.events import DenyCause, NetEvent
from monitor.wire.layout import NAMED_SPANS, SessionFlag
from monitor.wire.named import NamedSpan
from monitor.wire.rows import RowError
from tests.support.probes import (
    TCP,
    UDP,
    Governed,
    Probes,
    attempt,
    boottime,
    inside,
    label,
    policy,
    ports,
    raw_connect,
    raw_sendto,
    sockaddr,
)

REFUSED, CLOSED = errno.EPERM, errno.ECONNREFUSED
NAMED, OTHER, NAMED6 = "127.67.0.1", "127.67.0.2", "::1"
NAMES = SessionFlag.NAMES
DENIED_HOST = policy(connect=[("::ffff:127.67.0.1/128", [ports(443, rule=5, allow=False)])])
UNRELATED = policy(connect=[("::ffff:127.67.9.0/120", [ports(1, 9)])])
EVERYTHING = policy(connect=[("::/0", [ports(0, 65535, rule=4)])])


@pytest.fixture
def naming(probes: Probes) -> Iterator[Naming]:
    made = Naming(probes.instance)
    made.open()
    yield made
    made.remove_leftovers(())
    assert made.count() == 0
    made.close()


def span(
    first: int, last: int = 0, *rules: int, protocol: int = TCP, until: float = 60.0, **more: bool
) -> NamedSpan:
    return NamedSpan(protocol, first, last or first, boottime(until), rules or (7,), **more)


def put(naming: Naming, session: Governed, address: str, *spans: NamedSpan) -> None:
    naming.put(session.id, ipaddress.ip_address(address), spans)


def connect(session: Governed, address: str, port: int, kind: int = socket.SOCK_STREAM) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def act() -> int:
        try:
            with socket.socket(family, kind) as sock:
                return raw_connect(sock, sockaddr(address, port))
        except PermissionError:
            return REFUSED

    return int(inside(session, act))


def send(session: Governed, address: str, port: int) -> int:
    def act() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            return raw_sendto(sock, sockaddr(address, port))

    return int(inside(session, act))


def test_a_row_allows_its_ports_of_its_protocol_at_its_address(
    probes: Probes, naming: Naming
) -> None:
    with probes.running(UNRELATED, flags=NAMES) as session:
        assert connect(session, NAMED, 443) == REFUSED
        put(naming, session, NAMED, span(440, 443), span(8443), span(5000, protocol=UDP))
        for port, allowed in {439: 0, 440: 1, 443: 1, 444: 0, 8443: 1, 5000: 0}.items():
            assert connect(session, NAMED, port) == (CLOSED if allowed else REFUSED), port
        assert send(session, NAMED, 5000) == 0
        assert send(session, NAMED, 443) == REFUSED
        assert connect(session, OTHER, 443) == REFUSED
        assert connect(session, NAMED6, 443) == REFUSED
        put(naming, session, NAMED6, span(443))
        assert connect(session, NAMED6, 443) == CLOSED
        put(naming, session, NAMED)
        assert connect(session, NAMED, 443) == REFUSED


def test_the_record_names_the_rule_of_the_link(probes: Probes, naming: Naming) -> None:
    with probes.running(UNRELATED, EVERYTHING, flags=NAMES) as session:
        probes.events()
        put(naming, session, NAMED, span(443, 443, 11, 12))
        assert connect(session, NAMED, 443) == CLOSED
        found = [each for each in probes.events(session) if isinstance(each, NetEvent)]
        # The last link's own table speaks of it, which gives its rule.
        assert [(each.rule, each.cause) for each in found if each.port == 443] == [
            (4, DenyCause.NONE)
        ]


def test_every_link_has_to_have_a_rule(probes: Probes, naming: Naming) -> None:
    with probes.running(UNRELATED, UNRELATED, flags=NAMES) as session:
        put(naming, session, NAMED, span(443, 443, 7, -1))
        assert connect(session, NAMED, 443) == REFUSED
        put(naming, session, NAMED, span(443, 443, 7, 0))
        assert connect(session, NAMED, 443) == CLOSED


def test_another_session_has_nothing_of_it(probes: Probes, naming: Naming) -> None:
    with (
        probes.running(UNRELATED, flags=NAMES) as one,
        probes.running(UNRELATED, flags=NAMES) as two,
    ):
        put(naming, one, NAMED, span(443))
        assert connect(one, NAMED, 443) == CLOSED
        assert connect(two, NAMED, 443) == REFUSED


def test_time_ends_it_without_anybody(probes: Probes, naming: Naming) -> None:
    with probes.running(UNRELATED, flags=NAMES) as session:
        put(naming, session, NAMED, span(443, until=-0.001))
        assert connect(session, NAMED, 443) == REFUSED
        put(naming, session, NAMED, span(443))
        assert connect(session, NAMED, 443) == CLOSED


def test_a_denial_comes_first(probes: Probes, naming: Naming) -> None:
    with probes.running(DENIED_HOST, flags=NAMES) as session:
        put(naming, session, NAMED, span(0, 65535))
        assert connect(session, NAMED, 443) == REFUSED
        assert connect(session, NAMED, 444) == CLOSED
    with probes.running(DENIED_HOST, flags=NAMES | SessionFlag.OBSERVE) as session:
        assert connect(session, NAMED, 443) == CLOSED


def test_a_session_without_names_does_not_look(probes: Probes, naming: Naming) -> None:
    with probes.running(UNRELATED) as session:
        put(naming, session, NAMED, span(443))
        assert connect(session, NAMED, 443) == REFUSED


def test_what_is_revoked_or_expired_is_refused(probes: Probes, naming: Naming) -> None:
    for more in ({"flags": NAMES | SessionFlag.REVOKED}, {"flags": NAMES, "expires": boottime(-1)}):
        with probes.running(UNRELATED, **more) as session:
            put(naming, session, NAMED, span(443))
            assert connect(session, NAMED, 443) == REFUSED


def lost_by_a_label() -> Policy:
    narrow = policy(connect=[("::ffff:127.67.0.9/128", [ports(0, 65535)])])
    return policy(
        connect=[("::ffff:127.67.0.9/128", [ports(0, 65535, label=0)])],
        labels=(label("seen", narrow),),
    )


def test_a_label_takes_names_away(probes: Probes, naming: Naming) -> None:
    with probes.running(lost_by_a_label(), flags=NAMES) as session:
        put(naming, session, NAMED, span(443))
        assert connect(session, NAMED, 443) == CLOSED
        assert connect(session, "127.67.0.9", 1) == CLOSED  # earns it
        assert connect(session, NAMED, 443) == REFUSED


def test_a_label_ends_questions(probes: Probes, naming: Naming) -> None:
    """Those of sockets that were led to the resolver before, too."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver,
        probes.running(lost_by_a_label(), flags=NAMES) as session,
    ):
        resolver.bind(("127.0.0.1", 0))
        resolver.settimeout(10)
        naming.listens(resolver.getsockname()[1], 0)

        def act() -> list[int]:
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking,
                socket.socket() as earning,
            ):
                asking.connect(("192.0.2.53", 53))
                asking.send(b"before")
                earned = raw_connect(earning, sockaddr("127.67.0.9", 1))
                # A packet that a program drops looks to its sender as one that left does not.
                after = attempt(lambda: asking.send(b"after"))
                again = raw_connect(asking, sockaddr("192.0.2.53", 53))
                return [earned, after, again]

        assert inside(session, act) == [CLOSED, REFUSED, REFUSED]
        assert resolver.recv(100) == b"before"
        resolver.setblocking(False)
        with pytest.raises(BlockingIOError):
            resolver.recv(100)
        naming.listens(0, 0)


def test_a_row_holds_so_many_ranges(probes: Probes, naming: Naming) -> None:
    with probes.running(UNRELATED, flags=NAMES) as session:
        spans = [span(1000 + 2 * each) for each in range(NAMED_SPANS)]
        put(naming, session, NAMED, *spans)
        assert connect(session, NAMED, 1000 + 2 * (NAMED_SPANS - 1)) == CLOSED
        assert connect(session, NAMED, 1001) == REFUSED
        with pytest.raises(RowError):
            put(naming, session, NAMED, *spans, span(9))
        [(address, found)] = list(naming.rows(session.id))
        assert str(address) == NAMED
        assert [(each.first, each.protocol, each.rules[0]) for each in found] == [
            (each.first, TCP, 7) for each in spans
        ]

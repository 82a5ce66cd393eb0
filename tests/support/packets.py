# SPDX-License-Identifier: Apache-2.0
"""Sessions that nftables alone holds: no probes, no filter, no Landlock, only cgroups and rules."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from monitor.daemon.packets.facts import SessionFacts
from monitor.daemon.packets.packets import Packets
from monitor.kernel.cgroup import Cgroup, instance_root
from monitor.policy.packets import PacketRules, rules
from tests.support.daemon import wait_until
from tests.support.network import ALLOWED4, ALLOWED6
from tests.support.probes import UDP, policy, ports

# To the allowed peer, TCP and UDP; own ports for both.
POLICY = policy(
    connect=[
        (f"::ffff:{ALLOWED4}/128", [ports(443), ports(8000, 8999), ports(53, protocol=UDP)]),
        (f"{ALLOWED6}/128", [ports(443), ports(53, protocol=UDP)]),
    ],
    bind=[
        ("::ffff:0.0.0.0/128", [ports(7000), ports(7000, protocol=UDP)]),
        ("::/128", [ports(7006), ports(7006, protocol=UDP)]),
    ],
)


class Held(Cgroup):
    """A session's cgroup, with what tells the packet rules which it is."""

    def __init__(self, cgroup: Cgroup, facts: SessionFacts) -> None:
        super().__init__(cgroup.path)
        self.facts = facts
        self.name = facts.id


class Floor:
    """The packet rules of an instance of their own, in the network in which this is made."""

    def __init__(self) -> None:
        self.instance = f"rit{secrets.token_hex(4)}"
        self.root = Cgroup(instance_root(self.instance))
        self._names = itertools.count(1)
        self.packets = Packets(self.instance)
        self.packets.prepare()

    def cgroup(self, parent: Cgroup | None = None) -> Held:
        """A cgroup without rules."""
        name = f"s{next(self._names)}"
        made = Cgroup((parent or self.root).path / name)
        made.create()
        return Held(made, SessionFacts(name, made.path))

    def session(self, held: PacketRules | None = None, parent: Cgroup | None = None) -> Held:
        """A cgroup under rules; those of POLICY where none are given."""
        made = self.cgroup(parent)
        self.packets.install(made.facts, rules([POLICY]) if held is None else held)
        return made

    def end(self, session: Held) -> None:
        """Kill what runs in a session, take its rules and itself away."""
        session.kill()
        assert session.wait("populated", False, 10)
        self.packets.remove(session.name)
        session.remove()

    @contextmanager
    def running(self, held: PacketRules | None = None) -> Iterator[Held]:
        session = self.session(held)
        try:
            yield session
        finally:
            self.end(session)

    def clean(self) -> None:
        """Leave nothing of the instance on the host."""
        self.packets.drop()
        self.packets.close()
        (self.root.path / "cgroup.kill").write_text("1")
        wait_until(lambda: not self.root.populated())
        for folder in sorted(self.root.path.rglob("*/"), reverse=True):
            folder.rmdir()
        self.root.path.rmdir()

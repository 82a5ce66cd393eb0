# SPDX-License-Identifier: Apache-2.0
"""Records of packets that the packet rules refused: those that no call was refused for before.

Each destination of a session is told of once, since the kernel goes on trying; more than the rules
tell of in a second is in the counts of the session's last record only.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from monitor.audit import objects
from monitor.audit.record import Draft
from monitor.daemon.packets.chains import SNAP
from monitor.kernel.nflog import PacketLog, Told
from monitor.policy import decide_network
from monitor.policy.action import Mechanism, NetAction, Verb, Verdict
from monitor.policy.plan import RecordChoice
from monitor.session.registry import UnknownSession
from monitor.session.session import Session
from monitor.wire import packet as packets
from monitor.wire.packet import TCP, UDP, Packet

if TYPE_CHECKING:  # it is built on this module
    from monitor.daemon.context import Context

# Objects of one session that are remembered as told.
MOST_TOLD = 1000


class PacketRecords:
    """Of one worker. `problem`: why refused packets leave no record; "": they do."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.problem = "the kernel tells nobody of packets"
        self._log: PacketLog | None = None
        self._told: dict[str, set[tuple[Verb, str]]] = {}

    def start(self, group: int | None) -> None:
        """Listen, in the loop that runs."""
        if group is None:
            return
        try:
            self._log = PacketLog(group, SNAP)
        except OSError as error:
            self.problem = str(error)
            print(f"ri-monitord: refused packets leave no record: {error}", file=sys.stderr)
            return
        self.problem = ""
        asyncio.get_running_loop().add_reader(self._log.fileno(), self._readable)

    def stop(self) -> None:
        if self._log is not None:
            asyncio.get_running_loop().remove_reader(self._log.fileno())
            self._log.close()
            self._log = None

    def forget(self, session: str) -> None:
        self._told.pop(session, None)

    def settle(self) -> None:
        """Record what has been told by now."""
        if self._log is not None:
            self._readable()

    def _readable(self) -> None:
        assert self._log is not None
        drafts = []
        while told := self._log.read():
            drafts += [draft for each in told if (draft := self._draft(each)) is not None]
        if not drafts:
            return
        self.context.recording.record(drafts)
        for draft in drafts:
            self.context.sessions.notices.denied(
                draft.session, draft.verb, draft.object, draft.reason
            )

    def _draft(self, told: Told) -> Draft | None:
        packet = packets.read(told.packet)
        try:
            session = self.context.registry.get(told.prefix)
        except UnknownSession:
            return None
        if packet is None:
            return None
        plan = self.context.registry.whole(session).plan
        verb, what, reason, rule, details = self._said(session, packet, came=told.came)
        known = self._told.setdefault(session.id, set())
        if (verb, what) in known and plan.records is not RecordChoice.EVERY:
            return None
        if len(known) < MOST_TOLD:
            known.add((verb, what))
        elif plan.records is not RecordChoice.EVERY:
            return None
        return Draft(
            time=time.time(),
            session=session.id,
            agent=session.agent,
            chain=session.chain.names(),
            pid=0,  # a packet may leave in the context of any process
            exe="",
            verb=verb,
            object=what,
            verdict=Verdict.DENY,
            reason=reason,
            rule=rule,
            mechanism=Mechanism.NFTABLES,
            count=1,
            details=details,
        )

    def _said(
        self, session: Session, packet: Packet, *, came: bool
    ) -> tuple[Verb, str, str, str, dict[str, Any]]:
        """(verb, object, reason, rule, details) of a packet that wanted in or out."""
        if came:
            verb, address, port = Verb.NET_BIND, packet.destination, packet.destination_port
            peer = objects.endpoint(str(packet.source), packet.source_port, packet.protocol)
            reason = f"{peer} wanted in, and the profile lets nobody from there in at this port"
            details: dict[str, Any] = {"peer": peer}
        else:
            verb = Verb.NET_CONNECT if packet.begins else Verb.NET_SEND
            address, port = packet.destination, packet.destination_port
            reason, details = "a packet that no rule of the session's lets out", {}
        what = objects.endpoint(str(address), port, packet.protocol)
        rule = ""
        if packet.protocol in (TCP, UDP) and not came:
            action = NetAction(verb, address, port, packet.protocol)
            decision = decide_network.decide(self.context.registry.whole(session).plan, action)
            if decision.verdict is not Verdict.ALLOW:
                reason, rule = decision.reason, str(decision.rule or "")
                details |= {"remedy": decision.remedy} if decision.remedy else {}
        return verb, what, reason, rule, details

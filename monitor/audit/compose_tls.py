# SPDX-License-Identifier: Apache-2.0
"""Findings on what connections to hosts by name begin with."""

from __future__ import annotations

import socket
from typing import Any

from monitor.audit import objects
from monitor.audit.subject import Finding, Subject, text_of
from monitor.policy.action import Mechanism, Verb, Verdict
from monitor.wire.events import HelloEvent, HelloFault

_REASONS = {
    HelloFault.PLAIN: "a rule names the host, and the connection does not begin with a TLS hello",
    HelloFault.BROKEN: "its TLS hello is broken, or lies in more than one record",
    HelloFault.NAMELESS: "its TLS hello names no host, and a rule does",
    HelloFault.URGENT: "it sends urgent data, which a server does not read as part of TLS",
    HelloFault.SHARED: "its TLS hello lies in memory that can change while it is sent",
}


def find(subject: Subject, event: HelloEvent) -> Finding:
    """The finding on a TLS hello that the kernel refused."""
    endpoint = objects.endpoint(event.address, event.port, socket.IPPROTO_TCP)
    name = ascii(event.name)[1:-1]  # a client can ask for any bytes
    details: dict[str, Any] = {"address": event.address, "fault": event.fault.value}
    if name:
        details["name"] = name
    if event.fault is HelloFault.OTHER:
        reason = f"its TLS hello asks for {name}, which the session was not told this address for"
        details["remedy"] = f"network.connect: {name}:{event.port}"
    else:
        reason = _REASONS[event.fault]
    link = subject.link_of(event.policy)
    if link is not None:
        details["link"] = link
    return Finding(
        Verb.NET_TLS,
        f"{name} ({endpoint})" if name else endpoint,
        Verdict.WOULD_DENY if event.observed else Verdict.DENY,
        reason,
        text_of(subject.rule_of(link, event.rule)),
        Mechanism.CGROUP_BPF,
        details,
    )

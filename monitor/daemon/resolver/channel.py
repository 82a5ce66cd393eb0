# SPDX-License-Identifier: Apache-2.0
"""What the daemon and the resolver's process say to each other: one JSON object a packet.

To the resolver: `{"do": "session", "session", "cgroup", "links"}` (a new one, or its new rules),
`{"do": "start"}` (every session there is was told; questions wait until then), `{"do": "end",
"session"}`, `{"do": "answer", "number", "error"}` (to an allow; null: it is done).
From it: `{"say": "allow", "number", "session", "name", "groups"}` (each of
addresses that share `ttl`, the `ports` that all links allow, and each link's rules),
`{"say": "record", …}` (the fields of Resolution).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from monitor.resolver.decision import Admission, Permission
from monitor.resolver.names import Depth, NameRule

if TYPE_CHECKING:  # the worker, which has no use for the DNS wire, is at the other end
    from monitor.daemon.resolver.resolver import Resolution

LARGEST = 1 << 22
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h


def prepare(sock: socket.socket) -> None:
    """Make room for packets as large as a profile with many names needs."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, LARGEST)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def decode(data: bytes) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(data)
    return message


def session_message(
    session: str, cgroup: int, links: Sequence[Sequence[NameRule]]
) -> dict[str, Any]:
    """A session and what each of its links lists."""
    rules = [[rule_to_json(rule) for rule in link] for link in links]
    return {"do": "session", "session": session, "cgroup": cgroup, "links": rules}


def rule_to_json(rule: NameRule) -> list[Any]:
    return [rule.name, rule.depth.value, rule.ports, rule.protocol, rule.rule, rule.private]


def rule_from_json(data: Sequence[Any]) -> NameRule:
    name, depth, ports, protocol, rule, private = data
    ranges = tuple((int(first), int(last)) for first, last in ports)
    return NameRule(str(name), Depth(depth), ranges, int(protocol), int(rule), bool(private))


def allow_message(number: int, session: str, admissions: Sequence[Admission]) -> dict[str, Any]:
    """Addresses of one answer, in groups of the same permission: all but private ones share it."""
    groups: dict[int, list[Admission]] = {}
    for each in admissions:
        groups.setdefault(id(each.permission), []).append(each)
    return {
        "say": "allow",
        "number": number,
        "session": session,
        "name": admissions[0].name,
        "groups": [
            {
                "addresses": [str(each.address) for each in group],
                "ttl": group[0].ttl,
                "ports": list(group[0].permission.ports().items()),
                "links": [
                    [rule_to_json(rule) for rule in rules] for rules in group[0].permission.links
                ],
            }
            for group in groups.values()
        ],
    }


def admissions(message: dict[str, Any]) -> list[Admission]:
    """The admissions that an allow is about."""
    return [
        Admission(message["name"], ip_address(address), group["ttl"], permission)
        for group in message["groups"]
        for permission in [Permission(message["name"], _links(group["links"]))]
        for address in group["addresses"]
    ]


def _links(links: Sequence[Sequence[Any]]) -> tuple[tuple[NameRule, ...], ...]:
    return tuple(tuple(rule_from_json(rule) for rule in rules) for rules in links)


def record_message(resolution: Resolution, lost: int = 0) -> dict[str, Any]:
    """What became of a question; `lost` is how many of these were dropped before it."""
    return {
        "say": "record",
        "session": resolution.session,
        "peer": [resolution.peer.protocol, resolution.peer.address, resolution.peer.port],
        "name": resolution.name,
        "type": resolution.kind,
        "cause": resolution.cause.value if resolution.cause else None,
        "rcode": resolution.rcode,
        "addresses": [str(each) for each in resolution.addresses],
        "aliases": list(resolution.aliases),
        "private": [str(each) for each in resolution.private],
        "rules": [list(rules) for rules in resolution.rules],
        "ttl": resolution.ttl,
        "cached": resolution.cached,
        "seconds": round(resolution.seconds, 6),
        "times": resolution.times,
        "lost": lost,
    }

# SPDX-License-Identifier: Apache-2.0
"""An upstream answer made into one session's reply, and what is to be allowed before it is sent."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from monitor.resolver.addresses import Address, Network, is_own, is_public
from monitor.resolver.answers import Answer, Lifetimes
from monitor.resolver.decision import AAAA, HTTPS, SRV, A, Admission, NameTable, Permission, judge
from monitor.resolver.names import from_labels
from monitor.resolver.ports import TCP, UDP, covers
from monitor.resolver.records import Service
from monitor.resolver.wire import NOERROR, Data, write_name


@dataclass(frozen=True, slots=True)
class Reply:
    """What a session is told. `admissions` must be in force before it is; `ttl` as shown.

    `private` are the addresses that were left out because they are not public.
    """

    rcode: int
    records: tuple[Data, ...] = ()
    ttl: int = 0
    admissions: tuple[Admission, ...] = ()
    private: tuple[Address, ...] = ()


def reply(
    answer: Answer,
    kind: int,
    permission: Permission,
    tables: Sequence[NameTable],
    lifetimes: Lifetimes,
    own: Sequence[Network] = (),
) -> Reply:
    """What a session with `permission` is told of `answer`.

    Aliases are not shown: the records stand at the asked name, which the whole chain counts for.
    `own` are public addresses of this host and its network, which count as private.
    """
    if answer.negative:
        return Reply(answer.rcode, ttl=answer.ttl)
    ttl = min(answer.ttl, lifetimes.longest)
    if kind in {A, AAAA}:
        return _addresses(answer, kind, ttl, permission, lifetimes, own)
    write = {HTTPS: _https, SRV: _srv}[kind]
    written = (write(each, permission, tables) for each in answer.services)
    return Reply(NOERROR, tuple(Data(kind, data) for data in written if data is not None), ttl)


def _addresses(
    answer: Answer,
    kind: int,
    ttl: int,
    permission: Permission,
    lifetimes: Lifetimes,
    own: Sequence[Network],
) -> Reply:
    records, admissions, private = [], [], []
    allowed = lifetimes.allowed(ttl)
    for_private = permission.for_private()
    for address in answer.addresses:
        public = is_public(address) and not is_own(address, own)
        granted = permission if public else for_private
        if granted is None:
            private.append(address)
            continue
        records.append(Data(kind, address.packed))
        admissions.append(Admission(permission.name, address, allowed, granted))
    return Reply(NOERROR, tuple(records), ttl, tuple(admissions), tuple(private))


def _https(service: Service, permission: Permission, tables: Sequence[NameTable]) -> bytes | None:
    """The record where its target and its port may be connected to; None: leave it out."""
    target = _target(service, permission, tables)
    if target is None:
        return None
    ports = target.ports()
    if service.port is not None and not any(
        covers(ports.get(protocol, ()), service.port) for protocol in (TCP, UDP)
    ):
        return None
    name = write_name(service.target)
    return struct.pack(">H", service.priority) + name + service.parameters


def _srv(service: Service, permission: Permission, tables: Sequence[NameTable]) -> bytes | None:
    target = _target(service, permission, tables)
    if target is None or service.port is None or not service.target:
        return None
    if not any(covers(ranges, service.port) for ranges in target.ports().values()):
        return None
    head = struct.pack(">HHH", service.priority, service.weight, service.port)
    return head + write_name(service.target)


def _target(
    service: Service, permission: Permission, tables: Sequence[NameTable]
) -> Permission | None:
    """What the session may do with the record's target: look it up itself, then connect."""
    if not service.target:
        return permission
    found = judge(from_labels(service.target), A, tables)
    return found if isinstance(found, Permission) else None

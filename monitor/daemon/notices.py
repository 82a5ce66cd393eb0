# SPDX-License-Identifier: Apache-2.0
"""What an agent's user is told while it runs: refusals, on the launcher's standard error.

A notice is a courtesy. It is sent without waiting, at most one a second for each session, and what
does not fit is counted or dropped; the record in the audit log is what counts.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass, field

from monitor.audit.record import printable
from monitor.launch import protocol
from monitor.policy.action import Verb

INTERVAL_SECONDS = 1.0
# (verb, object) pairs remembered for each session; further ones are counted only.
REMEMBERED = 1024
# What is said of asks comes in pairs, and faster where a program answers them.
ASKS_AT_ONCE = 10
LONGEST = 1000
# glibc asks nscd before every look-up of a user or host, and goes on without it (nscd(8)): a line
# about it at the start of nearly every session would say nothing.
EXPECTED = frozenset({"/var/run/nscd/socket", "/run/nscd/socket"})


@dataclass(slots=True)
class _Line:
    """One session's lifeline and what was said on it."""

    connection: socket.socket
    told: set[tuple[Verb, str]] = field(default_factory=set)
    next: float = 0.0
    left_out: int = 0
    ending: bool = False
    asks: float = 0.0  # when all that was said of asks is paid for, one each second


class Notices:
    """The lifelines of all sessions; none is ever waited for."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    def attach(self, session: str, connection: socket.socket) -> None:
        self._lines[session] = _Line(connection)

    def denied(self, session: str, verb: Verb, object_: str, reason: str) -> None:
        """Tell of a refusal, the first time that this session meets it."""
        line = self._lines.get(session)
        if line is None or (verb, object_) in line.told or object_ in EXPECTED:
            return
        now = time.monotonic()
        if len(line.told) >= REMEMBERED or now < line.next:
            line.left_out += 1
            return
        line.told.add((verb, object_))
        line.next = now + INTERVAL_SECONDS
        more = f" ({line.left_out} more were refused before)" if line.left_out else ""
        line.left_out = 0
        _send(line.connection, f"denied {verb.value} {object_}: {reason}{more}")

    def asked(self, session: str, text: str) -> None:
        """Say that an action is held, or what was answered; not where there is very much of it."""
        line = self._lines.get(session)
        now = time.monotonic()
        if line is None or line.asks - now > ASKS_AT_ONCE * INTERVAL_SECONDS:
            return
        line.asks = max(line.asks, now) + INTERVAL_SECONDS
        _send(line.connection, text)

    def labelled(self, session: str, names: list[str]) -> None:
        """Say that a session has labels, from which on it may do less."""
        line = self._lines.get(session)
        if line is not None:
            text = "label" if len(names) == 1 else "labels"
            _send(line.connection, f"the session has the {text} {', '.join(names)} from now on")

    def ending(self, session: str, why: str) -> None:
        """Say why the session ends, while there is somebody to hear it."""
        line = self._lines.get(session)
        if line is not None and not line.ending:
            line.ending = True
            _send(line.connection, f"the session ends: {why}")

    def revoked(self, session: str, why: str) -> None:
        """Say that a session runs on without its authority."""
        line = self._lines.get(session)
        if line is not None:
            _send(line.connection, f"the network is denied from now on: {why}")

    def end(self, session: str) -> None:
        """Close the lifeline of a session that has ended."""
        line = self._lines.pop(session, None)
        if line is None:
            return
        with contextlib.suppress(OSError):
            line.connection.shutdown(socket.SHUT_RDWR)


def _send(connection: socket.socket, text: str) -> None:
    # What an agent put into a name must not act on its user's terminal.
    line = printable(text[:LONGEST]).encode("utf-8", "replace")
    message = protocol.encode(protocol.NOTICE, ("text", line))
    with contextlib.suppress(OSError):
        connection.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

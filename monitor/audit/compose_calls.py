# SPDX-License-Identifier: Apache-2.0
"""Findings on refused system calls that name no path.

The probes send every refusal of the calls that the floor knows, whoever gave it. The floor's are
denials. Of the host's own only those are kept that say what an agent tried on others: signals, and
ioctl on a device. The rest (a priority that may not be raised, a socket option, a key that is not
there) is what any program meets on any host.
"""

from __future__ import annotations

import errno

from monitor.audit import objects
from monitor.audit.compose_files import host_reason
from monitor.audit.subject import Finding, Subject, because, on, text_of
from monitor.policy.action import Mechanism, SocketAction, SyscallAction, Verb, Verdict
from monitor.policy.syscalls import NUMBERS
from monitor.wire.events import SyscallEvent

SIGNALS = {NUMBERS[name] for name in ("kill", "tkill", "tgkill", "pidfd_send_signal")}
_SOCKET = NUMBERS["socket"]
_IOCTL = NUMBERS["ioctl"]
_PIDFD_SEND_SIGNAL = NUMBERS["pidfd_send_signal"]
VERBS = {
    **dict.fromkeys(SIGNALS, Verb.PROC_SIGNAL),
    _SOCKET: Verb.NET_SOCKET,
    NUMBERS["listen"]: Verb.NET_LISTEN,
}
# linux/net.h: SOCK_CLOEXEC and SOCK_NONBLOCK are not part of the type
_SOCK_TYPE_MASK = 0xF


def find(subject: Subject, event: SyscallEvent) -> Finding | None:
    """The finding on a refused call; None: the host's own answer, of no interest."""
    number, arguments = event.number, event.arguments
    verb = VERBS.get(number, Verb.SYSCALL)
    what = objects.call(number, arguments)
    details = {
        "number": number,
        "arguments": list(arguments),
        "errno": objects.error_name(event.errno),
    }
    if subject.plan is None:
        return Finding(verb, what, Verdict.DENY, subject.stranger, "", Mechanism.NONE, details)
    if number == _SOCKET:
        what = objects.new_socket(
            _int(arguments[0]), arguments[1] & _SOCK_TYPE_MASK, _int(arguments[2])
        )
    decision = on(subject, SyscallAction(number, arguments))
    if number == _SOCKET and (decision is None or decision.verdict is Verdict.ALLOW):
        action = SocketAction(
            _int(arguments[0]), arguments[1] & _SOCK_TYPE_MASK, _int(arguments[2])
        )
        decision = on(subject, action)
    if decision is not None and decision.verdict is not Verdict.ALLOW:
        rule, mechanism = text_of(decision.rule), decision.mechanism
        return Finding(
            verb, what, Verdict.DENY, decision.reason, rule, mechanism, details | because(decision)
        )
    if number in SIGNALS:
        return _signal(subject, event, what, details)
    if number == _IOCTL and event.errno == errno.EACCES and not subject.observe:
        reason = "ioctl on a device takes a rule that lets it be written, or the device refuses it"
        remedy = "list the device under files.write"
        return Finding(
            verb, what, Verdict.DENY, reason, "", Mechanism.LANDLOCK, details | {"remedy": remedy}
        )
    return None


def _signal(
    subject: Subject, event: SyscallEvent, what: str, details: dict[str, object]
) -> Finding | None:
    """A signal that did not get there: Landlock's scope, or another user's process."""
    verb = Verb.PROC_SIGNAL
    if event.errno not in (errno.EPERM, errno.EACCES):
        return None
    target = _int(event.arguments[0])
    known = event.number != _PIDFD_SEND_SIGNAL and subject.has(target)
    if subject.observe or known:
        return Finding(
            verb, what, Verdict.DENY, host_reason(event.errno), "", Mechanism.HOST, details
        )
    reason = "signals reach the session's own processes only"
    return Finding(verb, what, Verdict.DENY, reason, "", Mechanism.LANDLOCK, details)


def _int(register: int) -> int:
    """The low half of a register as a C int."""
    low = register & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low

# SPDX-License-Identifier: Apache-2.0
"""The syscall floor of one session: the built-in rules, and what the profile's sections turn on.

Sockets are refused by what is *not* listed, which a filter of refusals has to spell out: each
family, type and protocol below the highest one listed, and everything above it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import cache
from itertools import chain

from monitor.policy.action import Origin
from monitor.policy.floor_rules import STANDARD
from monitor.policy.floor_strict import STRICT
from monitor.policy.floor_terms import EPERM, bits, differs, equals
from monitor.policy.plan import (
    ArgumentTest,
    Compare,
    SocketRule,
    SyscallPlan,
    SyscallRule,
    SyscallVerdict,
)
from monitor.policy.syscalls import FIRST_UNKNOWN, NAMES, NUMBERS

BUILT_IN = "built in"
ANY_PROTOCOL = -1
MASK_64 = 0xFFFFFFFFFFFFFFFF

# linux/socket.h, linux/net.h
AF_UNIX = 1
SOCK_DGRAM = 2
SOCK_RAW = 3
SOCK_TYPE_MASK = 0xF


class UnknownSyscall(ValueError):
    """A profile refuses a call by a name that x86_64 does not have."""


def syscall_plan(
    sockets: Collection[SocketRule],
    *,
    listen: bool,
    strict: bool = False,
    opened: Collection[str] = (),
    denied: Iterable[tuple[str, Origin | None]] = (),
) -> SyscallPlan:
    """The floor with only `sockets` left to be made, and listen(2) only where `listen`.

    `opened` are the groups of `syscalls.allow`; `denied` are further calls by name, each with the
    rule that names it. UnknownSyscall where there is no such call.
    """
    rules = [*_built_in(strict, frozenset(opened)), *_sockets(sockets)]
    if not listen:
        why = "a listening socket lets data out without any connect; no bind rule asks for one"
        rules.append(_rule("listen", EPERM, why))
    rules += [_denied(name, origin) for name, origin in denied]
    return SyscallPlan(tuple(_without_repeats(rules)), FIRST_UNKNOWN)


@cache
def _built_in(strict: bool, opened: frozenset[str]) -> tuple[SyscallRule, ...]:
    refusals = chain(STANDARD, STRICT if strict else ())
    return tuple(rule for each in refusals if each.group not in opened for rule in each.rules())


def matching_rule(plan: SyscallPlan, number: int, arguments: tuple[int, ...]) -> SyscallRule | None:
    """The rule that refuses this call, None where none does; missing arguments count as 0.

    A number from `first_unknown` on is refused by no rule of its own: `unknown_rule` is it.
    """
    if not 0 <= number < plan.first_unknown:
        return unknown_rule(number)
    for rule in plan.rules:
        if rule.number == number and all(_holds(test, arguments) for test in rule.tests):
            return rule
    return None


def unknown_rule(number: int) -> SyscallRule:
    """What refuses a call that nobody here has looked at."""
    why = f"system calls from {FIRST_UNKNOWN} on are newer than this floor"
    return SyscallRule(f"system call {number}", number, SyscallVerdict.ENOSYS, why)


def origin(rule: SyscallRule) -> Origin:
    """Where `rule` is written."""
    return rule.origin or Origin("floor", "syscalls", rule.name, BUILT_IN, 0)


def _holds(test: ArgumentTest, arguments: tuple[int, ...]) -> bool:
    value = arguments[test.index] & MASK_64 if test.index < len(arguments) else 0
    if test.compare is Compare.MASKED_EQUAL:
        return value & test.mask == test.value
    if test.compare is Compare.GREATER_EQUAL:
        return value >= test.value
    return (value == test.value) is (test.compare is Compare.EQUAL)


def _rule(name: str, verdict: SyscallVerdict, why: str, *tests: ArgumentTest) -> SyscallRule:
    return SyscallRule(name, NUMBERS[name], verdict, why, tests)


def _denied(name: str, origin: Origin | None) -> SyscallRule:
    if name not in NUMBERS:
        raise UnknownSyscall(f"x86_64 has no system call {name!r}")
    return SyscallRule(name, NUMBERS[name], EPERM, "the profile refuses it", origin=origin)


def _without_repeats(rules: Iterable[SyscallRule]) -> Iterator[SyscallRule]:
    """In the order of numbers; a call that is always refused needs no other rule."""
    ordered = sorted(rules, key=lambda rule: (rule.number, len(rule.tests)))
    always: set[int] = set()
    for rule in ordered:
        if rule.number not in always:
            yield rule
            if not rule.tests:
                always.add(rule.number)


def _sockets(sockets: Collection[SocketRule]) -> Iterator[SyscallRule]:
    families = {rule.family for rule in sockets}
    why = "only the socket families that the profile's rules need"
    for test in _not_among(0, families):
        yield _rule("socket", SyscallVerdict.EAFNOSUPPORT, why, test)
    for family in sorted(families):
        yield from _types(family, [rule for rule in sockets if rule.family == family])
    why = "only AF_UNIX makes pairs that stay in the session"
    yield _rule("socketpair", SyscallVerdict.EAFNOSUPPORT, why, differs(0, AF_UNIX))
    if AF_UNIX not in families:
        # Either end of such a pair can send to a socket's name. SOCK_RAW is another word for it.
        why = "this kernel cannot decide on what is sent to unix socket names"
        for kind in (SOCK_DGRAM, SOCK_RAW):
            yield _rule("socketpair", EPERM, why, bits(1, kind, SOCK_TYPE_MASK))


def _types(family: int, sockets: Collection[SocketRule]) -> Iterator[SyscallRule]:
    types = {rule.type for rule in sockets}
    why = "only the socket types that the profile's rules need"
    for kind in range(SOCK_TYPE_MASK + 1):
        if kind not in types:
            yield _rule("socket", EPERM, why, equals(0, family), bits(1, kind, SOCK_TYPE_MASK))
    why = "only TCP and UDP are decided on by the network rules"
    for kind in sorted(types):
        protocols = {rule.protocol for rule in sockets if rule.type == kind}
        if ANY_PROTOCOL in protocols:
            continue
        for test in _not_among(2, protocols):
            tests = (equals(0, family), bits(1, kind, SOCK_TYPE_MASK), test)
            yield _rule("socket", EPERM, why, *tests)


def _not_among(index: int, values: Collection[int]) -> Iterator[ArgumentTest]:
    """Tests of which one holds exactly where the argument is none of `values`."""
    above = max(values, default=-1) + 1
    for value in range(above):
        if value not in values:
            yield equals(index, value)
    yield ArgumentTest(index, Compare.GREATER_EQUAL, above)


def name_of(number: int) -> str:
    """The name of a system call, or a text with its number."""
    return NAMES.get(number, f"system call {number}")

# SPDX-License-Identifier: Apache-2.0
"""seccomp filters: rules on system calls, given to libseccomp, and out as the kernel's bytes.

libseccomp has no rule for a range of numbers, so a few instructions stand before its program: they
kill what comes by another architecture or by x32, and answer ENOSYS from a number on, so that a
system call younger than this software is refused as one that the kernel does not have.

Source: seccomp(2), uapi/linux/seccomp.h, uapi/linux/bpf_common.h, uapi/linux/audit.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import seccomp

# uapi/linux/audit.h
AUDIT_ARCH_X86_64 = 0xC000003E
# asm/unistd.h: set in the numbers of the x32 ABI, which shares the architecture.
X32_SYSCALL_BIT = 0x40000000

# uapi/linux/seccomp.h: offsets in struct seccomp_data, and returns.
OFFSET_NR, OFFSET_ARCH = 0, 4
SECCOMP_RET_KILL_PROCESS = 0x80000000
SECCOMP_RET_ERRNO = 0x00050000

# uapi/linux/bpf_common.h
BPF_LD_W_ABS = 0x20
BPF_JMP_JEQ_K = 0x15
BPF_JMP_JGE_K = 0x35
BPF_RET_K = 0x06
INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
MAXIMUM = 4096  # instructions: BPF_MAXINSNS

COMPARISONS = {
    "eq": seccomp.EQ,
    "ne": seccomp.NE,
    "ge": seccomp.GE,
    "masked": seccomp.MASKED_EQ,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """Register argument `index` as 64 bits against `value`; `mask` counts for "masked" only."""

    index: int
    comparison: str  # a key of COMPARISONS
    value: int
    mask: int = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, slots=True)
class Rule:
    """The call `number` is answered with `error` (None: the process is killed) when all tests hold.

    libseccomp takes one test for each argument of a rule.
    """

    number: int
    error: int | None
    tests: tuple[Condition, ...] = ()


def build(rules: Iterable[Rule], first_unknown: int, notified: Collection[int] = ()) -> bytes:
    """The filter as an array of struct sock_filter; ValueError names a rule that does not fit.

    Calls in `notified` wait for who holds the filter's listener, where no rule refuses them.
    """
    rules = list(rules)
    made = seccomp.SyscallFilter(seccomp.ALLOW)
    made.set_attr(seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS)
    for rule in rules:
        action = seccomp.KILL_PROCESS if rule.error is None else seccomp.ERRNO(rule.error)
        try:
            made.add_rule_exactly(action, rule.number, *map(_argument, rule.tests))
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"libseccomp does not take {rule}: {error}") from error
    for number in sorted(set(notified)):
        for tests in _left(number, [rule for rule in rules if rule.number == number]):
            made.add_rule_exactly(seccomp.NOTIFY, number, *map(_argument, tests))
    code = _prologue(first_unknown) + _export(made)
    count = len(code) // INSTRUCTION.size
    if count > MAXIMUM:
        raise ValueError(f"the filter has {count} instructions and may have {MAXIMUM}")
    return code


def _left(number: int, refusals: list[Rule]) -> list[tuple[Condition, ...]]:
    """The tests under which no rule refuses a call: libseccomp takes a rule without for all.

    ValueError: it is refused in a way that leaves more than one bit to look at.
    """
    if not refusals:
        return [()]
    if any(not rule.tests for rule in refusals):
        return []
    first, *more = refusals[0].tests
    one_bit = first.comparison == "masked" and first.value == first.mask
    if len(refusals) == 1 and not more and one_bit and first.mask.bit_count() == 1:
        return [(Condition(first.index, "masked", 0, first.mask),)]
    raise ValueError(f"call {number} cannot be refused like this and notified")


def _argument(test: Condition) -> seccomp.Arg:
    comparison = COMPARISONS[test.comparison]
    if comparison == seccomp.MASKED_EQ:
        return seccomp.Arg(test.index, comparison, test.mask, test.value)
    return seccomp.Arg(test.index, comparison, test.value)


def _prologue(first_unknown: int) -> bytes:
    steps = (
        (BPF_LD_W_ABS, 0, 0, OFFSET_ARCH),
        (BPF_JMP_JEQ_K, 1, 0, AUDIT_ARCH_X86_64),
        (BPF_RET_K, 0, 0, SECCOMP_RET_KILL_PROCESS),
        (BPF_LD_W_ABS, 0, 0, OFFSET_NR),
        (BPF_JMP_JGE_K, 0, 1, X32_SYSCALL_BIT),
        (BPF_RET_K, 0, 0, SECCOMP_RET_KILL_PROCESS),
        (BPF_JMP_JGE_K, 0, 1, first_unknown),
        (BPF_RET_K, 0, 0, SECCOMP_RET_ERRNO | errno.ENOSYS),
    )
    return b"".join(INSTRUCTION.pack(*step) for step in steps)


def _export(made: seccomp.SyscallFilter) -> bytes:
    """libseccomp writes to a descriptor only."""
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "w+b") as file:
        made.export_bpf(file)
        return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)

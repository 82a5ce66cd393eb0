# SPDX-License-Identifier: Apache-2.0
"""An interpreter of classic BPF as seccomp runs it: says what a filter answers to a call."""

from __future__ import annotations

import struct
from collections.abc import Sequence

AUDIT_ARCH_X86_64 = 0xC000003E
AUDIT_ARCH_I386 = 0x40000003

_SIZE = 8
_WORD = 0xFFFFFFFF


def answer(
    code: bytes, number: int, arguments: Sequence[int] = (), architecture: int = AUDIT_ARCH_X86_64
) -> int:
    """The filter's return (action and data) for one call."""
    registers = [value & 0xFFFFFFFFFFFFFFFF for value in (*arguments, *[0] * 6)][:6]
    data = struct.pack("=iIQ6Q", _signed(number), architecture, 0, *registers)
    accumulator = at = 0
    while True:
        operation, yes, no, constant = struct.unpack_from("=HBBI", code, at * _SIZE)
        at += 1
        if operation == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            (accumulator,) = struct.unpack_from("=I", data, constant)
        elif operation == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= constant
        elif operation == 0x05:  # BPF_JMP | BPF_JA
            at += constant
        elif operation == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            at += yes if accumulator == constant else no
        elif operation == 0x25:  # BPF_JMP | BPF_JGT | BPF_K
            at += yes if accumulator > constant else no
        elif operation == 0x35:  # BPF_JMP | BPF_JGE | BPF_K
            at += yes if accumulator >= constant else no
        elif operation == 0x06:  # BPF_RET | BPF_K
            return int(constant)
        else:
            raise NotImplementedError(f"instruction {operation:#x}")


def _signed(number: int) -> int:
    number &= _WORD
    return number - (1 << 32) if number >> 31 else number

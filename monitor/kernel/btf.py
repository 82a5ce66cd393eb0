# SPDX-License-Identifier: Apache-2.0
"""Field offsets from the running kernel's BTF (/sys/kernel/btf/vmlinux), without any tool.

Only what the probes need: byte offsets of struct members, nested (`__sk_common.skc_daddr`) and in
anonymous members, and the ids of functions. Format: Documentation/bpf/btf.rst and uapi/linux/btf.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

VMLINUX = Path("/sys/kernel/btf/vmlinux")
BTF_MAGIC = 0xEB9F

# uapi/linux/btf.h: BTF_KIND_*
KIND_INT = 1
KIND_ARRAY = 3
KIND_STRUCT = 4
KIND_UNION = 5
KIND_ENUM = 6
KIND_FUNC = 12
KIND_FUNC_PROTO = 13
KIND_VAR = 14
KIND_DATASEC = 15
KIND_DECL_TAG = 17
KIND_ENUM64 = 19
# typedef, volatile, const, restrict, type tag: look through to the type they name
KINDS_TRANSPARENT = frozenset((8, 9, 10, 11, 18))

# Bytes that follow a type's 12: fixed, or per member.
FIXED = {KIND_INT: 4, KIND_ARRAY: 12, KIND_VAR: 4, KIND_DECL_TAG: 4}
PER_MEMBER = {
    KIND_STRUCT: 12,
    KIND_UNION: 12,
    KIND_ENUM: 8,
    KIND_FUNC_PROTO: 8,
    KIND_DATASEC: 12,
    KIND_ENUM64: 12,
}


class BtfError(Exception):
    """The kernel's BTF is absent or lacks what was asked for."""


class Btf:
    """Offsets of the members of the structs, and ids of the functions, named at construction."""

    def __init__(
        self, structs: Iterable[str], path: Path = VMLINUX, functions: Iterable[str] = ()
    ) -> None:
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise BtfError(
                f"cannot read {path}: {error.strerror}; the kernel needs CONFIG_DEBUG_INFO_BTF"
            ) from error
        magic, _v, _f, header, types, types_size, strings, _s = struct.unpack_from(
            "<HBBIIIII", self._data
        )
        if magic != BTF_MAGIC:
            raise BtfError(f"{path} is not BTF of this machine's byte order")
        self._strings = header + strings
        self._offsets = [0]
        self._found: dict[str, int] = {}
        self._functions: dict[str, int] = {}
        self._index(header + types, types_size, self._wanted(structs), self._wanted(functions))

    def _wanted(self, names: Iterable[str]) -> dict[int, str]:
        """The names that there are, by their place among the strings."""
        wanted: dict[int, str] = {}
        for name in names:
            at = self._data.find(b"\0" + name.encode() + b"\0", self._strings)
            if at >= 0:
                wanted[at + 1 - self._strings] = name
        return wanted

    def _index(
        self, start: int, size: int, wanted: dict[int, str], functions: dict[int, str]
    ) -> None:
        """Note where each type starts, and which of them are wanted."""
        unpack = struct.Struct("<III").unpack_from
        offset, end = start, start + size
        while offset < end:
            name_offset, info, _size = unpack(self._data, offset)
            kind, count = (info >> 24) & 31, info & 0xFFFF
            self._offsets.append(offset)
            if kind == KIND_STRUCT and name_offset in wanted:
                self._found.setdefault(wanted[name_offset], len(self._offsets) - 1)
            elif kind == KIND_FUNC and name_offset in functions:
                self._functions.setdefault(functions[name_offset], len(self._offsets) - 1)
            offset += 12 + FIXED.get(kind, 0) + PER_MEMBER.get(kind, 0) * count

    def _type(self, index: int) -> tuple[int, int, bool, int]:
        """(kind, member count, bit-field encoding, size or type) of type `index`."""
        _name, info, size = struct.unpack_from("<III", self._data, self._offsets[index])
        return (info >> 24) & 31, info & 0xFFFF, bool(info >> 31), size

    def _resolve(self, index: int) -> int:
        kind, _count, _flag, target = self._type(index)
        while kind in KINDS_TRANSPARENT:
            index = target
            kind, _count, _flag, target = self._type(index)
        return index

    def _name(self, offset: int) -> str:
        end = self._data.index(b"\0", self._strings + offset)
        return self._data[self._strings + offset : end].decode()

    def _member(self, index: int, name: str) -> tuple[int, int] | None:
        """(byte offset, type) of member `name`, looking into anonymous members."""
        _kind, count, bit_fields, _size = self._type(index)
        start = self._offsets[index] + 12
        for number in range(count):
            name_offset, kind, bits = struct.unpack_from("<III", self._data, start + 12 * number)
            offset = (bits & 0xFFFFFF if bit_fields else bits) // 8
            text = self._name(name_offset)
            if text == name:
                return offset, self._resolve(kind)
            inner = self._resolve(kind)
            if not text and self._type(inner)[0] in (KIND_STRUCT, KIND_UNION):
                found = self._member(inner, name)
                if found:
                    return offset + found[0], found[1]
        return None

    def offset(self, structure: str, member: str) -> int | None:
        """Byte offset of `member` (dotted for nested ones) in `structure`; None: not there."""
        index = self._found.get(structure)
        if index is None:
            return None
        total = 0
        for part in member.split("."):
            found = self._member(index, part)
            if found is None:
                return None
            total += found[0]
            index = found[1]
        return total

    def function(self, name: str) -> int | None:
        """The id of function `name`; None: not there."""
        return self._functions.get(name)

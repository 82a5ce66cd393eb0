# SPDX-License-Identifier: Apache-2.0
"""The C headers and their one mirror, compared by clang for the host and for BPF, over all of both.

Assertions are generated from `monitor.wire.layout` and compiled against the headers. What the
headers hold is read from them, so that nothing can be left out of the comparison.
"""

from __future__ import annotations

import ctypes
import re
import struct
import subprocess
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import pytest

from monitor.wire import layout
from tests.support.checkout import ROOT

INCLUDE = ROOT / "probes" / "include"
TARGETS = {
    "host": [],
    # The UAPI headers of this host serve BPF too.
    "bpf": ["-target", "bpf", "-I/usr/include/x86_64-linux-gnu"],
}
CONSTANTS = {
    "MAX_POLICIES": "RI_MAX_POLICIES",
    "NAME_MAX": "RI_NAME_MAX",
    "SHORT_DATA": "RI_SHORT_DATA",
    "LONG_DATA": "RI_LONG_DATA",
    "ARGUMENTS": "RI_ARGUMENTS",
    "ANY_PROTOCOL": "RI_ANY_PROTOCOL",
    "MAX_LABELS": "RI_MAX_LABELS",
    "UNLIMITED": "RI_UNLIMITED",
    "FILE_COMPONENTS": "RI_FILE_COMPONENTS",
    "FILE_LINK_BITS": "RI_FILE_LINK_BITS",
    "HOOK_CALLS": "RI_HOOK_CALLS",
    "NAMED_SPANS": "RI_NAMED_SPANS",
}
# Of enums whose members would be mistaken for those of others.
PREFIXES = {
    "ri_table": "RI_TABLE",
    "ri_budget_kind": "RI_BUDGET",
    "ri_tls": "RI_TLS",
    "ri_hook": "RI_HOOK",
    "ri_span_flag": "RI_SPAN",
}
FAILED = re.compile("static_?( assertion|assert) failed")
SIGNED = {ctypes.c_int32: True, ctypes.c_int64: True, ctypes.c_uint8: False, ctypes.c_uint16: False,
          ctypes.c_uint32: False, ctypes.c_uint64: False}  # fmt: skip


def headers() -> dict[str, str]:
    """Every header without its comments."""
    return {
        path.name: re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.S)
        for path in sorted(INCLUDE.glob("*.h"))
    }


def shared() -> str:
    """The headers that C and Python share: those without code."""
    return headers()["records.h"] + headers()["maps.h"]


def mirrors() -> dict[str, type[ctypes.Structure]]:
    return {
        name: value
        for name, value in vars(layout).items()
        if name.startswith("ri_") and issubclass(value, ctypes.Structure)
    }


def enums() -> dict[str, type[IntEnum]]:
    """By the C name, which is the docstring's first words."""
    found = {}
    for value in vars(layout).values():
        match = re.match(r"enum (\w+)", getattr(value, "__doc__", None) or "")
        if isinstance(value, type) and match:
            found[match[1]] = value
    return found


def fields(mirror: Any) -> Iterator[tuple[str, Any, int, int]]:
    """(name, type, offset, size) as C names them: anonymous members are gone into."""
    for name, kind, *_bits in mirror._fields_:
        descriptor = getattr(mirror, name)
        if name in getattr(mirror, "_anonymous_", ()):
            for inner, inner_kind, offset, size in fields(kind):
                yield inner, inner_kind, descriptor.offset + offset, size
        else:
            yield name, kind, descriptor.offset, descriptor.size


def struct_assertions(name: str, mirror: type[ctypes.Structure]) -> Iterator[str]:
    yield f'_Static_assert(sizeof(struct {name}) == {ctypes.sizeof(mirror)}, "{name}");'
    for field, kind, offset, size in fields(mirror):
        member = f"((struct {name} *)0)->{field}"
        yield (
            f"_Static_assert(__builtin_offsetof(struct {name}, {field}) == {offset}"
            f' && sizeof({member}) == {size}, "{name}.{field}");'
        )
        if kind in SIGNED:
            negative = f"(__typeof__({member}))-1 < 0"
            yield f'_Static_assert(({negative}) == {int(SIGNED[kind])}, "sign of {name}.{field}");'


def members(header: str, kind: str) -> dict[str, str]:
    """Each `struct` or `enum ri_*` of a header: name -> the text between its braces."""
    found = {}
    for match in re.finditer(rf"^{kind} (ri_\w+) \{{\n(.*?)^\}};", header, re.M | re.S):
        found[match[1]] = match[2]
    return found


def c_name(enum: str, member: str) -> str:
    return f"{PREFIXES.get(enum, 'RI')}_{member}"


def enum_assertions(name: str, enum: type[IntEnum]) -> Iterator[str]:
    for member in enum:
        text = c_name(name, member.name)
        yield f'_Static_assert({text} == {member.value}, "{text}");'


def compile_(assertions: Iterator[str] | list[str], target: str) -> str:
    """What clang says against the headers and these assertions; "" where all hold."""
    text = "#include <linux/types.h>\n"
    text += "".join(f'#include "{INCLUDE / name}"\n' for name in ("records.h", "maps.h"))
    text += "\n".join(assertions) + "\n"
    done = subprocess.run(
        ["clang", "-fsyntax-only", "-Wall", "-Werror", *TARGETS[target], "-x", "c", "-"],
        input=text,
        capture_output=True,
        text=True,
    )
    assert bool(done.stderr) == bool(done.returncode)
    return done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_every_struct_enum_and_constant_is_laid_out_alike(target: str) -> None:
    assertions = [
        line for name, each in mirrors().items() for line in struct_assertions(name, each)
    ]
    assertions += [line for name, each in enums().items() for line in enum_assertions(name, each)]
    for python, macro in CONSTANTS.items():
        assertions.append(f'_Static_assert({macro} == {getattr(layout, python)}, "{macro}");')
    assert compile_(assertions, target) == ""


class WrongSize(ctypes.Structure):
    _fields_ = [field for field in layout.ri_seen._fields_ if field[0] != "count"]


class WrongOrder(ctypes.Structure):
    _fields_ = list(reversed(layout.ri_port_key._fields_))


class WrongSign(ctypes.Structure):
    _fields_ = [("rule", ctypes.c_uint32), ("allow", ctypes.c_uint32)]


class WrongWidth(ctypes.Structure):
    _fields_ = [("tag", ctypes.c_uint64), ("sent", ctypes.c_uint32), ("more", ctypes.c_uint32)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("name", "mirror"),
    [
        ("ri_seen", WrongSize),
        ("ri_port_key", WrongOrder),
        ("ri_port_value", WrongSign),
        ("ri_directory", WrongWidth),
        ("ri_exec", layout.ri_open),
    ],
)
def test_a_wrong_mirror_does_not_pass(
    name: str, mirror: type[ctypes.Structure], target: str
) -> None:
    said = compile_(struct_assertions(name, mirror), target)
    assert FAILED.search(said) or "no member named" in said
    assert name in said


def test_a_wrong_value_does_not_pass() -> None:
    said = compile_(['_Static_assert(RI_CONNECT == 2, "RI_CONNECT");'], "host")
    assert FAILED.search(said)


def test_every_struct_of_the_headers_has_a_mirror() -> None:
    declared = {name for text in headers().values() for name in members(text, "struct")}
    assert declared == set(mirrors())
    assert "struct ri_" not in re.sub(r"struct ri_\w+ (\{|\*?\w+)", "", shared())


def test_every_field_of_a_struct_is_mirrored() -> None:
    for name, body in members(shared(), "struct").items():
        declared = re.findall(r"\b(\w+)(?:\[\w+\])?;", re.sub(r"\b(union|struct) \{", "", body))
        assert declared == [field for field, *_rest in fields(mirrors()[name])], name


def test_every_enum_of_the_headers_has_a_mirror() -> None:
    declared = {
        name: re.findall(r"\b(RI_\w+)", body)
        for text in headers().values()
        for name, body in members(text, "enum").items()
    }
    assert declared == {
        name: [c_name(name, each.name) for each in enum] for name, enum in enums().items()
    }


def test_every_constant_of_the_shared_headers_is_mirrored() -> None:
    declared = set(re.findall(r"^#define (RI_\w+)[ \t]+\S", shared(), re.M))
    assert declared == set(CONSTANTS.values())


def test_struct_formats_have_no_padding_of_their_own() -> None:
    for name, mirror in mirrors().items():
        if name != "ri_event":  # its body is a union: the formats are of its members
            assert struct.calcsize(layout.struct_format(mirror)) == ctypes.sizeof(mirror), name
    bodies: Any = layout._ri_body._fields_
    for _name, body in bodies:
        assert struct.calcsize(layout.struct_format(body)) == ctypes.sizeof(layout._ri_body)


def test_sizes_of_the_caches_are_those_of_the_programs() -> None:
    from monitor.wire import decode

    common = headers()["common.h"]
    assert f"#define RI_SEEN_SLOTS {decode.SEEN_SLOTS}\n" in common
    assert f"(tag >> {decode._SLOT_SHIFT}) & (RI_SEEN_SLOTS - 1)" in common
    slots = re.search(r"#define RI_DIRECTORY_SLOTS (\d+)", common)
    assert slots is not None
    assert int(slots[1]) <= decode.DIRECTORIES

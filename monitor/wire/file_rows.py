# SPDX-License-Identifier: Apache-2.0
"""From the rules on files of a chain of policies to the rows of the LSM programs' maps. Pure.

Objects are (device, inode); who calls says which path is which. How the kernel matches is told in
probes/include/walking.h.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from monitor.policy.chains import Chain, Match, chains
from monitor.policy.compile_files import granting, wants_view
from monitor.policy.plan import FileAccess, MaskKind, MaskRule, Policy
from monitor.wire import layout
from monitor.wire.layout import FileFlag, struct_format
from monitor.wire.rows import Row

_RULES = struct.Struct(struct_format(layout.ri_file_rules))
_KEY = struct.Struct(struct_format(layout.ri_file_key))
_VALUE = struct.Struct(struct_format(layout.ri_file_value))
_NAME_KEY = struct.Struct(struct_format(layout.ri_name_key))
_ARMED = struct.Struct(struct_format(layout.ri_armed))
_NUMBER = struct.Struct("=I")
_WORD = struct.Struct("=Q")
_NAME_HEAD = 96
_LINK_BITS = 3
TERMINAL = "/dev/tty"

# (device, inode); a kernel dev_t: major << 20 | minor.
Object = tuple[int, int]


@dataclass(slots=True)
class _Found:
    starts: int = 0
    tree: int = 0
    own: int = 0


@dataclass(slots=True)
class FileRows:
    """The rules of one chain. `unjudged`: paths that could not be looked at; then what the link of
    each grants is left to Landlock. `left`: masks that only the view holds."""

    words: dict[str, int]
    rules: tuple[int, ...]
    objects: dict[Object, tuple[int, int, int]]
    names: dict[tuple[int, bytes], int]
    left: tuple[MaskRule, ...]
    unjudged: tuple[str, ...]
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        content = repr((self.words, self.rules, sorted(self.objects.items()), self.names))
        self.digest = hashlib.blake2b(content.encode(), digest_size=16).digest()

    def rows(self, number: int) -> Iterator[Row]:
        """Every row under the key `number`; the one that the others hang on last."""
        for (device, inode), value in self.objects.items():
            yield Row("file_objects", _KEY.pack(inode, device, number), _VALUE.pack(*value))
        for (kind, text), components in self.names.items():
            key = _NAME_KEY.pack(_NAME_HEAD + 8 * len(text), number, kind, 0, text)
            yield Row("file_names", key, _WORD.pack(components))
        words = [self.words[name] for name, *_kind in layout.ri_file_rules._fields_[:-1]]
        yield Row("file_rules", _NUMBER.pack(number), _RULES.pack(*words, *self.rules))


def row_number(map_name: str, key: bytes) -> int:
    """Whose row a key is of."""
    offset = {"file_objects": 12, "file_names": 4, "file_rules": 0}[map_name]
    return int(_NUMBER.unpack_from(key, offset)[0])


def armed(rules: int, calls: int, home: int, flags: int = 0) -> bytes:
    """The value that arms a session."""
    return _ARMED.pack(flags, rules, calls, 0, home)


def file_rows(
    policies: Sequence[Policy],
    find: Callable[[str], Object | None],
    is_folder: Callable[[str], bool],
) -> FileRows:
    """The rows of `policies`, outermost first.

    `find` gives a path's object, None where there is none; OSError: it cannot be looked at.
    """
    made = chains(policies, is_folder)
    objects: dict[Object, _Found] = {}
    words = dict.fromkeys((name for name, *_kind in layout.ri_file_rules._fields_[:-1]), 0)
    rules = [0] * layout.FILE_COMPONENTS
    names: list[tuple[Match, bytes, int]] = []
    first = 0
    for chain in made.chains:
        start = find(chain.start)
        if start is None:
            continue
        objects.setdefault(start, _Found()).starts |= 1 << first
        link, index = chain.mask
        rules[first] = link << layout.FILE_LINK_BITS | index
        _add_chain(words, names, chain, first)
        first += len(chain.components)
    unjudged = _add_grants(words, objects, policies, find)
    table = _names(names)
    words["flags"] = (FileFlag.HAS_NAMES if any(kind == 0 for kind, _text in table) else 0) | (
        FileFlag.HAS_ENDS if any(kind == 1 for kind, _text in table) else 0
    )
    packed = {key: (value.starts, value.tree, value.own) for key, value in objects.items()}
    return FileRows(words, tuple(rules), packed, table, made.left, tuple(unjudged))


def _add_chain(
    words: dict[str, int], names: list[tuple[Match, bytes, int]], chain: Chain, first: int
) -> None:
    kinds = {
        MaskKind.HIDE: "hide",
        MaskKind.READ_ONLY: "read_only",
        MaskKind.NO_EXEC: "no_exec",
        None: "held",
    }
    last = first + len(chain.components) - 1
    words["first"] |= 1 << first
    words["last" if chain.kind is not None else "holds"] |= 1 << last
    words[kinds[chain.kind]] |= 1 << first
    for bit, component in enumerate(chain.components, first):
        if component.gap:
            words["gap"] |= 1 << bit
        if component.match is Match.ANY:
            words["any"] |= 1 << bit
        else:
            names.append((component.match, component.text, bit))


def _add_grants(
    words: dict[str, int],
    objects: dict[Object, _Found],
    policies: Sequence[Policy],
    find: Callable[[str], Object | None],
) -> list[str]:
    unjudged: list[str] = []
    for link, policy in enumerate(policies):
        shift = link * _LINK_BITS
        failed = False
        for rule in policy.files:
            try:
                found = find(rule.path)
            except OSError:
                unjudged.append(rule.path)
                failed = True
                continue
            if found is None:
                continue
            value = objects.setdefault(found, _Found())
            if rule.tree:
                value.tree |= rule.access.value << shift
            else:
                value.own |= rule.access.value << shift
        if not failed:
            words["grants"] |= 1 << shift
            if wants_view([policy]):
                words["attributes"] |= 1 << shift
        terminal = FileAccess(0)
        for rule in granting(policy.files, TERMINAL):
            terminal |= rule.access
        words["terminal"] |= terminal.value << shift
    return unjudged


def _names(names: Sequence[tuple[Match, bytes, int]]) -> dict[tuple[int, bytes], int]:
    """LPM finds the longest row only, so that each holds the components of all shorter ones."""
    table: dict[tuple[int, bytes], int] = {}
    begins = [(text, bit) for match, text, bit in names if match is Match.BEGINS]
    ends = [(text[::-1], bit) for match, text, bit in names if match is Match.ENDS]
    for match, text, bit in names:
        if match is Match.ENDS:
            key = (1, text[::-1])
        elif match is Match.BEGINS:
            key = (0, text)
        else:
            key = (0, text + b"\0")
        table[key] = table.get(key, 0) | 1 << bit
    for kind, text in table:
        for prefix, bit in ends if kind else begins:
            if text.startswith(prefix):
                table[kind, text] |= 1 << bit
    return table

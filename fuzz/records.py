# SPDX-License-Identifier: Apache-2.0
"""The record decoder: any bytes are an event or a WireError, and any event can be recorded.

Names, arguments and addresses in records are chosen by agents; a record that kills the worker would
end all recording.
"""

from __future__ import annotations

import ctypes

from fuzz.target import Target
from monitor.audit import canonical
from monitor.audit.compose import Composer
from monitor.audit.record import printable
from monitor.wire import layout
from monitor.wire.decode import EVENT_SIZE, Decoder, WireError
from monitor.wire.events import AnyEvent
from monitor.wire.layout import Kind
from tests.support.audit import session

SESSION = session()
_SHORT, _LONG = ctypes.sizeof(layout.ri_short), ctypes.sizeof(layout.ri_long)
# Of the records in the ring `details`; those of the other have one size.
SIZES: dict[int, tuple[int, ...]] = {
    Kind.DIRECTORY: (_LONG,),
    Kind.PATH_CALL: (_SHORT, _LONG),
    Kind.NAME: (_SHORT,),
    Kind.UNIX: (_SHORT,),
    Kind.EXEC: (ctypes.sizeof(layout.ri_exec),),
}
_KIND = layout.ri_header.kind.offset


def run(data: bytes) -> None:
    """Records of both rings in a row: each begins with its kind and its length."""
    decoder, composer = Decoder(), Composer(lambda cgroup: SESSION if cgroup % 3 else None)
    while len(data) > 3:
        kind, size = data[0], int.from_bytes(data[1:3], "little")
        record, data = data[3 : 3 + size], data[3 + size :]
        event = _decoded(decoder, _whole(kind, record), kind)
        if event is None:
            continue
        draft = composer.compose(event)
        if draft is not None:
            assert printable(draft.object).isprintable()
            canonical.encode(1, draft)


def _whole(kind: int, record: bytes) -> bytes:
    """The record in a size that its kind may have, with its kind in the header."""
    sizes = SIZES.get(kind, (EVENT_SIZE,))
    size = next((each for each in sizes if len(record) <= each), sizes[-1])
    padded = bytearray(record[:size].ljust(size, b"\0"))
    padded[_KIND : _KIND + 2] = kind.to_bytes(2, "little")
    return bytes(padded)


def _decoded(decoder: Decoder, record: bytes, kind: int) -> AnyEvent | None:
    try:
        return decoder.detail(record) if kind in SIZES else decoder.event(record)
    except WireError:
        return None


def _seed(kind: int, structure: type, **fields: object) -> bytes:
    record = structure(**fields)
    data = bytes(record).rstrip(b"\0")
    return bytes((kind,)) + len(data).to_bytes(2, "little") + data


TARGET = Target(
    run,
    [
        *(bytes((kind, 0, 0, 0)) for kind in Kind),
        _seed(Kind.OPEN, layout.ri_open),
        *(
            bytes((kind,)) + (200).to_bytes(2, "little") + bytes(range(1, 201))
            for kind in (Kind.PATH_CALL, Kind.UNIX, Kind.EXEC, Kind.NET, Kind.SYSCALL, Kind.LABEL)
        ),
    ],
    [b"/etc/passwd", b"\n", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J", b"@", b"/proc/self/fd/3"],
    16384,
)

# SPDX-License-Identifier: Apache-2.0
"""From the probes' records to events. Pure: bytes in, frozen dataclasses out.

A Decoder keeps what records refer to: the paths of directories, and the record that each slot of
the kernel's aggregation stands for.
"""

from __future__ import annotations

import ctypes
import mmap
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from errno import EACCES
from functools import lru_cache
from typing import TypeVar

from monitor.wire import layout
from monitor.wire.calls import BY_DESCRIPTOR, HOOKS, OPERATIONS, PATHLESS, UNTOLD
from monitor.wire.events import (
    AnyEvent,
    DenyCause,
    ExecEvent,
    ExitEvent,
    FileEvent,
    FileOperation,
    ForkEvent,
    HelloEvent,
    HelloFault,
    LabelEvent,
    NetEvent,
    NetOperation,
    SyscallEvent,
)
from monitor.wire.layout import Flag, Hook, Kind, Operation, Tls, struct_format

# uapi/linux/socket.h
AF_UNIX = 1
# asm/unistd_64.h
NR_SOCKET = 41

# Slots of the kernel's aggregation, and how a tag chooses one: only_counted() in common.h.
SEEN_SLOTS = 65536
_SLOT_SHIFT = 20
# Directories remembered; the kernel's cache is smaller, and it sends again what it dropped.
DIRECTORIES = 65536
# Processes whose exit is remembered, and directories with an earlier path.
_EXITED = 1024
_EARLIER = 1024
# How long after an LSM program refused it a call may end, ns.
_SAME_CALL = 10**9

K = TypeVar("K")
V = TypeVar("V")

EVENT_SIZE = ctypes.sizeof(layout.ri_event)
_SHORT, _LONG = ctypes.sizeof(layout.ri_short), ctypes.sizeof(layout.ri_long)
_DETAIL_SIZES: dict[int, tuple[int, ...]] = {
    Kind.DIRECTORY: (_LONG,),
    Kind.PATH_CALL: (_SHORT, _LONG),
    Kind.NAME: (_SHORT,),
    Kind.UNIX: (_SHORT,),
    Kind.DENIED: (_SHORT,),
    Kind.HELLO: (_SHORT,),
    Kind.EXEC: (ctypes.sizeof(layout.ri_exec),),
}
_HEADER_SIZE = ctypes.sizeof(layout.ri_header)
_KIND_OFFSET = layout.ri_header.kind.offset
_KIND = struct.Struct("=H")
_TAG = struct.Struct("=Q")


def _record(body: type[ctypes.Structure]) -> struct.Struct:
    return struct.Struct(struct_format(layout.ri_header) + struct_format(body)[1:])


_OPEN = _record(layout.ri_open)
_NET = _record(layout.ri_net)
_PROCESS = _record(layout.ri_process)
_SYSCALL = _record(layout.ri_syscall)
_COUNT = _record(layout.ri_count)

_NET_OPERATIONS = tuple(NetOperation(operation.name.lower()) for operation in Operation)
_FAULTS = {Tls[fault.name].value: fault for fault in HelloFault}
_CAUSES = tuple(DenyCause(cause.value) for cause in layout.Cause)
# Plain values for the hot path.
_OPENED = FileOperation.OPEN, FileOperation.RECEIVE
_WRITE = Flag.WRITE.value
_CREATED = Flag.CREATED.value
_RECEIVED = Flag.RECEIVED.value
_MAPPED = bytes(10) + b"\xff\xff"


class WireError(ValueError):
    """A record that this reader does not know; its caller counts it."""


class Decoder:
    """Decodes one instance's records, given in the order that records.h defines."""

    def __init__(self) -> None:
        # By cgroup: repeats that were counted, of records that were lost or told to another reader.
        self.unknown: Counter[int] = Counter()
        self._directories: dict[int, str] = {}
        # Paths that changed: tag -> (from when on it has the one above, the one it had before).
        self._earlier: dict[int, tuple[int, str]] = {}
        # The raw record behind each aggregation slot; pages never touched cost nothing.
        self._seen = mmap.mmap(-1, SEEN_SLOTS * EVENT_SIZE)
        # The same for records of the other ring: slot -> (tag, event).
        self._seen_details: dict[int, tuple[int, AnyEvent]] = {}
        # Threads whose socket(2) a program refused: its exit tells the same once more.
        self._refused_sockets: set[int] = set()
        # What an LSM program refused to a thread: the exit of its call tells the same once more.
        self._refused: dict[int, FileEvent] = {}
        # (cgroup, pid) of processes that ended lately, oldest first.
        self._exited: dict[tuple[int, int], None] = {}
        self._event_handlers: dict[int, Callable[[bytes, int], AnyEvent | None]] = {
            Kind.OPEN: self._open,
            Kind.FORK: self._fork,
            Kind.EXIT: self._exit,
            Kind.NET: self._net,
            Kind.LABEL: _label,
            Kind.SYSCALL: self._syscall,
            Kind.COUNT: self._counted,
        }
        self._detail_handlers: dict[int, Callable[[bytes], AnyEvent | None]] = {
            Kind.DIRECTORY: self._directory,
            Kind.PATH_CALL: self._path_call,
            Kind.NAME: self._long_name,
            Kind.UNIX: self._unix,
            Kind.DENIED: self._denied,
            Kind.HELLO: _hello,
            Kind.EXEC: self._exec,
        }

    def event(self, data: bytes, offset: int = 0) -> AnyEvent | None:
        """The event in the ri_event at `offset`; None: it tells nothing that is not known."""
        try:
            kind = _KIND.unpack_from(data, offset + _KIND_OFFSET)[0]
            return self._event_handlers[kind](data, offset)
        except (struct.error, LookupError, ValueError) as error:
            raise WireError(f"cannot decode a record of the ring `events`: {error!r}") from error

    def detail(self, data: bytes) -> AnyEvent | None:
        """The event in a record of the other ring; None: it was a directory."""
        try:
            kind = _KIND.unpack_from(data, _KIND_OFFSET)[0]
            if len(data) not in _DETAIL_SIZES[kind]:
                raise ValueError(f"a record of {len(data)} bytes")  # noqa: TRY301
            return self._detail_handlers[kind](data)
        except (struct.error, LookupError, ValueError) as error:
            raise WireError(f"cannot decode a record of the ring `details`: {error!r}") from error

    def repeats(self, tag: int, count: int, time: int) -> AnyEvent | None:
        """The event that stands for `count` repeats of the record with `tag`."""
        slot = _slot(tag)
        known = self._seen_details.get(slot)
        if known is not None and known[0] == tag:
            return replace(known[1], count=count, time=time)
        start = slot * EVENT_SIZE
        if _TAG.unpack_from(self._seen, start + _HEADER_SIZE)[0] != tag:
            return None
        record = bytes(self._seen[start : start + EVENT_SIZE])
        if _KIND.unpack_from(record, _KIND_OFFSET)[0] == Kind.OPEN:
            return replace(self._decode_open(record, 0), count=count, time=time)
        return replace(_decode_net(record, 0), count=count, time=time)

    def _base(self, directory: int, time: int) -> str:
        """The path a directory had at `time`; `?` stands for one that is not known."""
        if directory in self._earlier:
            changed, before = self._earlier[directory]
            if time < changed:
                return before
        return self._directories.get(directory, "?")

    def _path(self, directory: int, name: str, time: int) -> str:
        base = self._base(directory, time)
        if name == "/":  # the root of a file system: it is called what it is mounted on
            return base
        return f"/{name}" if base == "/" else f"{base}/{name}"

    def _remember(self, tag: int, data: bytes, offset: int) -> None:
        start = _slot(tag) * EVENT_SIZE
        self._seen[start : start + EVENT_SIZE] = data[offset : offset + EVENT_SIZE]

    def _open(self, data: bytes, offset: int) -> FileEvent:
        event = self._decode_open(data, offset)
        self._remember(_TAG.unpack_from(data, offset + _HEADER_SIZE)[0], data, offset)
        return event

    def _decode_open(self, data: bytes, offset: int) -> FileEvent:
        # The most frequent record by far: fields by position, which is twice as fast.
        (
            time, cgroup, pid, tid, _kind, flags, _reserved, comm,
            _tag, inode, directory, device, length, name,
        ) = _OPEN.unpack_from(data, offset)  # fmt: skip
        return FileEvent(
            time, cgroup, pid, tid, _comm(comm), 1,
            _OPENED[flags & _RECEIVED != 0], self._path(directory, _text(name[:length]), time), "",
            False, flags & _WRITE != 0, flags & _CREATED != 0,
            device, inode, 0,
        )  # fmt: skip

    def _net(self, data: bytes, offset: int) -> NetEvent:
        event = _decode_net(data, offset)
        self._remember(_TAG.unpack_from(data, offset + _HEADER_SIZE)[0], data, offset)
        if event.operation is NetOperation.SOCKET and not event.observed:
            self._refused_sockets.add(event.tid)
        return event

    def _fork(self, data: bytes, offset: int) -> ForkEvent:
        *who, _flags, _reserved, comm, child, _status = _PROCESS.unpack_from(data, offset)[:10]
        self._exited.pop((who[1], child), None)
        return ForkEvent(*_actor(who, comm), child=child)

    def _exit(self, data: bytes, offset: int) -> ExitEvent | None:
        *who, _flags, _reserved, comm, _child, status = _PROCESS.unpack_from(data, offset)[:10]
        process = (who[1], who[2])
        if process in self._exited:
            return None  # its last two threads ended at once, and each was the last
        _bounded(self._exited, _EXITED)[process] = None
        return ExitEvent(*_actor(who, comm), status=status)

    def _counted(self, data: bytes, offset: int) -> AnyEvent | None:
        fields = _COUNT.unpack_from(data, offset)
        event = self.repeats(tag=fields[8], count=fields[9], time=fields[0])
        if event is None:
            self.unknown[fields[1]] += fields[9]
        return event

    def _syscall(self, data: bytes, offset: int) -> SyscallEvent | None:
        event = _decode_syscall(data, offset)
        if event.number == NR_SOCKET and event.tid in self._refused_sockets:
            self._refused_sockets.discard(event.tid)
            return None
        return event

    def _directory(self, data: bytes) -> None:
        detail = layout.ri_detail.from_buffer_copy(data)
        names = _data(data, 0, detail.length).split(b"\0")[-2::-1]
        names.insert(0, b"?" if detail.header.flags & Flag.TRUNCATED else b"")
        path = _text(b"/".join(names)) or "/"
        # Put in anew, so that the first of the dict is the one sent longest ago.
        before = self._directories.pop(detail.directory, path)
        if before != path:
            # The other ring may hold records from before an ancestor was renamed.
            _bounded(self._earlier, _EARLIER)[detail.directory] = detail.header.time, before
        _bounded(self._directories, DIRECTORIES)[detail.directory] = path

    def _denied(self, data: bytes) -> FileEvent | None:
        """What an LSM program refused, told now, or by the exit of a call that knows its path."""
        detail = layout.ri_detail.from_buffer_copy(data)
        hook = Hook(detail.number)
        name = _text(_data(data, 0, detail.length))
        flags = detail.header.flags
        event = FileEvent(
            *_sender(detail.header),
            operation=HOOKS[hook],
            path=self._path(detail.directory, name, detail.header.time),
            target="",
            claimed=False,
            write=bool(flags & Flag.WRITE),
            created=hook is Hook.PATH_MKNOD,
            device=detail.device,
            inode=detail.inode,
            errno=detail.error,
            cause=_CAUSES[detail.cause],
            rule=detail.rule,
        )
        if detail.tag:
            self._seen_details[_slot(detail.tag)] = (detail.tag, event)
        if hook not in UNTOLD:
            _bounded(self._refused, _EXITED)[detail.header.tid] = event
        return None if hook in PATHLESS else event

    def _path_call(self, data: bytes) -> FileEvent | None:
        event = self._decode_call(data)
        refused = self._refused.pop(event.tid, None)
        if refused is None or event.time - refused.time > _SAME_CALL or event.errno != EACCES:
            return event
        if refused.path.startswith("/"):
            return None
        return replace(event, cause=refused.cause, rule=refused.rule)

    def _decode_call(self, data: bytes) -> FileEvent:
        detail = layout.ri_detail.from_buffer_copy(data)
        path = self._claimed(detail, detail.directory, _data(data, 0, detail.length))
        target = ""
        if detail.second:
            name = _data(data, detail.second).split(b"\0", 1)[0]
            target = self._claimed(detail, detail.second_directory, name)
        flags = detail.header.flags
        return FileEvent(
            *_sender(detail.header),
            operation=OPERATIONS[detail.number],
            path=path,
            target=target,
            claimed=detail.number not in BY_DESCRIPTOR,
            write=bool(flags & Flag.WRITE),
            created=bool(flags & Flag.CREATED),
            device=0,
            inode=0,
            errno=detail.error,
            ioctl_only=bool(flags & Flag.IOCTL_ONLY),
        )

    def _claimed(self, detail: layout.ri_detail, directory: int, name: bytes) -> str:
        """The string a caller passed, made absolute; an empty one means the base itself."""
        text = _text(name)
        if text.startswith("/"):
            return text
        time = detail.header.time
        return self._path(directory, text, time) if text else self._base(directory, time)

    def _long_name(self, data: bytes) -> FileEvent:
        detail = layout.ri_detail.from_buffer_copy(data)
        flags = detail.header.flags
        event = FileEvent(
            *_sender(detail.header),
            operation=_OPENED[flags & _RECEIVED != 0],
            path=self._path(
                detail.directory, _text(_data(data, 0, detail.length)), detail.header.time
            ),
            target="",
            claimed=False,
            write=bool(flags & Flag.WRITE),
            created=bool(flags & Flag.CREATED),
            device=detail.device,
            inode=detail.inode,
            errno=0,
        )
        self._seen_details[_slot(detail.tag)] = (detail.tag, event)
        return event

    def _unix(self, data: bytes) -> NetEvent:
        detail = layout.ri_detail.from_buffer_copy(data)
        name = _data(data, 0, detail.length)
        event = NetEvent(
            *_sender(detail.header),
            operation=NetOperation.UNIX,
            family=AF_UNIX,
            type=0,
            protocol=0,
            address=_text(b"@" + name[1:] if name.startswith(b"\0") else name),
            port=0,
            cause=_CAUSES[detail.cause],
            observed=bool(detail.header.flags & Flag.OBSERVED),
            policy=detail.policy,
            rule=detail.rule,
        )
        if detail.tag:
            self._seen_details[_slot(detail.tag)] = (detail.tag, event)
        return event

    def _exec(self, data: bytes) -> ExecEvent:
        record = layout.ri_exec.from_buffer_copy(data)
        start = layout.ri_exec.arguments.offset
        arguments = data[start : start + record.length]
        return ExecEvent(
            *_sender(record.header),
            path=self._path(record.directory, _text(record.name), record.header.time),
            argv=_arguments(arguments),
            truncated=bool(record.header.flags & Flag.TRUNCATED),
            device=record.device,
            inode=record.inode,
            cause=_CAUSES[record.cause] if record.cause else None,
        )


def _bounded(known: dict[K, V], most: int) -> dict[K, V]:
    """`known` with room for one more: what was put in first goes."""
    if len(known) >= most:
        del known[next(iter(known))]
    return known


def address_text(address: bytes) -> str:
    """16 bytes in network order as text; a v4-mapped address as IPv4."""
    if address.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


def _slot(tag: int) -> int:
    return (tag >> _SLOT_SHIFT) & (SEEN_SLOTS - 1)


def _data(record: bytes, start: int, length: int | None = None) -> bytes:
    """`length` bytes of ri_short.data or ri_long.data from `start`; None: all there are."""
    start += ctypes.sizeof(layout.ri_detail)
    return record[start:] if length is None else record[start : start + length]


def _arguments(data: bytes) -> tuple[str, ...]:
    """Strings that are each ended by NUL, the last perhaps cut off; () where there are no bytes."""
    return tuple(map(_text, data.removesuffix(b"\0").split(b"\0"))) if data else ()


def _text(name: bytes) -> str:
    """File names as Python holds them (PEP 383), whatever the locale."""
    return name.decode("utf-8", "surrogateescape")


@lru_cache(4096)
def _comm(comm: bytes) -> str:
    return _text(comm.split(b"\0", 1)[0])


def _actor(who: list[int], comm: bytes) -> tuple[int, int, int, int, str, int]:
    """The fields of Event, from those of ri_header."""
    return who[0], who[1], who[2], who[3], _comm(comm), 1


def _sender(header: layout.ri_header) -> tuple[int, int, int, int, str, int]:
    return header.time, header.cgroup, header.pid, header.tid, _comm(header.comm), 1


def _decode_net(data: bytes, offset: int) -> NetEvent:
    (
        *who, flags, _reserved, comm, _tag, address, rule, policy,
        port, family, kind, protocol, operation, cause,
    ) = _NET.unpack_from(data, offset)[:18]  # fmt: skip
    return NetEvent(
        *_actor(who, comm),
        operation=_NET_OPERATIONS[operation],
        family=family,
        type=kind,
        protocol=protocol,
        address="" if operation == Operation.SOCKET else address_text(address),
        port=port,
        cause=_CAUSES[cause],
        observed=bool(flags & Flag.OBSERVED),
        policy=policy,
        rule=rule,
    )


def _label(data: bytes, offset: int) -> LabelEvent:
    event = _decode_net(data, offset)
    return LabelEvent(
        event.time, event.cgroup, event.pid, event.tid, event.comm, 1,
        event.operation, event.protocol, event.address, event.port, event.policy, event.rule,
    )  # fmt: skip


def _hello(data: bytes) -> HelloEvent:
    detail = layout.ri_detail.from_buffer_copy(data)
    asked = layout.ri_asked.from_buffer_copy(_data(data, 0))
    # Not asked.name: that ends at a NUL, which the name may hold.
    start = layout.ri_asked.name.offset
    return HelloEvent(
        *_sender(detail.header),
        address=address_text(bytes(asked.address)),
        port=asked.port,
        own_port=asked.own_port,
        name=_text(_data(data, start, asked.length)),
        fault=_FAULTS[detail.cause],
        observed=bool(detail.header.flags & Flag.OBSERVED),
        policy=detail.policy,
        rule=detail.rule,
    )


def _decode_syscall(data: bytes, offset: int) -> SyscallEvent:
    fields = _SYSCALL.unpack_from(data, offset)
    *who, _flags, _reserved, comm = fields[:8]
    return SyscallEvent(
        *_actor(who, comm), number=fields[14], arguments=fields[8:14], errno=fields[15]
    )

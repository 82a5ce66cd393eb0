# SPDX-License-Identifier: Apache-2.0
"""bpf(2): pinned objects, map access and links, without BCC.

The attribute layouts follow `union bpf_attr` in uapi/linux/bpf.h. Keys and values are bytes in the
machine's order; their meaning is `monitor.wire`'s.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from monitor.kernel.libc import LIBC, NR_BPF, syscall

# enum bpf_cmd
BPF_MAP_LOOKUP_ELEM = 1
BPF_MAP_UPDATE_ELEM = 2
BPF_MAP_DELETE_ELEM = 3
BPF_MAP_GET_NEXT_KEY = 4
BPF_PROG_LOAD = 5
BPF_OBJ_PIN = 6
BPF_OBJ_GET = 7
BPF_OBJ_GET_INFO_BY_FD = 15
BPF_RAW_TRACEPOINT_OPEN = 17
BPF_LINK_CREATE = 28

BPF_NOEXIST = 1

# enum bpf_attach_type
BPF_CGROUP_INET_EGRESS = 1
BPF_CGROUP_INET_SOCK_CREATE = 2
BPF_CGROUP_INET4_BIND = 8
BPF_CGROUP_INET6_BIND = 9
BPF_CGROUP_INET4_CONNECT = 10
BPF_CGROUP_INET6_CONNECT = 11
BPF_CGROUP_UDP4_SENDMSG = 14
BPF_CGROUP_UDP6_SENDMSG = 15
BPF_CGROUP_UDP4_RECVMSG = 19
BPF_CGROUP_UDP6_RECVMSG = 20
BPF_CGROUP_INET4_GETPEERNAME = 29
BPF_CGROUP_INET6_GETPEERNAME = 30
BPF_LSM_MAC = 27
BPF_PERF_EVENT = 41
BPF_CGROUP_UNIX_CONNECT = 49  # Linux kernel commit 859051dd165e (in v6.7)
BPF_CGROUP_UNIX_SENDMSG = 50

BPF_PROG_TYPE_LSM = 29
INSTRUCTION_SIZE = 8
ATTR_SIZE = 144

_call = ctypes.CFUNCTYPE(
    ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long, use_errno=True
)(("syscall", LIBC))


def _bpf(command: int, attributes: bytes, what: object) -> int:
    buffer = ctypes.create_string_buffer(attributes, ATTR_SIZE)
    return syscall(
        NR_BPF, ctypes.c_int(command), buffer, ctypes.c_uint(ATTR_SIZE), what=f"bpf {what}"
    )


def pin(fd: int, path: Path) -> None:
    """Pin the object behind `fd` at `path` under a bpffs."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(BPF_OBJ_PIN, struct.pack("=QI", ctypes.addressof(name), fd), f"pin {path}")


def get(path: Path) -> int:
    """A descriptor of the object pinned at `path`; the caller closes it."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(BPF_OBJ_GET, struct.pack("=QI", ctypes.addressof(name), 0), f"get {path}")


def create_link(program: int, target: int, attach_type: int, what: str) -> int:
    """Attach `program` to a cgroup or perf event as a link; closing the last copy detaches."""
    request = struct.pack("=IIII", program, target, attach_type, 0)
    return _bpf(BPF_LINK_CREATE, request, f"link {what}")


def open_raw_tracepoint(name: str, program: int) -> int:
    """Attach `program` to the raw tracepoint `name`; the descriptor is a link."""
    text = ctypes.create_string_buffer(name.encode())
    return _bpf(
        BPF_RAW_TRACEPOINT_OPEN,
        struct.pack("=QI", ctypes.addressof(text), program),
        f"raw tracepoint {name}",
    )


def load_lsm(instructions: bytes, hook: int, name: str) -> int:
    """Load a program for the LSM hook whose function has BTF id `hook`; its descriptor.

    OSError: this kernel refuses it; EINVAL or EACCES with the verifier's last line in the text.
    """
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"GPL")
    request = struct.pack(
        "=IIQQIIQII16sIIIIQIIQII",
        BPF_PROG_TYPE_LSM,
        len(instructions) // INSTRUCTION_SIZE,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        *(0, 0, 0, 0, 0),  # log, kern_version, prog_flags
        name.encode()[:15],
        0,
        BPF_LSM_MAC,
        *(0, 0, 0, 0, 0, 0, 0),  # BTF of the program, its functions and lines
        hook,
    )
    try:
        return _bpf(BPF_PROG_LOAD, request, f"load {name}")
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}{_verdict(request)}", name) from error


def _verdict(request: bytes) -> str:
    """What the verifier says to a program that it refuses: its last line."""
    log = ctypes.create_string_buffer(1 << 24)
    place = struct.pack("=IIQ", 1, len(log), ctypes.addressof(log))
    told = request[:24] + place + request[40:]
    with contextlib.suppress(OSError):
        os.close(_bpf(BPF_PROG_LOAD, told, "load"))
    lines = log.value.decode(errors="replace").strip().splitlines()
    found = [line for line in lines if not line.startswith(("processed", "verification time"))]
    return f": {found[-1]}" if found else ""


def attach_lsm(program: int, name: str) -> int:
    """Attach a program to the LSM hook that it was loaded for; the descriptor is a link."""
    return _bpf(BPF_RAW_TRACEPOINT_OPEN, struct.pack("=QI", 0, program), f"LSM hook {name}")


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map (struct bpf_map_info)."""

    key_size: int
    value_size: int
    max_entries: int


def info(fd: int, what: object) -> MapInfo:
    """Sizes of the map behind `fd`."""
    buffer = ctypes.create_string_buffer(96)
    request = struct.pack("=IIQ", fd, len(buffer), ctypes.addressof(buffer))
    _bpf(BPF_OBJ_GET_INFO_BY_FD, request, f"info {what}")
    _kind, _id, key_size, value_size, max_entries = struct.unpack_from("=IIIII", buffer)
    return MapInfo(key_size, value_size, max_entries)


class Map:
    """A BPF map by its descriptor, with keys and values of fixed size in bytes."""

    def __init__(self, fd: int, key_size: int, value_size: int, name: str) -> None:
        self.fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self.name = name
        self._next = ctypes.create_string_buffer(key_size)
        self._value = ctypes.create_string_buffer(value_size)

    @classmethod
    def pinned(cls, path: Path) -> Map:
        """Open the map pinned at `path`, with the sizes that the kernel says it has."""
        fd = get(path)
        sizes = info(fd, path)
        return cls(fd, sizes.key_size, sizes.value_size, path.name)

    def _element(self, key: bytes, value: object, flags: int = 0) -> bytes:
        if len(key) != self.key_size:
            raise ValueError(f"map {self.name}: key of {len(key)} bytes, not {self.key_size}")
        self._key = ctypes.create_string_buffer(key, self.key_size)
        address = 0 if value is None else ctypes.addressof(value)  # type: ignore[arg-type]
        return struct.pack("=IxxxxQQQ", self.fd, ctypes.addressof(self._key), address, flags)

    def lookup(self, key: bytes) -> bytes | None:
        """The value at `key`, or None."""
        try:
            _bpf(BPF_MAP_LOOKUP_ELEM, self._element(key, self._value), f"lookup {self.name}")
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return self._value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Put `value` at `key`. OSError E2BIG or ENOSPC: the map is full."""
        if len(value) != self.value_size:
            raise ValueError(f"map {self.name}: value of {len(value)} bytes, not {self.value_size}")
        buffer = ctypes.create_string_buffer(value, self.value_size)
        _bpf(BPF_MAP_UPDATE_ELEM, self._element(key, buffer), f"update {self.name}")

    def insert(self, key: bytes, value: bytes) -> bool:
        """Put `value` at `key` where there is none yet; False: there is. OSError as of update."""
        buffer = ctypes.create_string_buffer(value, self.value_size)
        try:
            _bpf(
                BPF_MAP_UPDATE_ELEM,
                self._element(key, buffer, BPF_NOEXIST),
                f"insert {self.name}",
            )
        except FileExistsError:
            return False
        return True

    def delete(self, key: bytes) -> bool:
        """Remove `key`; False where it was not there."""
        try:
            _bpf(BPF_MAP_DELETE_ELEM, self._element(key, None), f"delete {self.name}")
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            raise
        return True

    def __iter__(self) -> Iterator[bytes]:
        """Every key; ones added or removed meanwhile may or may not be among them."""
        key: bytes | None = None
        while True:
            current = None if key is None else ctypes.create_string_buffer(key, self.key_size)
            address = 0 if current is None else ctypes.addressof(current)
            request = struct.pack("=IxxxxQQ", self.fd, address, ctypes.addressof(self._next))
            try:
                _bpf(BPF_MAP_GET_NEXT_KEY, request, f"next key {self.name}")
            except OSError as error:
                if error.errno == errno.ENOENT:
                    return
                raise
            key = self._next.raw
            yield key

    def close(self) -> None:
        os.close(self.fd)


class Rows:
    """Look-ups in a map whose key is a u64, with all that can be made ready beforehand."""

    def __init__(self, table: Map) -> None:
        self._table = table
        self._key = ctypes.c_uint64()
        self._value = ctypes.create_string_buffer(table.value_size)
        addresses = ctypes.addressof(self._key), ctypes.addressof(self._value)
        request = struct.pack("=IxxxxQQQ", table.fd, *addresses, 0)
        self._request = ctypes.create_string_buffer(request, ATTR_SIZE)
        self._place = ctypes.addressof(self._request)

    def read(self, key: int) -> bytes | None:
        """The value at `key`, or None."""
        self._key.value = key
        if _call(NR_BPF, BPF_MAP_LOOKUP_ELEM, self._place, ATTR_SIZE) < 0:
            error = ctypes.get_errno()
            if error == errno.ENOENT:
                return None
            raise OSError(error, os.strerror(error), f"bpf lookup {self._table.name}")
        return self._value.raw


class Writer:
    """Updates of a map, with all that can be made ready beforehand."""

    def __init__(self, table: Map) -> None:
        self._table = table
        self._key = ctypes.create_string_buffer(table.key_size)
        self._value = ctypes.create_string_buffer(table.value_size)
        addresses = ctypes.addressof(self._key), ctypes.addressof(self._value)
        request = struct.pack("=IxxxxQQQ", table.fd, *addresses, 0)
        self._request = ctypes.create_string_buffer(request, ATTR_SIZE)
        self._place = ctypes.addressof(self._request)

    def write(self, key: bytes, value: bytes) -> None:
        """Put `value` at `key`, both of their full size. OSError E2BIG: the map is full."""
        ctypes.memmove(self._key, key, self._table.key_size)
        ctypes.memmove(self._value, value, self._table.value_size)
        if _call(NR_BPF, BPF_MAP_UPDATE_ELEM, self._place, ATTR_SIZE) < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), f"bpf update {self._table.name}")

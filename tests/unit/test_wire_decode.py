# SPDX-License-Identifier: Apache-2.0
"""Records as bytes to events: each kind, what refers to what, and bytes that are no record."""

from __future__ import annotations

import ctypes
import ipaddress
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.wire import decode, layout
from monitor.wire.calls import BY_DESCRIPTOR, OPERATIONS
from monitor.wire.decode import EVENT_SIZE, Decoder, WireError
from monitor.wire.events import (
    DenyCause,
    ExecEvent,
    ExitEvent,
    FileEvent,
    FileOperation,
    ForkEvent,
    NetEvent,
    NetOperation,
    SyscallEvent,
)
from monitor.wire.layout import Flag, Kind

DIRECTORY, OTHER = 0xD1, 0xD2
TAG = 0x123456789ABCDEF0


def header(kind: int, flags: int = 0, **more: Any) -> layout.ri_header:
    fields = {"time": 1000, "cgroup": 77, "pid": 10, "tid": 11, "comm": b"cat"} | more
    return layout.ri_header(kind=kind, flags=flags, **fields)


def event(kind: int, flags: int = 0, body: str = "", who: dict[str, Any] | None = None,
          **fields: Any) -> bytes:  # fmt: skip
    record = layout.ri_event(header=header(kind, flags, **(who or {})))
    target = getattr(record, body) if body else None
    for name, value in fields.items():
        place = getattr(target, name)
        if isinstance(place, ctypes.Array):
            place[:] = list(value)
        else:
            setattr(target, name, value)
    return bytes(record)


def opened(name: bytes = b"file", directory: int = DIRECTORY, flags: int = 0, **more: Any) -> bytes:
    fields: dict[str, Any] = {"tag": TAG, "inode": 5, "device": 8 << 20 | 1} | more
    return event(
        Kind.OPEN, flags, "open", name=name, length=len(name), directory=directory, **fields
    )


def detail(
    kind: int,
    data: bytes = b"",
    flags: int = 0,
    large: bool = False,
    time: int = 1000,
    **fields: Any,
) -> bytes:
    record = layout.ri_long() if large else layout.ri_short()
    record.detail = layout.ri_detail(header=header(kind, flags, time=time), rule=-1)
    for name, value in fields.items():
        setattr(record.detail, name, value)
    start = ctypes.sizeof(layout.ri_detail)
    return bytes(record)[:start] + data.ljust(ctypes.sizeof(record) - start, b"\0")


def directory(tag: int, *names: bytes, flags: int = 0, time: int = 500) -> bytes:
    """A directory's record; `names` from the root down."""
    data = b"".join(name + b"\0" for name in reversed(names))
    return detail(
        Kind.DIRECTORY, data, flags, large=True, time=time, directory=tag, length=len(data)
    )


def path_call(number: int, path: bytes, second: bytes | None = None, **fields: Any) -> bytes:
    size = layout.SHORT_DATA // 2
    data = path.ljust(size, b"\0") + (second or b"")
    if second is not None:
        fields["second"] = size
    return detail(Kind.PATH_CALL, data, number=number, length=len(path), **fields)


@pytest.fixture
def decoder() -> Decoder:
    made = Decoder()
    assert made.detail(directory(DIRECTORY, b"home", b"alice")) is None
    assert made.detail(directory(OTHER)) is None
    return made


# -- opens -----------------------------------------------------------------------------------------


def test_an_open(decoder: Decoder) -> None:
    found = decoder.event(opened())
    assert found == FileEvent(
        time=1000, cgroup=77, pid=10, tid=11, comm="cat", count=1, operation=FileOperation.OPEN,
        path="/home/alice/file", target="", claimed=False, write=False, created=False,
        device=8 << 20 | 1, inode=5, errno=0,
    )  # fmt: skip


@pytest.mark.parametrize("flags", range(4))
def test_how_it_was_opened(decoder: Decoder, flags: int) -> None:
    found = decoder.event(opened(flags=flags))
    assert isinstance(found, FileEvent)
    assert (found.write, found.created) == (bool(flags & Flag.WRITE), bool(flags & Flag.CREATED))


def test_an_open_in_the_root_and_in_a_directory_that_is_not_known(decoder: Decoder) -> None:
    for tag, path in ((OTHER, "/file"), (0xBAD, "?/file")):
        found = decoder.event(opened(directory=tag))
        assert isinstance(found, FileEvent)
        assert found.path == path


def test_a_path_that_was_too_deep_says_so(decoder: Decoder) -> None:
    decoder.detail(directory(7, b"deep", b"er", flags=Flag.TRUNCATED))
    found = decoder.event(opened(directory=7))
    assert isinstance(found, FileEvent)
    assert found.path == "?/deep/er/file"


def test_a_renamed_directory_takes_over(decoder: Decoder) -> None:
    decoder.detail(directory(DIRECTORY, b"srv"))
    found = decoder.event(opened())
    assert isinstance(found, FileEvent)
    assert found.path == "/srv/file"


def test_a_record_from_before_a_rename_has_the_earlier_path(decoder: Decoder) -> None:
    """All of one ring is read before the other, whose records may be older."""
    renamed = directory(DIRECTORY, b"srv", time=5000)
    decoder.detail(renamed)
    decoder.detail(renamed)
    for time, path in ((4999, "/home/alice/file"), (5000, "/srv/file")):
        found = decoder.event(opened(who={"time": time}))
        assert isinstance(found, FileEvent)
        assert found.path == path


@pytest.mark.parametrize(("tag", "path"), [(DIRECTORY, "/home/alice"), (OTHER, "/")])
def test_the_root_of_a_file_system_is_called_what_it_is_mounted_on(
    decoder: Decoder, tag: int, path: str
) -> None:
    found = decoder.event(opened(b"/", directory=tag))
    assert isinstance(found, FileEvent)
    assert found.path == path


def test_a_long_name(decoder: Decoder) -> None:
    name = b"n" * 255
    record = detail(Kind.NAME, name, Flag.WRITE, directory=DIRECTORY, length=255, tag=TAG,
                    inode=9, device=3)  # fmt: skip
    found = decoder.detail(record)
    assert isinstance(found, FileEvent)
    assert found.path == "/home/alice/" + "n" * 255
    assert (found.inode, found.device, found.write, found.claimed) == (9, 3, True, False)


@given(st.binary(min_size=1, max_size=48).filter(lambda name: not {0, 47} & {*name}))
def test_any_name_survives(name: bytes) -> None:
    decoder = Decoder()
    decoder.detail(directory(DIRECTORY, b"\xff", b"x"))
    found = decoder.event(opened(name))
    assert isinstance(found, FileEvent)
    assert os.fsencode(found.path) == b"/\xff/x/" + name


def test_directories_that_are_remembered_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "DIRECTORIES", 3)
    decoder = Decoder()
    for tag in (1, 2, 3, 1, 4):
        decoder.detail(directory(tag, b"d"))
    assert list(decoder._directories) == [3, 1, 4]


# -- calls by path ---------------------------------------------------------------------------------


def test_a_refused_open(decoder: Decoder) -> None:
    record = path_call(257, b"/etc/shadow", error=13, flags=Flag.WRITE | Flag.CREATED)
    found = decoder.detail(record)
    assert isinstance(found, FileEvent)
    assert (found.operation, found.path, found.errno) == (FileOperation.OPEN, "/etc/shadow", 13)
    assert (found.claimed, found.write, found.created) == (True, True, True)


@pytest.mark.parametrize(
    ("base", "given_", "expected"),
    [
        (DIRECTORY, b"x/../y", "/home/alice/x/../y"),
        (DIRECTORY, b"/etc/x", "/etc/x"),
        (DIRECTORY, b"", "/home/alice"),
        (OTHER, b"x", "/x"),
        (0xBAD, b"x", "?/x"),
        (0xBAD, b"", "?"),
        (0, b"", "?"),
    ],
)
def test_a_claimed_path_is_made_absolute(
    decoder: Decoder, base: int, given_: bytes, expected: str
) -> None:
    found = decoder.detail(path_call(87, given_, directory=base))
    assert isinstance(found, FileEvent)
    assert found.path == expected
    # Even where the string could not be read: nothing else told what was meant.
    assert found.claimed


@pytest.mark.parametrize("number", sorted(BY_DESCRIPTOR))
def test_a_call_on_a_descriptor_claims_nothing(decoder: Decoder, number: int) -> None:
    found = decoder.detail(path_call(number, b"", directory=DIRECTORY))
    assert isinstance(found, FileEvent)
    assert (found.path, found.claimed) == ("/home/alice", False)


def test_two_paths(decoder: Decoder) -> None:
    record = path_call(264, b"a", b"b", directory=DIRECTORY, second_directory=OTHER)
    found = decoder.detail(record)
    assert isinstance(found, FileEvent)
    assert (found.operation, found.path, found.target) == (
        FileOperation.RENAME, "/home/alice/a", "/b",
    )  # fmt: skip
    absolute = decoder.detail(path_call(82, b"/a", b"/b"))
    assert isinstance(absolute, FileEvent)
    assert (absolute.path, absolute.target) == ("/a", "/b")


def test_long_paths(decoder: Decoder) -> None:
    path = b"/" + b"p" * 4000
    data = path.ljust(layout.LONG_DATA // 2, b"\0") + path
    record = detail(Kind.PATH_CALL, data, large=True, number=82, length=len(path),
                    second=layout.LONG_DATA // 2)  # fmt: skip
    found = decoder.detail(record)
    assert isinstance(found, FileEvent)
    assert (found.path, found.target) == (path.decode(), path.decode())


@pytest.mark.parametrize("number", sorted(OPERATIONS))
def test_every_call_has_its_operation(decoder: Decoder, number: int) -> None:
    found = decoder.detail(path_call(number, b"/x"))
    assert isinstance(found, FileEvent)
    assert found.operation is OPERATIONS[number]


def test_a_call_that_is_not_known(decoder: Decoder) -> None:
    with pytest.raises(WireError, match="details"):
        decoder.detail(path_call(0, b"/x"))


# -- processes -------------------------------------------------------------------------------------


def test_a_fork_and_an_exit(decoder: Decoder) -> None:
    assert decoder.event(event(Kind.FORK, body="process", child=12)) == ForkEvent(
        1000, 77, 10, 11, "cat", 1, child=12
    )
    assert decoder.event(event(Kind.EXIT, body="process", status=0x8B)) == ExitEvent(
        1000, 77, 10, 11, "cat", 1, status=0x8B
    )


def test_the_exit_of_a_process_is_told_once(decoder: Decoder) -> None:
    """Two threads that end at once on two processors both find that none is left."""
    ended = event(Kind.EXIT, body="process", status=9)
    other = event(Kind.EXIT, body="process", who={"pid": 11})
    another_session = event(Kind.EXIT, body="process", who={"cgroup": 78})
    assert [decoder.event(each) is not None for each in (ended, ended, other, another_session)] == [
        True, False, True, True,
    ]  # fmt: skip
    decoder.event(event(Kind.FORK, body="process", who={"pid": 11}, child=10))
    assert decoder.event(ended) is not None


def test_exits_that_are_remembered_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_EXITED", 3)
    decoder = Decoder()
    for pid in range(10):
        decoder.event(event(Kind.EXIT, body="process", who={"pid": pid}))
    assert list(decoder._exited) == [(77, 7), (77, 8), (77, 9)]


def executed(arguments: bytes, flags: int = 0, name: bytes = b"git") -> bytes:
    record = layout.ri_exec(
        header=header(Kind.EXEC, flags), inode=9, directory=DIRECTORY, device=4,
        length=len(arguments), name=name,
    )  # fmt: skip
    start = layout.ri_exec.arguments.offset
    data = bytes(record)
    return (
        data[:start] + arguments.ljust(layout.ARGUMENTS, b"\0") + data[start + layout.ARGUMENTS :]
    )


@pytest.mark.parametrize(
    ("arguments", "argv"),
    [
        (b"git\0status\0", ("git", "status")),
        (b"git\0", ("git",)),
        (b"git\0\0x\0", ("git", "", "x")),
        (b"git\0cut", ("git", "cut")),
        (b"\xff\0", ("\udcff",)),
    ],
)
def test_a_program_start(decoder: Decoder, arguments: bytes, argv: tuple[str, ...]) -> None:
    assert decoder.detail(executed(arguments)) == ExecEvent(
        1000, 77, 10, 11, "cat", 1, path="/home/alice/git", argv=argv, truncated=False, device=4,
        inode=9,
    )  # fmt: skip


def test_arguments_that_could_not_be_read(decoder: Decoder) -> None:
    found = decoder.detail(executed(b"", Flag.TRUNCATED))
    assert isinstance(found, ExecEvent)
    assert (found.argv, found.truncated) == ((), True)


def test_arguments_that_were_cut_off(decoder: Decoder) -> None:
    found = decoder.detail(executed(b"x" * layout.ARGUMENTS, Flag.TRUNCATED))
    assert isinstance(found, ExecEvent)
    assert (found.truncated, found.argv) == (True, ("x" * layout.ARGUMENTS,))


# -- sockets ---------------------------------------------------------------------------------------


def net(address: str = "192.0.2.1", flags: int = 0, who: dict[str, Any] | None = None,
        **more: Any) -> bytes:  # fmt: skip
    packed = ipaddress.ip_address(address).packed
    mapped = packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed
    fields: dict[str, Any] = {
        "tag": TAG, "rule": 3, "policy": 5, "port": 443, "family": 2, "type": 1, "protocol": 6,
        "operation": layout.Operation.CONNECT, "cause": 0,
    }  # fmt: skip
    return event(Kind.NET, flags, "net", who=who, address=mapped, **(fields | more))


def test_a_connection(decoder: Decoder) -> None:
    assert decoder.event(net()) == NetEvent(
        1000, 77, 10, 11, "cat", 1, operation=NetOperation.CONNECT, family=2, type=1, protocol=6,
        address="192.0.2.1", port=443, cause=DenyCause.NONE, observed=False, policy=5, rule=3,
    )  # fmt: skip


@pytest.mark.parametrize("operation", layout.Operation)
@pytest.mark.parametrize("cause", layout.Cause)
def test_operations_and_causes(
    decoder: Decoder, operation: layout.Operation, cause: layout.Cause
) -> None:
    found = decoder.event(net(operation=operation, cause=cause, rule=-1, flags=Flag.OBSERVED))
    assert isinstance(found, NetEvent)
    assert found.operation.value == operation.name.lower()
    assert (found.cause.value, found.rule, found.observed) == (cause.value, -1, True)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_any_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    found = Decoder().event(net(str(address), port=port))
    assert isinstance(found, NetEvent)
    mapped = getattr(address, "ipv4_mapped", None)
    assert ipaddress.ip_address(found.address) == (mapped or address)
    assert found.port == port


@pytest.mark.parametrize("field", ["operation", "cause"])
def test_an_operation_or_cause_that_is_not_known(decoder: Decoder, field: str) -> None:
    with pytest.raises(WireError):
        decoder.event(net(operation=5) if field == "operation" else net(cause=99))


@pytest.mark.parametrize(
    ("name", "text"),
    [(b"/run/x.sock", "/run/x.sock"), (b"\0bus", "@bus"), (b"", ""), (b"\0a\0", "@a\0")],
)
def test_a_unix_destination(decoder: Decoder, name: bytes, text: str) -> None:
    record = detail(Kind.UNIX, name, Flag.OBSERVED, length=len(name), cause=2, policy=5)
    found = decoder.detail(record)
    assert isinstance(found, NetEvent)
    assert (found.operation, found.address, found.family) == (NetOperation.UNIX, text, 1)
    assert (found.cause, found.observed, found.policy, found.rule) == (
        DenyCause.UNLISTED, True, 5, -1,
    )  # fmt: skip


# -- system calls ----------------------------------------------------------------------------------


def syscall(number: int, who: dict[str, Any] | None = None) -> bytes:
    record = layout.ri_event(header=header(Kind.SYSCALL, **(who or {})))
    record.call.number, record.call.error = number, 1
    record.call.arguments[:] = [1, 2, 3, 4, 5, 2**64 - 1]
    return bytes(record)


def test_a_refused_call(decoder: Decoder) -> None:
    assert decoder.event(syscall(321)) == SyscallEvent(
        1000, 77, 10, 11, "cat", 1, number=321, arguments=(1, 2, 3, 4, 5, 2**64 - 1), errno=1
    )


def test_a_refused_socket_is_told_once(decoder: Decoder) -> None:
    """The cgroup program refuses it, and the call's exit tells the same once more."""
    refused = net(operation=layout.Operation.SOCKET, cause=2)
    assert decoder.event(refused) is not None
    assert decoder.event(syscall(41, {"tid": 12})) is not None
    assert decoder.event(syscall(41)) is None
    assert decoder.event(syscall(41)) is not None
    observed = net(operation=layout.Operation.SOCKET, cause=2, flags=Flag.OBSERVED)
    assert decoder.event(observed) is not None
    assert decoder.event(syscall(41)) is not None


# -- repeats ---------------------------------------------------------------------------------------


def counted(tag: int, count: int) -> bytes:
    return event(Kind.COUNT, body="count", who={"time": 5000, "pid": 99}, tag=tag, count=count)


def test_a_count_stands_for_its_record(decoder: Decoder) -> None:
    first = decoder.event(opened())
    found = decoder.event(counted(TAG, 41))
    assert isinstance(first, FileEvent)
    assert isinstance(found, FileEvent)
    assert (found.path, found.pid, found.count, found.time) == (first.path, 10, 41, 5000)
    connected = TAG ^ (1 << 40)
    decoder.event(net(tag=connected))
    found = decoder.repeats(connected, 7, 6000)
    assert isinstance(found, NetEvent)
    assert (found.address, found.count, found.time) == ("192.0.2.1", 7, 6000)


def test_a_count_of_a_record_in_the_other_ring(decoder: Decoder) -> None:
    decoder.detail(detail(Kind.NAME, b"n" * 100, directory=DIRECTORY, length=100, tag=TAG))
    found = decoder.repeats(TAG, 3, 1)
    assert isinstance(found, FileEvent)
    assert (found.path, found.count) == ("/home/alice/" + "n" * 100, 3)
    other = TAG ^ (1 << 41)
    decoder.detail(detail(Kind.UNIX, b"/x", length=2, tag=other))
    unix = decoder.repeats(other, 4, 1)
    assert isinstance(unix, NetEvent)
    assert (unix.address, unix.count) == ("/x", 4)


def test_a_count_of_what_is_not_known(decoder: Decoder) -> None:
    assert decoder.event(counted(TAG, 41)) is None
    decoder.event(opened())
    # The same slot, another object.
    assert decoder.event(counted(TAG ^ 1, 41)) is None


def test_a_slot_goes_to_whoever_came_last(decoder: Decoder) -> None:
    decoder.detail(detail(Kind.NAME, b"n" * 100, directory=DIRECTORY, length=100, tag=TAG ^ 1))
    decoder.event(opened())
    found = decoder.repeats(TAG, 2, 1)
    assert isinstance(found, FileEvent)
    assert found.path == "/home/alice/file"


# -- bytes that are no record ----------------------------------------------------------------------

EVENTS = [opened(), net(), syscall(1), counted(TAG, 1), event(Kind.FORK), event(Kind.EXIT)]
DETAILS = [
    directory(1, b"a"), path_call(82, b"/a", b"/b"), executed(b"a\0"),
    detail(Kind.NAME, b"n", length=1, tag=TAG), detail(Kind.UNIX, b"/x", length=2, tag=TAG),
]  # fmt: skip


@pytest.mark.parametrize("kind", [0, 8, 63, 64, 69, 65535])
def test_kinds_that_are_not_known(decoder: Decoder, kind: int) -> None:
    with pytest.raises(WireError, match="events"):
        decoder.event(event(kind))
    if kind not in list(Kind):
        with pytest.raises(WireError, match="details"):
            decoder.detail(detail(kind))


@settings(deadline=None)
@given(st.sampled_from(EVENTS), st.integers(0, EVENT_SIZE - 1))
def test_an_event_that_was_cut_off(record: bytes, length: int) -> None:
    with pytest.raises(WireError):
        Decoder().event(record[:length])


@settings(deadline=None)
@given(st.sampled_from(DETAILS), st.data())
def test_a_detail_that_was_cut_off(record: bytes, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(record) - 1))
    with pytest.raises(WireError):
        Decoder().detail(record[:length])


@settings(deadline=None)
@given(st.binary(max_size=2 * EVENT_SIZE), st.integers(0, 100))
def test_any_bytes_are_an_event_or_refused(data: bytes, offset: int) -> None:
    try:
        Decoder().event(data, offset)
    except WireError:
        return


@settings(deadline=None)
@given(
    st.sampled_from(EVENTS + DETAILS), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)))
)
def test_a_changed_record_is_an_event_or_refused(
    record: bytes, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(record)
    for place, value in changes:
        data[place % len(data)] = value
    for decode_ in (Decoder().event, Decoder().detail):
        try:
            decode_(bytes(data))
        except WireError:
            continue

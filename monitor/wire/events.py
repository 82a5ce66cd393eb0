# SPDX-License-Identifier: Apache-2.0
"""What the probes report, decoded: one frozen dataclass per kind of record.

`decode.py` makes these from ring buffer bytes; `audit/compose.py` turns them into audit records.
Times are CLOCK_BOOTTIME nanoseconds; `cgroup` is the session's cgroup id; errno values positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True)
class Event:
    """Common to all: who acted and when. `count` is 1, or how many repeats this stands for."""

    time: int
    cgroup: int
    pid: int
    tid: int
    comm: str
    count: int


class FileOperation(Enum):
    OPEN = "open"
    UNLINK = "unlink"
    RENAME = "rename"
    LINK = "link"
    MKDIR = "mkdir"
    CHMOD = "chmod"
    TRUNCATE = "truncate"
    EXEC = "exec"  # a refused execve; one that succeeded is an ExecEvent
    RECEIVE = "receive"  # passed in over a unix socket, open already
    USE = "use"  # reading or writing what is open; told only where it was refused
    MAP = "map"  # a file mapped as code; told only where it was refused


@dataclass(frozen=True, slots=True)
class FileEvent(Event):
    """A file operation that returned. `errno` 0: it succeeded.

    `path` is resolved from the kernel's own objects where `claimed` is False (opens that
    succeeded, calls on a descriptor); where True it is the string the caller passed, made absolute:
    good for a record, never for a decision. `target` is the second name of a rename or link.
    `ioctl_only`: a refused open with access mode 3, which is for neither reading nor writing.
    `cause`: an LSM program refused it, and why; `rule` is then link << FILE_LINK_BITS | index in
    Policy.masks, for UNLISTED the link alone, else -1.
    """

    operation: FileOperation
    path: str
    target: str
    claimed: bool
    write: bool
    created: bool
    device: int
    inode: int
    errno: int
    ioctl_only: bool = False
    cause: DenyCause | None = None
    rule: int = -1


@dataclass(frozen=True, slots=True)
class ForkEvent(Event):
    child: int


@dataclass(frozen=True, slots=True)
class ExecEvent(Event):
    """`path` is the file the kernel runs, `argv` what it got.

    `truncated`: there was more, or none of it could be read (then `argv` is empty). `cause`: why it
    was killed before it ran.
    """

    path: str
    argv: tuple[str, ...]
    truncated: bool
    device: int
    inode: int
    cause: DenyCause | None = None


@dataclass(frozen=True, slots=True)
class ExitEvent(Event):
    """`status` is the wait(2) status: code << 8, or the signal number."""

    status: int


class NetOperation(Enum):
    SOCKET = "socket"
    CONNECT = "connect"
    SEND = "send"
    BIND = "bind"
    LISTEN = "listen"
    UNIX = "unix"


class DenyCause(Enum):
    """Why a cgroup program refused; NONE where it allowed."""

    NONE = 0
    RULE = 1  # a deny rule: `rule` names it
    UNLISTED = 2
    EXPIRED = 3
    DENY_ALL = 4  # revoked, or the session row is missing
    ROUTED = 5  # a packet with a source route, which goes elsewhere than was decided
    UNANSWERED = 6  # a rule asks, and nobody has approved it
    OVER_BUDGET = 7  # `rule` is the number of the budget (layout.BudgetKind)
    CONDITION = 8  # a condition of the session does not hold
    NO_TICKET = 9  # a program that was not the one decided on; killed before it ran
    UNHELD = 10  # a unix name that the session may redirect, and that it went to by itself


@dataclass(frozen=True, slots=True)
class NetEvent(Event):
    """A socket action. `address` is text (IPv4 for v4-mapped), or the unix socket's name.

    `cause` NONE: allowed by `rule`. `policy` is the kernel's policy id of the link that decided
    and `rule` its index in Policy.rules (-1: none). `observed`: would have been refused, was let
    pass because the session runs under --observe.
    """

    operation: NetOperation
    family: int
    type: int
    protocol: int
    address: str
    port: int
    cause: DenyCause
    observed: bool
    policy: int
    rule: int


@dataclass(frozen=True, slots=True)
class LabelEvent(Event):
    """A connection or message that earned the label whose kernel policy id is `policy`.

    `rule` is the index, in Policy.rules of the link, of the rule that gives it.
    """

    operation: NetOperation
    protocol: int
    address: str
    port: int
    policy: int
    rule: int


class HelloFault(Enum):
    """Why a TLS hello was refused (layout.Tls)."""

    PLAIN = "plain"  # no hello at all
    BROKEN = "broken"  # one that servers may read in different ways
    NAMELESS = "nameless"
    OTHER = "other"  # a name that the session was not told the address for
    URGENT = "urgent"  # urgent data
    SHARED = "shared"  # bytes that the sender can still change


@dataclass(frozen=True, slots=True)
class HelloEvent(Event):
    """What a connection began with whose rule names a host; it was cut, unless `observed`.

    `name` is what it asked for, "" where none was read. `policy` and `rule` as in NetEvent, of the
    rule that names the host. Who connected is told of; another may have sent.
    """

    address: str
    port: int
    own_port: int
    name: str
    fault: HelloFault
    observed: bool
    policy: int
    rule: int


@dataclass(frozen=True, slots=True)
class SyscallEvent(Event):
    """A system call the floor refused: its number, its arguments, the errno it returned."""

    number: int
    arguments: tuple[int, ...]
    errno: int


AnyEvent = (
    FileEvent
    | ForkEvent
    | ExecEvent
    | ExitEvent
    | NetEvent
    | LabelEvent
    | HelloEvent
    | SyscallEvent
)

# SPDX-License-Identifier: Apache-2.0
"""Actions an agent takes, and the verdicts that are given on them.

An action is (session, verb, object). These types carry kernel facts only: resolved paths,
addresses as the kernel holds them, the argv a program really got. Paths are `str` decoded with
`os.fsdecode`, so that every byte sequence a file name can hold survives the round trip.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Verdict(Enum):
    """What is decided about one action. Order of strength: kill, deny, ask, allow."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"
    KILL = "kill"
    # What an observed session (`ri-exec --observe`) would have been denied.
    WOULD_DENY = "would-deny"


class Verb(Enum):
    """The verbs of records; an action's verb says which kind of object it has."""

    FILE_OPEN = "file.open"  # opened for reading only
    FILE_WRITE = "file.write"  # opened for writing, created or truncated
    FILE_UNLINK = "file.unlink"  # a name removed: unlink, rmdir
    FILE_RENAME = "file.rename"
    FILE_LINK = "file.link"  # a new name for what exists: link, symlink
    FILE_MKDIR = "file.mkdir"  # a new directory, device node, fifo or socket name
    FILE_CHMOD = "file.chmod"  # mode, owner, extended attributes
    FILE_TRUNCATE = "file.truncate"
    FILE_RECEIVE = "file.receive"  # what was open already, passed in over a unix socket
    PROC_FORK = "proc.fork"
    PROC_EXEC = "proc.exec"
    PROC_EXIT = "proc.exit"
    PROC_SIGNAL = "proc.signal"
    NET_SOCKET = "net.socket"
    NET_CONNECT = "net.connect"
    NET_SEND = "net.send"  # a datagram to a named destination, without connect
    NET_BIND = "net.bind"
    NET_LISTEN = "net.listen"
    NET_TLS = "net.tls"  # what a connection to a host by name begins with
    NET_UNIX = "net.unix"  # connect or send to a unix socket's name
    NET_RESOLVE = "net.resolve"  # a host name looked up
    SYSCALL = "syscall"  # a system call that the floor refuses
    # What the daemon itself records.
    SESSION_LAUNCH = "session.launch"
    SESSION_END = "session.end"
    SESSION_STATE = "session.state"  # frozen, thawed, killed, expired
    SESSION_LOST = "session.lost"  # records that were dropped under load
    GRANT_MAKE = "grant.make"
    GRANT_REVOKE = "grant.revoke"
    ASK_RAISE = "ask.raise"  # an action is held until somebody answers
    ASK_ANSWER = "ask.answer"
    LABEL_EARN = "label.earn"
    LABEL_REMOVE = "label.remove"
    PROFILE_CHANGE = "profile.change"  # a running session goes on under another plan
    SIGNAL = "signal"  # what another system says about an agent or a principal
    DAEMON_START = "daemon.start"
    DAEMON_GAP = "daemon.gap"  # the time in which no daemon was reading
    DAEMON_REPAIR = "daemon.repair"  # put right what another program had changed


class Mechanism(Enum):
    """Which part of the system gave a verdict, or would give it."""

    SECCOMP = "seccomp"
    LANDLOCK = "landlock"
    VIEW = "view"  # the session's private mount namespace
    CGROUP_BPF = "cgroup-bpf"
    LSM = "lsm"  # a BPF program of the kernel's security hooks
    NFTABLES = "nftables"  # the session's packet rules
    PIDS = "pids"
    GATE = "gate"  # the action waited for the daemon's answer
    FANOTIFY = "fanotify"  # an open that waited for it
    TICKET = "ticket"  # the program that started is not the one that was decided on
    BUDGET = "budget"
    RESOLVER = "resolver"  # the daemon's own, which sessions' questions go to
    DAEMON = "daemon"
    HOST = "host"  # not ours: the host's own permissions refused it
    NONE = "none"


@dataclass(frozen=True, slots=True)
class FileAction:
    """`verb` is one of the FILE_* verbs; `target` is the second name of a rename or link."""

    verb: Verb
    path: str
    target: str | None = None


@dataclass(frozen=True, slots=True)
class ExecAction:
    """A program start: the file that runs and the arguments it really got."""

    path: str
    argv: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetAction:
    """NET_CONNECT, NET_SEND or NET_BIND. IPv4-mapped addresses are given as IPv4.

    `protocol` is the IP protocol number (6 TCP, 17 UDP), from `uapi/linux/in.h`.
    """

    verb: Verb
    address: IPAddress
    port: int
    protocol: int


@dataclass(frozen=True, slots=True)
class SocketAction:
    """socket(2): `family` AF_*, `type` SOCK_* without its flag bits, `protocol` as asked for."""

    family: int
    type: int
    protocol: int


@dataclass(frozen=True, slots=True)
class UnixAction:
    """Connect or send to a unix socket; an abstract name starts with `@`."""

    path: str


@dataclass(frozen=True, slots=True)
class SyscallAction:
    """A system call by its x86_64 number, with its six register arguments."""

    number: int
    arguments: tuple[int, ...] = ()


Action = FileAction | ExecAction | NetAction | SocketAction | UnixAction | SyscallAction


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a rule is written: `profile` is its name, `source` its file, `line` counts from 1.

    `section` is the dotted key (`files.read`); `text` is the rule as the person wrote it, and `why`
    what they gave as its reason. A built-in rule of the floor has source "built in" and line 0.
    """

    profile: str
    section: str
    text: str
    source: str
    line: int
    why: str = ""

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        return f"{self.section}: {self.text} ({place})"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with its reason: which link (0 is the outermost) and which rule decided.

    `rule` is None where nothing listed the object. `reason` is one line a person or a model can
    act on; `remedy` the smallest change to the profile that would allow it, or "" where none may.
    """

    verdict: Verdict
    reason: str
    mechanism: Mechanism
    link: int | None = None
    rule: Origin | None = None
    remedy: str = ""

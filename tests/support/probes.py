# SPDX-License-Identifier: Apache-2.0
"""The probes without a daemon: an instance of their own, policies by hand, processes in cgroups."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import pickle
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from monitor.daemon.probes import pins
from monitor.daemon.probes.ring import RingReader
from monitor.daemon.probes.tables import KernelTables
from monitor.kernel.cgroup import Cgroup, instance_root
from monitor.policy.action import Origin, Verdict
from monitor.policy.plan import (
    Budgets,
    Label,
    NetPrefix,
    Policy,
    PortRange,
    SocketRule,
    UnixRule,
)
from monitor.wire.events import AnyEvent
from monitor.wire.layout import SessionFlag
from tests.support.checkout import ROOT
from tests.support.daemon import PYTHON, wait_until

T = TypeVar("T")

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
CLONE_NEWNET = 0x40000000  # uapi/linux/sched.h
# What programs that speak TCP and UDP may make.
INTERNET = tuple(
    SocketRule(family, kind, protocol)
    for family in (socket.AF_INET, socket.AF_INET6)
    for kind, protocol in ((socket.SOCK_STREAM, TCP), (socket.SOCK_DGRAM, UDP))
)

libc = ctypes.CDLL(None, use_errno=True)


def ports(first: int, last: int | None = None, *, protocol: int = TCP, allow: bool = True,
          ask: bool = False, rule: int = 0, label: int = -1) -> PortRange:  # fmt: skip
    """A range of ports; one port where `last` is left out."""
    verdict = Verdict.ALLOW if allow else Verdict.DENY
    verdict = Verdict.ASK if ask else verdict
    return PortRange(protocol, first, first if last is None else last, verdict, rule, label)


def policy(
    connect: Sequence[tuple[str, Sequence[PortRange]]] = (),
    bind: Sequence[tuple[str, Sequence[PortRange]]] = (),
    unix: Sequence[str] = (),
    sockets: Sequence[SocketRule] = INTERNET,
    labels: Sequence[Label] = (),
    budgets: Budgets = Budgets(),  # noqa: B008 - it is frozen
) -> Policy:
    """A policy by hand; networks as NetPrefix takes them, IPv4 written `::ffff:a.b.c.d/N`."""
    return Policy(
        profile="by-hand",
        digest="0" * 32,
        files=(),
        masks=(),
        connect=tuple(NetPrefix(network, tuple(ranges)) for network, ranges in connect),
        bind=tuple(NetPrefix(network, tuple(ranges)) for network, ranges in bind),
        unix=tuple(UnixRule(path, number) for number, path in enumerate(unix)),
        sockets=tuple(sockets),
        rules=tuple(Origin("by-hand", "network", f"rule {n}", "by hand", n + 1) for n in range(64)),
        labels=tuple(labels),
        budgets=budgets,
    )


def label(name: str, narrowed: Policy | None) -> Label:
    """A label by hand that takes away all that `narrowed` does not allow."""
    origin = Origin("by-hand", "labels", name, "by hand", 1)
    return Label(name, (), (), narrowed, (), False, origin)


def boottime(seconds: float = 0.0) -> int:
    """CLOCK_BOOTTIME nanoseconds, `seconds` from now."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9)


class Governed(Cgroup):
    """A session's cgroup, with its row in force."""

    def __init__(
        self, cgroup: Cgroup, policy_ids: tuple[int, ...], label_ids: tuple[int, ...]
    ) -> None:
        super().__init__(cgroup.path)
        self.policy_ids = policy_ids
        self.label_ids = label_ids


class Probes:
    """The probes of one instance, its tables and its reader."""

    def __init__(self) -> None:
        self.instance = f"rit{secrets.token_hex(4)}"
        self.root = Cgroup(instance_root(self.instance))
        self._policy_ids = itertools.count(1)
        self._names = itertools.count(1)
        try:
            self.load()
        except BaseException:
            self._remove()
            raise
        self.tables = KernelTables(self.instance)
        self.tables.open()
        self.reader = RingReader(self.instance)
        self.reader.open()

    def load(self, before: str = "") -> str:
        """Run the loader, in a process of its own because LLVM stays in memory; what it printed.

        `before` is Python that changes it first, for another version of the probes.
        """
        script = (
            f"from monitor.daemon.probes import loader\n{before}\nraise SystemExit(loader.main())"
        )
        done = subprocess.run(
            [PYTHON, "-c", script, "--instance", self.instance, "--cgroup", self.root.path],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,  # in an emulated guest it compiles for minutes
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cgroup(self, parent: Cgroup | None = None) -> Cgroup:
        """A new cgroup under the instance's root, without a session row."""
        made = Cgroup((parent or self.root).path / f"s{next(self._names)}")
        made.create()
        return made

    def session(
        self, *policies: Policy, expires: int = 0, flags: SessionFlag = SessionFlag.NONE
    ) -> Governed:
        """A new cgroup under `policies`, outermost first."""
        cgroup = self.cgroup()
        numbered = [(next(self._policy_ids), each) for each in policies]
        labels = tuple(next(self._policy_ids) for each in policies for _label in each.labels)
        self.tables.install(cgroup.id, numbered, expires, flags, labels)
        return Governed(cgroup, tuple(number for number, _policy in numbered), labels)

    def end(self, cgroup: Cgroup) -> None:
        """Kill what runs in `cgroup`, take its row and itself away."""
        identity = cgroup.id
        cgroup.kill()
        assert cgroup.wait("populated", False, 10)
        self.tables.remove(identity)
        for nested in filter(lambda path: path.is_dir(), cgroup.path.iterdir()):
            nested.rmdir()
        cgroup.remove()

    @contextmanager
    def running(self, *policies: Policy, **more: Any) -> Iterator[Governed]:
        """A session for the length of a `with`."""
        session = self.session(*policies, **more)
        try:
            yield session
        finally:
            self.end(session)

    def events(self, cgroup: Cgroup | None = None) -> list[AnyEvent]:
        """What was recorded since the last call, of one cgroup or of all."""
        events: list[AnyEvent] = []
        while True:
            events += self.reader.drain()
            if not self.reader.pending:
                break
        return [event for event in events if cgroup is None or event.cgroup == cgroup.id]

    def rows(self) -> dict[str, int]:
        """How many rows each of the tables holds."""
        return {
            name: sum(1 for _key in table)
            for name, table in self.tables._maps.items()
            if name != "lost"
        }

    def clean(self) -> None:
        """Leave nothing of the instance on the host."""
        self.reader.close()
        self.tables.close()
        self._remove()

    def _remove(self) -> None:
        (self.root.path / "cgroup.kill").write_text("1")
        wait_until(lambda: not self.root.populated())
        for folder in sorted(self.root.path.rglob("*/"), reverse=True):
            folder.rmdir()
        self.root.path.rmdir()
        shutil.rmtree(pins.instance_folder(self.instance), ignore_errors=True)


# -- processes in a cgroup -------------------------------------------------------------------------


class Inside:
    """A forked process that runs `action` in a cgroup; its result comes back pickled."""

    def __init__(self, cgroup: Cgroup | None, action: Callable[[], object]) -> None:
        self._result, write_end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(cgroup, action, write_end)
        os.close(write_end)

    @staticmethod
    def _run(cgroup: Cgroup | None, action: Callable[[], object], write_end: int) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        try:
            if cgroup is not None:
                (cgroup.path / "cgroup.procs").write_text("0")
            answer = (True, action())
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(write_end, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)

    def result(self) -> Any:
        """What the action returned; AssertionError with its traceback where it raised."""
        with os.fdopen(self._result, "rb") as file:
            data = file.read()
        os.waitpid(self.pid, 0)
        assert data, "the process was killed before it answered"
        worked, value = pickle.loads(data)
        assert worked, value
        return value

    def reap(self) -> int:
        """Wait for a process whose answer does not matter; its wait status."""
        os.close(self._result)
        return os.waitpid(self.pid, 0)[1]


def inside(cgroup: Cgroup | None, action: Callable[[], T]) -> T:
    """What `action` returns in a forked process in `cgroup` (None: outside of all sessions)."""
    return Inside(cgroup, action).result()  # type: ignore[no-any-return]


def enter_network() -> None:
    """Give this process a network of its own, in which 10/8 and fd00::/8 are on loopback too."""
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    for command in (
        "link set lo up",
        "route add local 10.0.0.0/8 dev lo",
        "-6 route add local fd00::/8 dev lo",
        "-6 addr add fd00:1::1/128 dev lo nodad",
    ):
        subprocess.run(["ip", *command.split()], check=True)


# -- system calls, whose answer is an errno (0: done) ----------------------------------------------


def attempt(action: Callable[[], object]) -> int:
    """The errno that `action` fails with, 0 where it does not."""
    try:
        action()
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or -1
    return 0


def sockaddr(address: str, port: int, family: int | None = None) -> bytes:
    """A struct sockaddr_in or sockaddr_in6; `family` in place of the true one."""
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
        kind = socket.AF_INET6 if family is None else family
        return struct.pack("=H2sI16sI", kind, port.to_bytes(2, "big"), 0, packed, 0)
    packed = socket.inet_pton(socket.AF_INET, address)
    kind = socket.AF_INET if family is None else family
    return struct.pack("=H2s4s8x", kind, port.to_bytes(2, "big"), packed)


def sockaddr_un(name: bytes) -> bytes:
    """A struct sockaddr_un of exactly `name`: no NUL is added."""
    return struct.pack("=H", socket.AF_UNIX) + name


def _answer(result: int) -> int:
    return ctypes.get_errno() if result < 0 else 0


def raw_connect(sock: socket.socket, address: bytes) -> int:
    return _answer(libc.connect(sock.fileno(), address, len(address)))


def raw_bind(sock: socket.socket, address: bytes) -> int:
    return _answer(libc.bind(sock.fileno(), address, len(address)))


def raw_sendto(sock: socket.socket, address: bytes, data: bytes = b"x", flags: int = 0) -> int:
    return _answer(libc.sendto(sock.fileno(), data, len(data), flags, address, len(address)))


class IoVector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_char_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    """struct mmsghdr with its struct msghdr in place."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(IoVector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int64),  # an int, and padding to the end of struct msghdr
        ("sent", ctypes.c_uint32),
    ]


def raw_sendmmsg(sock: socket.socket, addresses: Sequence[bytes]) -> tuple[int, int]:
    """One datagram to each of `addresses`: (how many were sent, errno of the first refused)."""
    vector = IoVector(b"x", 1)
    messages = (Message * len(addresses))(
        *(Message(each, len(each), ctypes.pointer(vector), 1) for each in addresses)
    )
    result = libc.sendmmsg(sock.fileno(), messages, len(addresses), 0)
    return max(result, 0), _answer(result)

# SPDX-License-Identifier: Apache-2.0
"""What a look-up through the resolver costs, and how many it answers: `python -m bench.resolver`.

A name server, the resolver's process, and programs in cgroups whose questions are redirected. Each
answer is checked: the address is made of the name.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitor.daemon.resolver import channel
from monitor.daemon.resolver.listening import listen
from monitor.kernel.cgroup import Cgroup
from monitor.resolver.names import parse
from tests.support.dns_redirect import Redirect

SESSIONS = 20
PER_SECOND = 2000  # of all sessions together
SECONDS = 10.0
NAMES = 50  # different ones that a session asks for in turn
LOOKUPS = 500  # for the latency
SERVER = "192.0.2.53"  # what the programs think they ask
_HEADER = struct.Struct(">HHHHHH")


def address_of(labels: bytes) -> bytes:
    """A public address made of a name, in lower case."""
    return b"\x5d" + zlib.crc32(labels.lower()).to_bytes(4, "big")[:3]


def message(number: int, name: str) -> bytes:
    labels = b"".join(bytes((len(each),)) + each.encode() for each in name.split("."))
    return _HEADER.pack(number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"


def serve(sock: socket.socket) -> None:
    """A name server that knows every name, with a TTL of a minute."""
    while True:
        data, peer = sock.recvfrom(4096)
        end = data.index(0, _HEADER.size) + 5
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + address_of(data[_HEADER.size : end - 4])
        sock.sendto(
            data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[_HEADER.size : end] + answer, peer
        )


def look_up(sock: socket.socket, number: int, name: str) -> bool:
    """Whether the answer came and is right."""
    asked = message(number, name)
    sock.send(asked)
    try:
        data = sock.recv(4096)
    except TimeoutError:
        return False
    return (
        data[:2] == asked[:2]
        and data[_HEADER.size : len(asked)] == asked[_HEADER.size :]
        and data[-4:] == address_of(asked[_HEADER.size : -4])
    )


def connect(server: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(4)
    sock.connect(server)
    return sock


@dataclass(frozen=True, slots=True)
class Load:
    """What one program of a session saw."""

    asked: int
    wrong: int
    milliseconds: list[float]


def load(session: int, rate: float, seconds: float) -> Load:
    """Ask at `rate`, each time from a new socket, as programs do."""
    asked = wrong = 0
    taken = []
    begin = time.perf_counter()
    while (now := time.perf_counter()) < begin + seconds:
        due = begin + asked / rate
        if due > now:
            time.sleep(due - now)
        start = time.perf_counter()
        with connect((SERVER, 53)) as sock:
            name = f"n{asked % NAMES}.s{session % 5}.example.org"
            wrong += not look_up(sock, asked & 0xFFFF, name)
        taken.append((time.perf_counter() - start) * 1000)
        asked += 1
    return Load(asked, wrong, taken)


class Resolver:
    """The resolver's process; here is its daemon, which allows everything."""

    def __init__(self, redirect: Redirect, upstream: int) -> None:
        self.sockets = [*listen("127.0.0.1"), *listen("::1")]
        redirect.to(self.sockets[0].getsockname()[1], self.sockets[2].getsockname()[1])
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.prepare(self.control)
        flows = redirect._module["flows"].map_fd
        numbers = [each.fileno() for each in self.sockets]
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "monitor.daemon.resolver.process"),
                *("--control", str(theirs.fileno()), "--flows", str(flows)),
                *("--listen", *map(str, numbers), "--upstream", f"127.0.0.1:{upstream}"),
            ],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
            pass_fds=[theirs.fileno(), flows, *numbers],
        )
        theirs.close()
        threading.Thread(target=self._allow, daemon=True).start()

    def _allow(self) -> None:
        while data := self.control.recv(channel.LARGEST):
            if data.startswith(b'{"say":"allow"'):
                number = channel.decode(data)["number"]
                self.say({"do": "answer", "number": number, "error": None})

    def say(self, what: dict[str, Any]) -> None:
        self.control.send(channel.encode(what))

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.control.shutdown(socket.SHUT_RDWR)
        self._process.wait(5)
        self.control.close()
        for each in self.sockets:
            each.close()


def in_cgroup(cgroup: Cgroup | None, action: Any, *arguments: Any) -> tuple[int, int]:
    """(pid, descriptor that its result can be read from) of `action` in a process of its own."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write_end)
        return pid, read_end
    try:
        if cgroup is not None:
            (cgroup.path / "cgroup.procs").write_text("0")
        with os.fdopen(write_end, "w") as file:
            json.dump(action(*arguments), file)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)  # nothing of the parent's is this one's to clean up


def result(pid: int, read_end: int) -> Any:
    with os.fdopen(read_end) as file:
        text = file.read()
    os.waitpid(pid, 0)
    if not text:
        raise SystemExit(1)
    return json.loads(text)


def latencies(direct: int) -> dict[str, list[float]]:
    """Milliseconds of look-ups in turn: at the name server, at the resolver, and there again."""
    taken: dict[str, list[float]] = {"direct": [], "first": [], "again": []}
    with connect(("127.0.0.1", direct)) as server, connect((SERVER, 53)) as resolver:
        for number in range(LOOKUPS):
            name = f"l{number}.example.org"
            for which, sock in (("direct", server), ("first", resolver), ("again", resolver)):
                start = time.perf_counter()
                right = look_up(sock, number & 0xFFFF, name)
                taken[which].append((time.perf_counter() - start) * 1000)
                if not right:
                    raise RuntimeError(f"{name}: a wrong answer or none, asked {which}")
            time.sleep(0.011)  # below the limit of questions a second
    return taken


@contextmanager
def name_server() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", 0))
        pid = os.fork()
        if pid == 0:
            serve(sock)
        try:
            yield sock.getsockname()[1]
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def percentile(values: Sequence[float], which: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[which - 1]


@dataclass(frozen=True, slots=True)
class Found:
    """Milliseconds that a look-up adds at p50, the first time; and of the load what went wrong."""

    added: float
    wrong: int
    per_second: float


def measure() -> Found:
    """All of it, printed as well."""
    with ExitStack() as stack:
        redirect = Redirect()
        stack.callback(redirect.clean)
        upstream = stack.enter_context(name_server())
        resolver = Resolver(redirect, upstream)
        stack.callback(resolver.close)
        sessions = [redirect.session() for _number in range(SESSIONS)]
        links = [[parse("**.example.org:443")]]
        for number, cgroup in enumerate(sessions):
            resolver.say(channel.session_message(f"s-{number}", cgroup.id, links))
        resolver.say({"do": "start"})

        taken = result(*in_cgroup(sessions[0], latencies, upstream))
        p50 = {which: statistics.median(values) for which, values in taken.items()}
        for which, value in p50.items():
            p99 = percentile(taken[which], 99)
            print(f"{which:8} p50 {value:.3f} ms, p99 {p99:.3f} ms")
        added = {which: p50[which] - p50["direct"] for which in ("first", "again")}
        print(f"added    p50 {added['first']:.3f} ms first, {added['again']:.3f} ms again")

        before, begin = resolver.processor_seconds(), time.perf_counter()
        running = [
            in_cgroup(cgroup, _loaded, number, PER_SECOND / SESSIONS, SECONDS)
            for number, cgroup in enumerate(sessions)
        ]
        seen = [Load(*result(*each)) for each in running]
        seconds = time.perf_counter() - begin
        busy = (resolver.processor_seconds() - before) / seconds
        asked, wrong = sum(each.asked for each in seen), sum(each.wrong for each in seen)
        all_taken = [value for each in seen for value in each.milliseconds]
        p50_loaded, p99 = statistics.median(all_taken), percentile(all_taken, 99)
        print(
            f"{SESSIONS} sessions: {asked / seconds:.0f} look-ups a second, {wrong} lost or wrong,"
            f" p50 {p50_loaded:.2f} ms, p99 {p99:.2f} ms, resolver {busy:.0%} of a processor"
        )
    return Found(added["first"], wrong, asked / seconds)


def main() -> int:
    return 1 if measure().wrong else 0


def _loaded(session: int, rate: float, seconds: float) -> list[Any]:
    seen = load(session, rate, seconds)
    return [seen.asked, seen.wrong, seen.milliseconds]


if __name__ == "__main__":
    raise SystemExit(main())

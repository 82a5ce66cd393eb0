# SPDX-License-Identifier: Apache-2.0
"""Network rules of a real session: connect, send, bind, listen, unix sockets, kinds of sockets."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.sides import Case, area, check, last_session, records_of, take

EPERM, EACCES = errno.EPERM, errno.EACCES


@dataclass(frozen=True)
class Peers:
    """Listeners outside of all sessions: of each kind the profile lists the first only.

    Of `tcp` the second is listed and denied.
    """

    tcp: tuple[int, int, int]
    tcp6: tuple[int, int]
    udp: tuple[int, int]
    free: tuple[int, int]
    path: tuple[Path, Path]
    abstract: tuple[str, str]


@pytest.fixture(scope="module")
def peers(daemon: Daemon) -> Iterator[Peers]:
    with ExitStack() as stack, area(daemon.user) as folder:

        def listener(family: int, kind: int, address: object) -> socket.socket:
            sock = stack.enter_context(socket.socket(family, kind))
            sock.bind(address)  # type: ignore[arg-type]
            if kind == socket.SOCK_STREAM:
                sock.listen(64)
            return sock

        def two(family: int, kind: int, host: str) -> tuple[int, int]:
            first, second = (listener(family, kind, (host, 0)) for _ in range(2))
            return first.getsockname()[1], second.getsockname()[1]

        third = listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)).getsockname()[1]
        free = []
        for _ in range(2):
            with socket.socket() as sock:
                sock.bind(("127.0.0.1", 0))
                free.append(sock.getsockname()[1])
        token = secrets.token_hex(4)
        made = Peers(
            tcp=(*two(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1"), third),
            tcp6=two(socket.AF_INET6, socket.SOCK_STREAM, "::1"),
            udp=two(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1"),
            free=(free[0], free[1]),
            path=(folder / "listed", folder / "unlisted"),
            abstract=(f"@ri-{token}-listed", f"@ri-{token}-unlisted"),
        )
        for path in made.path:
            listener(socket.AF_UNIX, socket.SOCK_STREAM, str(path))
            path.chmod(0o777)
        for name in made.abstract:
            listener(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + name[1:])
        yield made


def rules(peers: Peers, *, bind: bool = True, unix: bool = True) -> str:
    lines = [
        "include: [base]",
        "network:",
        "  connect:",
        f"    - 127.0.0.0/8:{peers.tcp[0]},{peers.tcp[1]}",
        f"    - '[::1]:{peers.tcp6[0]}'",
        f"    - 127.0.0.1:{peers.udp[0]}/udp",
        "  deny:",
        f"    - 127.0.0.1:{peers.tcp[1]}",
    ]
    if bind:
        lines += ["  bind:", f"    - 127.0.0.1:{peers.free[0]}", f"    - any:{peers.free[0]}/udp"]
    if unix:
        lines += ["  unix:", f"    - {peers.path[0]}", f"    - '{peers.abstract[0]}'"]
    return "\n".join(lines) + "\n"


def refused(name: str, code: str, verb: str, what: str, rule: str = "") -> Case:
    return Case(name, code, EPERM, verb, what, "cgroup-bpf", rule)


def cases(p: Peers) -> list[Case]:
    allow, deny = "network.connect", "network.deny"
    one, other, third = p.tcp
    return [
        Case("tcp", f"connect('127.0.0.1', {one})", 0, "net.connect", f"127.0.0.1:{one}/tcp",
             rule=allow),
        refused("tcp denied", f"connect('127.0.0.1', {other})", "net.connect",
                f"127.0.0.1:{other}/tcp", deny),
        Case("tcp beside the denied", f"connect('127.0.0.2', {one})", errno.ECONNREFUSED),
        refused("tcp unlisted", f"connect('127.0.0.1', {third})", "net.connect",
                f"127.0.0.1:{third}/tcp"),
        Case("tcp6", f"connect('::1', {p.tcp6[0]})", 0, "net.connect", f"[::1]:{p.tcp6[0]}/tcp",
             rule=allow),
        refused("tcp6 unlisted", f"connect('::1', {p.tcp6[1]})", "net.connect",
                f"[::1]:{p.tcp6[1]}/tcp"),
        Case("mapped", f"connect('::ffff:127.0.0.1', {one})"),
        refused("mapped denied", f"connect('::ffff:127.0.0.1', {other})", "net.connect",
                f"127.0.0.1:{other}/tcp", deny),
        Case("udp", f"send('127.0.0.1', {p.udp[0]})", 0, "net.send",
             f"127.0.0.1:{p.udp[0]}/udp", rule=allow),
        refused("udp unlisted", f"send('127.0.0.1', {p.udp[1]})", "net.send",
                f"127.0.0.1:{p.udp[1]}/udp"),
        refused("udp connect", f"connect('127.0.0.1', {p.udp[1]}, socket.SOCK_DGRAM)",
                "net.connect", f"127.0.0.1:{p.udp[1]}/udp"),
        refused("fast open", f"""
sock = socket.socket()
sock.sendto(b"data", 0x20000000, ("127.0.0.1", {other}))""", "net.connect",
                f"127.0.0.1:{other}/tcp", deny),
        Case("bind and listen", f"bind('127.0.0.1', {p.free[0]}, listen=True)", 0, "net.bind",
             f"127.0.0.1:{p.free[0]}/tcp", rule="network.bind"),
        refused("bind unlisted", f"bind('127.0.0.1', {p.free[1]})", "net.bind",
                f"127.0.0.1:{p.free[1]}/tcp"),
        refused("bind everywhere", f"bind('0.0.0.0', {p.free[0]})", "net.bind",
                f"0.0.0.0:{p.free[0]}/tcp"),
        Case("bind udp", f"bind('::', {p.free[0]}, socket.SOCK_DGRAM)"),
        Case("unix", f"unix('{p.path[0]}')", 0, "net.unix", str(p.path[0]), rule="network.unix"),
        refused("unix unlisted", f"unix('{p.path[1]}')", "net.unix", str(p.path[1])),
        refused("unix another way", f"unix('/proc/self/root{p.path[0]}')", "net.unix",
                f"/proc/self/root{p.path[0]}"),
        refused("abstract unlisted", f"unix('\\0{p.abstract[1][1:]}')", "net.unix",
                p.abstract[1]),
        Case("socketpair", "socket.socketpair()"),
    ]  # fmt: skip


def test_each_use_of_the_network(daemon: Daemon, peers: Peers) -> None:
    table = cases(peers)
    always = {case.name: case for case in table if case.errno == errno.ECONNREFUSED}
    rest = [case for case in table if case.name not in always]
    name = daemon.profile("network", rules(peers))
    check(daemon, name, rest)
    assert take(daemon, name, always.values()).answers == {
        case.name: case.errno for case in always.values()
    }


def test_an_abstract_name_that_is_listed(daemon: Daemon, peers: Peers) -> None:
    """Landlock's scope would keep the session from it; a rule for it must be worth something."""
    table = [
        Case("listed", f"unix('\\0{peers.abstract[0][1:]}')", 0, "net.unix", peers.abstract[0],
             rule="network.unix"),
    ]  # fmt: skip
    check(daemon, daemon.profile("abstract", rules(peers)), table)


def made(name: str, family: str, kind: str, protocol: int, number: int) -> Case:
    return Case(name, f"socket.socket({family}, {kind}, {protocol}).close()", number)


def test_sockets_without_any_rule(daemon: Daemon) -> None:
    """No network section: no socket of the internet, of unix or of the kernel's own families."""
    table = [
        made("tcp", "socket.AF_INET", "socket.SOCK_STREAM", 0, errno.EPERM),
        made("udp", "socket.AF_INET", "socket.SOCK_DGRAM", 0, errno.EPERM),
        made("tcp6", "socket.AF_INET6", "socket.SOCK_STREAM", 0, errno.EPERM),
    ]
    governed = take(daemon, daemon.profile("none", "include: [base]\n"), table)
    assert set(governed.answers.values()) <= {errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT}
    denied = governed.matching(verb="net.socket", verdict="deny")
    assert len(denied) == len(table)
    assert {record["mechanism"] for record in denied} <= {"seccomp", "cgroup-bpf"}
    observed = take(daemon, "none", table, observe=True)
    assert set(observed.answers.values()) == {0}
    would = observed.matching(verb="net.socket", verdict="would-deny")
    assert len(would) == len(table)


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        pytest.param("socket.AF_INET", "socket.SOCK_DGRAM", 136, id="udp-lite"),
        pytest.param("socket.AF_INET", "socket.SOCK_STREAM", 262, id="mptcp"),
        pytest.param("socket.AF_INET", "socket.SOCK_RAW", 1, id="raw"),
        pytest.param("socket.AF_INET", "socket.SOCK_DGRAM", 1, id="icmp"),
        pytest.param("17", "socket.SOCK_RAW", 0, id="packet"),
        pytest.param("40", "socket.SOCK_STREAM", 0, id="vsock"),
        pytest.param("38", "socket.SOCK_SEQPACKET", 0, id="alg"),
        pytest.param("socket.AF_NETLINK", "socket.SOCK_RAW", 2, id="netlink usersock"),
        pytest.param("socket.AF_BLUETOOTH", "socket.SOCK_RAW", 1, id="bluetooth"),
    ],
)
def test_sockets_that_no_rule_can_mean(
    daemon: Daemon, peers: Peers, family: str, kind: str, protocol: int
) -> None:
    """The floor refuses them also under --observe; they are recorded with what was asked for."""
    name = daemon.profile("network", rules(peers))
    code = f"socket.socket({family}, {kind}, {protocol}).close()"
    for observe in (False, True):
        run = take(daemon, name, [Case("it", code)], observe=observe)
        assert run.answers["it"] in {EPERM, EACCES, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}
        denied = [
            record
            for record in run.records
            if record["verb"] in {"net.socket", "syscall"} and record["verdict"] == "deny"
        ]
        assert [record["mechanism"] for record in denied] == ["seccomp"]


def test_listening_needs_a_bind_rule(daemon: Daemon, peers: Peers) -> None:
    listen = Case("listen", "sock = socket.socket()\nsock.listen()")
    without = daemon.profile("no-bind", rules(peers, bind=False))
    run = take(daemon, without, [listen])
    assert run.answers["listen"] in {EPERM, EACCES}
    denied = run.matching(verdict="deny")
    assert [(record["verb"], record["mechanism"]) for record in denied] == [
        ("net.listen", "seccomp")
    ]
    observed = take(daemon, without, [listen], observe=True)
    assert observed.answers["listen"] == 0
    assert [record["verdict"] for record in observed.matching(verb="net.listen")] == ["would-deny"]


LISTEN = """
import socket
with socket.socket() as sock:
    sock.listen()
    sock.settimeout(1.5)
    print(sock.getsockname()[1], flush=True)
    try:
        sock.accept()
        print("came in")
    except TimeoutError:
        print("nobody")
"""


@pytest.mark.parametrize("observe", [False, True], ids=["governed", "observed"])
def test_nobody_comes_in_by_a_port_that_no_rule_binds(
    daemon: Daemon, peers: Peers, observe: bool
) -> None:
    """With bind rules listen(2) is let; on a socket that was never bound it is of no use."""
    name = daemon.profile("network", rules(peers))
    command = ["/usr/bin/python3", "-I", "-S", "-c", LISTEN]
    process = daemon.spawn(name, command, observe=observe)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    with socket.socket() as peer:
        peer.settimeout(0.5)
        reached = peer.connect_ex(("127.0.0.1", port)) == 0
    printed, _errors = process.communicate(timeout=20)
    assert reached is observe
    assert printed == ("came in\n" if observe else "nobody\n")
    records = records_of(daemon, last_session(daemon))
    # Governed, the packet rules come first, and see the address that the peer called.
    address = "0.0.0.0" if observe else "127.0.0.1"  # noqa: S104 - a record's text
    about = [
        (record["verdict"], record["mechanism"], record["pid"])
        for record in records
        if record["verb"] == "net.bind" and record["object"] == f"{address}:{port}/tcp"
    ]
    expected = ("would-deny", "cgroup-bpf", 0) if observe else ("deny", "nftables", 0)
    assert set(about) == {expected}


def test_what_has_no_unix_rule_has_no_unix_socket(daemon: Daemon, peers: Peers) -> None:
    name = daemon.profile("no-unix", rules(peers, unix=False))
    table = [Case("unix", f"unix('{peers.path[0]}')", EPERM, "net.unix", str(peers.path[0]),
                  "cgroup-bpf")]  # fmt: skip
    check(daemon, name, table)


def test_addresses_that_no_wide_rule_reaches(daemon: Daemon) -> None:
    """`any` does not mean a cloud's metadata service: it is named by itself or refused."""
    wide = daemon.profile("wide", "include: [base]\nnetwork:\n  connect: ['any:*', 'any:*/udp']\n")
    targets = ["169.254.169.254", "100.100.100.200", "168.63.129.16"]
    table = [Case(host, f"send('{host}', 80)", EPERM) for host in targets]
    table.append(Case("loopback", "send('127.0.0.1', 9)"))
    run = take(daemon, wide, table)
    assert run.answers == {case.name: case.errno for case in table}
    denied = run.matching(verb="net.send", verdict="deny")
    assert [record["object"] for record in denied] == [f"{host}:80/udp" for host in targets]
    assert all("metadata" in record["reason"] or "credentials" in record["reason"]
               for record in denied)  # fmt: skip

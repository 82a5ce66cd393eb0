# SPDX-License-Identifier: Apache-2.0
"""Questions of a session reach the resolver whatever server it names, and seem answered by that.

Each way to ask runs with the redirection on and off: off, the servers named here do not exist.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import dns.message
import pytest

from monitor.daemon.resolver.flows import FRESH_SECONDS
from monitor.daemon.resolver.resolver import Peer
from monitor.daemon.resolver.upstreams import Upstream
from monitor.kernel.cgroup import Cgroup
from monitor.resolver.decision import Cause
from tests.support.dns import NameServer, question
from tests.support.dns_redirect import Redirect, Running
from tests.support.probes import Inside, attempt, inside

NAME, PUBLIC, PUBLIC6 = "api.example.org", "93.184.216.34", "2606:4700::1111"
# Documentation addresses: nobody answers there, here or elsewhere.
SERVER4, OTHER4, SERVER6 = "192.0.2.53", "192.0.2.54", "2001:db8::53"
MAPPED = f"::ffff:{SERVER4}"


@pytest.fixture(scope="module")
def redirect() -> Iterator[Redirect]:
    made = Redirect()
    yield made
    made.clean()


@pytest.fixture(scope="module")
def upstream() -> Iterator[NameServer]:
    made = NameServer()
    made.add(NAME, f"A {PUBLIC}", f"AAAA {PUBLIC6}")
    made.add("many.example.org", *(f"A 93.184.{number}.1" for number in range(90)))
    made.add("evil.example", f"A {PUBLIC}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(redirect: Redirect, upstream: NameServer) -> Iterator[Running]:
    made = Running(redirect, [Upstream("127.0.0.1", upstream.port)])
    yield made
    made.close()


@pytest.fixture(scope="module")
def session(redirect: Redirect, running: Running) -> Cgroup:
    made = redirect.session()
    running.govern(made, "s-1", "**.example.org:443")
    return made


def told(data: bytes) -> list[str]:
    return sorted(each.to_text() for part in dns.message.from_wire(data).answer for each in part)


def sock(family: int, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    made = socket.socket(family, kind)
    made.settimeout(2)
    return made


Answered = tuple[list[str], object, object]


def unconnected(family: int, server: str) -> Answered:
    with sock(family) as asking:
        asking.sendto(question(NAME), (server, 53))
        data, sender = asking.recvfrom(4096)
        return told(data), sender[:2], None


def connected(family: int, server: str) -> Answered:
    with sock(family) as asking:
        asking.connect((server, 53))
        asking.send(question(NAME))
        data, sender = asking.recvfrom(4096)
        return told(data), sender[:2], asking.getpeername()[:2]


def with_message(family: int, server: str) -> Answered:
    """sendmsg(2) and recvmsg(2), as c-ares and systemd do."""
    with sock(family) as asking:
        asking.sendmsg([question(NAME)], [], 0, (server, 53))
        data, _control, _flags, sender = asking.recvmsg(4096)
        return told(data), sender[:2], None


def bound(family: int, server: str) -> Answered:
    """From a port of the program's own choosing."""
    with sock(family) as asking:
        asking.bind(("127.0.0.1" if family == socket.AF_INET else "::", 0))
        asking.sendto(question(NAME), (server, 53))
        data, sender = asking.recvfrom(4096)
        return told(data), sender[:2], None


def stream(family: int, server: str) -> Answered:
    with sock(family, socket.SOCK_STREAM) as asking:
        asking.connect((server, 53))
        message = question(NAME)
        asking.sendall(struct.pack(">H", len(message)) + message)
        size = asking.recv(2)
        data = asking.recv(int.from_bytes(size, "big"))
        return told(data), asking.getpeername()[:2], asking.getpeername()[:2]


def fast_open(family: int, server: str) -> Answered:
    """A connection that sendto(2) makes, without connect(2)."""
    with socket.socket(family, socket.SOCK_STREAM) as asking:
        message = question(NAME)
        asking.sendto(struct.pack(">H", len(message)) + message, 0x20000000, (server, 53))
        size = asking.recv(2)
        data = asking.recv(int.from_bytes(size, "big"))
        return told(data), asking.getpeername()[:2], None


WAYS = [
    *(("unconnected", unconnected), ("connected", connected), ("with_message", with_message)),
    *(("bound", bound), ("stream", stream), ("fast_open", fast_open)),
]
SERVERS = {
    "IPv4": (socket.AF_INET, SERVER4),
    "IPv6": (socket.AF_INET6, SERVER6),
    "mapped": (socket.AF_INET6, MAPPED),
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("way", dict(WAYS))
def test_every_way_to_ask(running: Running, session: Cgroup, way: str, server: str) -> None:
    ask = dict(WAYS)[way]
    family, address = SERVERS[server]
    count = len(running.recorded)
    records, sender, peer = inside(session, lambda: ask(family, address))
    assert records == [PUBLIC]
    assert sender == (address, 53)
    assert peer in {None, (address, 53)}
    assert [each.session for each in running.recorded[count:]] == ["s-1"]
    protocol = 6 if way in {"stream", "fast_open"} else 17
    assert running.recorded[-1].peer.protocol == protocol


@pytest.mark.parametrize("server", SERVERS)
def test_without_the_redirection_nobody_answers(
    redirect: Redirect, running: Running, session: Cgroup, server: str
) -> None:
    family, address = SERVERS[server]

    def ask() -> str:
        try:
            return str(connected(family, address))
        except OSError as error:
            return type(error).__name__

    redirect.to(0, 0)
    try:
        assert "93.184" not in inside(session, ask)
    finally:
        redirect.to(running.port4, running.port6)
    assert "93.184" in inside(session, ask)
    assert "93.184" not in inside(None, ask)


def test_a_host_without_ipv6(redirect: Redirect, running: Running, session: Cgroup) -> None:
    redirect.to(running.port4, 0)
    try:
        assert inside(session, lambda: connected(socket.AF_INET, SERVER4))[0] == [PUBLIC]
        assert inside(session, lambda: connected(socket.AF_INET6, MAPPED))[0] == [PUBLIC]
        assert inside(session, lambda: attempt(lambda: connected(socket.AF_INET6, SERVER6)))
    finally:
        redirect.to(running.port4, running.port6)


def test_an_ipv4_address_on_an_ipv6_socket(session: Cgroup) -> None:
    """sendto(2) with a struct sockaddr_in, which IPv6 sockets take as well."""
    code = f"""
        import ctypes, socket, struct, sys
        libc = ctypes.CDLL(None, use_errno=True)
        asking = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        asking.settimeout(2)
        to = struct.pack("=H2s4s8x", socket.AF_INET, b"\\0\\x35", socket.inet_aton("{SERVER4}"))
        data = bytes.fromhex(sys.argv[1])
        assert libc.sendto(asking.fileno(), data, len(data), 0, to, len(to)) == len(data)
        print(asking.recvfrom(4096)[1][0])
        assert libc.connect(asking.fileno(), to, len(to)) == 0
        print(asking.getpeername()[0])
        asking.send(data)
        print(asking.recvfrom(4096)[1][0])
    """
    assert program(session, code, question(NAME).hex()).split() == [MAPPED] * 3


def test_two_servers_of_one_socket(session: Cgroup) -> None:
    """musl asks all servers from one socket, and takes what any of them sends."""

    def ask() -> list[object]:
        with sock(socket.AF_INET) as asking:
            seen = []
            for server in (SERVER4, OTHER4, SERVER4):
                asking.sendto(question(NAME), (server, 53))
                seen.append(asking.recvfrom(4096)[1])
            return seen

    assert inside(session, ask) == [(SERVER4, 53), (OTHER4, 53), (SERVER4, 53)]


def test_a_socket_of_both_families(session: Cgroup) -> None:
    """musl again: one IPv6 socket for servers of both."""

    def ask() -> list[object]:
        with sock(socket.AF_INET6) as asking:
            seen = []
            for server in (SERVER6, MAPPED, SERVER6):
                asking.sendto(question(NAME), (server, 53))
                seen.append(asking.recvfrom(4096)[1][0])
            return seen

    assert inside(session, ask) == [SERVER6, MAPPED, SERVER6]


def test_other_ports_are_left_alone(session: Cgroup) -> None:
    def ask() -> tuple[object, object]:
        with sock(socket.AF_INET) as server, sock(socket.AF_INET) as client:
            server.bind(("127.0.0.1", 0))
            client.sendto(question(NAME), (SERVER4, 53))
            client.recvfrom(4096)
            client.sendto(b"hello", server.getsockname())
            data, sender = server.recvfrom(100)
            server.sendto(data, sender)
            return client.recvfrom(100)[1], server.getsockname()

    assert len(set(inside(session, ask))) == 1


def test_who_asks_is_known_by_its_cgroup(redirect: Redirect, running: Running) -> None:
    """Also where the socket was handed over: it is of the session that made it."""
    one, two, unknown = redirect.session(), redirect.session(), redirect.session()
    running.govern(one, "one", f"{NAME}:443")
    running.govern(two, "two", "evil.example:443")

    def ask(name: str) -> list[str] | str:
        with sock(socket.AF_INET) as asking:
            asking.sendto(question(name), (SERVER4, 53))
            try:
                data = asking.recv(4096)
            except TimeoutError:
                return "nothing"
            return told(data) or str(dns.message.from_wire(data).rcode().name)

    assert inside(one, lambda: ask(NAME)) == [PUBLIC]
    assert inside(two, lambda: ask(NAME)) == "NXDOMAIN"
    assert inside(two, lambda: ask("evil.example")) == [PUBLIC]
    assert inside(one, lambda: ask("evil.example")) == "NXDOMAIN"
    assert inside(unknown, lambda: ask(NAME)) == "nothing"


def test_asking_the_resolver_itself_from_outside_is_not_answered(running: Running) -> None:
    with sock(socket.AF_INET) as asking:
        asking.settimeout(0.3)
        asking.sendto(question(NAME), ("127.0.0.1", running.port4))
        with pytest.raises(TimeoutError):
            asking.recv(4096)
    with sock(socket.AF_INET, socket.SOCK_STREAM) as asking:
        asking.connect(("127.0.0.1", running.port4))
        assert asking.recv(10) == b""
    assert running.recorded[-1].session is None


def test_a_port_that_changes_hands_is_its_new_owners(redirect: Redirect, running: Running) -> None:
    one, two = redirect.session(), redirect.session()
    running.govern(one, "one", f"{NAME}:443")
    running.govern(two, "two", "evil.example:443")
    with sock(socket.AF_INET) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ask() -> list[str]:
        with sock(socket.AF_INET) as asking:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            asking.bind(("127.0.0.1", port))
            asking.sendto(question(NAME), (SERVER4, 53))
            return told(asking.recv(4096))

    for _round in range(20):
        assert inside(one, ask) == [PUBLIC]
        assert inside(two, ask) == []


# -- programs, unchanged --------------------------------------------------------------------------


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver {SERVER4}\nnameserver {OTHER4}\noptions timeout:2 attempts:1\n")
    return path


def run(session: Cgroup | None, resolv_conf: Path, *command: str) -> str:
    """What `command` prints in the session, with a resolv.conf of its own."""

    def enter() -> None:
        if session is not None:
            (session.path / "cgroup.procs").write_text("0")

    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c",
         'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(resolv_conf), *command],
        preexec_fn=enter, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip() + (f" exit {done.returncode}" if done.returncode else "")


def program(session: Cgroup, code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]

    def enter() -> None:
        (session.path / "cgroup.procs").write_text("0")

    done = subprocess.run(command, preexec_fn=enter, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


NODE = f"""
const dns = require("dns").promises;
(async () => {{
  const both = [await dns.resolve4("{NAME}"), await dns.resolve6("{NAME}")];
  const none = await dns.resolve4("evil.example").catch(error => error.code);
  const looked = await dns.lookup("{NAME}", {{all: true}});
  const many = await dns.resolve4("many.example.org");
  console.log(JSON.stringify([both, none, looked.map(each => each.address).sort(), many.length]));
}})();
"""


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_glibc(session: Cgroup, resolv_conf: Path, server: str) -> None:
    resolv_conf.write_text(f"nameserver {server}\noptions timeout:2 attempts:1\n")
    listed = run(session, resolv_conf, "getent", "ahosts", NAME)
    assert {line.split()[0] for line in listed.splitlines()} == {PUBLIC, PUBLIC6}
    assert run(session, resolv_conf, "getent", "ahosts", "evil.example") == "exit 2".rjust(7)
    many = run(session, resolv_conf, "getent", "ahostsv4", "many.example.org")
    assert len({line.split()[0] for line in many.splitlines()}) == 90


def test_glibc_over_tcp_and_with_search_domains(session: Cgroup, resolv_conf: Path) -> None:
    resolv_conf.write_text(f"nameserver {SERVER4}\nsearch corp.example\noptions use-vc ndots:5\n")
    assert run(session, resolv_conf, "getent", "ahostsv4", NAME).startswith(PUBLIC)


def test_curl(session: Cgroup, resolv_conf: Path) -> None:
    """To a closed port of loopback: only the look-up matters here."""
    format_ = ["--write-out", "%{exitcode} %{errormsg}", "--silent", "--max-time", "3"]
    unknown = run(session, resolv_conf, "curl", *format_, "http://evil.example:9/")
    assert "Could not resolve host" in unknown


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_with_c_ares_and_without(session: Cgroup, resolv_conf: Path) -> None:
    both, none, looked, many = json.loads(run(session, resolv_conf, "node", "-e", NODE))
    assert both == [[PUBLIC], [PUBLIC6]]
    assert none == "ENOTFOUND"
    assert looked == [PUBLIC6, PUBLIC] or looked == sorted([PUBLIC, PUBLIC6])
    assert many == 90


JAVA = """
import java.net.InetAddress;
import java.util.Hashtable;
import javax.naming.directory.InitialDirContext;

public class Look {
    public static void main(String[] names) throws Exception {
        System.out.println(InetAddress.getByName(names[0]).getHostAddress());
        Hashtable<String, String> environment = new Hashtable<>();
        environment.put("java.naming.factory.initial", "com.sun.jndi.dns.DnsContextFactory");
        environment.put("java.naming.provider.url", "dns://SERVER");
        System.out.println(new InitialDirContext(environment)
            .getAttributes(names[0], new String[] {"A"}).get("A").get());
    }
}
"""


@pytest.mark.skipif(shutil.which("javac") is None, reason="no Java compiler is installed")
def test_java_with_its_own_resolver_and_without(session: Cgroup, resolv_conf: Path) -> None:
    source = resolv_conf.parent / "Look.java"
    source.write_text(JAVA.replace("SERVER", SERVER4))
    assert run(session, resolv_conf, "java", "-Xint", str(source), NAME).split() == [PUBLIC] * 2


@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")
def test_go_with_its_own_resolver(session: Cgroup, resolv_conf: Path) -> None:
    source = resolv_conf.parent / "look.go"
    source.write_text(
        'package main\nimport ("fmt"; "net"; "os")\n'
        "func main() { a, e := net.LookupHost(os.Args[1]); fmt.Println(a, e) }\n"
    )
    built = resolv_conf.parent / "look"
    subprocess.run(["go", "build", "-o", built, source], check=True, timeout=120)
    pure = ["env", "GODEBUG=netdns=go", str(built)]
    found = run(session, resolv_conf, *pure, NAME)
    assert PUBLIC in found


MUSL = {"musl-gcc": ["musl-gcc"], "zig": ["zig", "cc", "-target", "x86_64-linux-musl"]}
LOOK = """
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **names)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *each;
    char text[64];
    int error = count < 2 || getaddrinfo(names[1], "443", &hints, &each);

    for (; !error && each; each = each->ai_next) {
        getnameinfo(each->ai_addr, each->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        puts(text);
    }
    return error ? 2 : 0;
}
"""


@pytest.mark.skipif(not any(map(shutil.which, MUSL)), reason="no compiler for musl is installed")
@pytest.mark.parametrize("servers", [(SERVER4, OTHER4), (SERVER6, SERVER4)], ids=repr)
def test_musl(session: Cgroup, resolv_conf: Path, servers: tuple[str, ...]) -> None:
    """It asks all servers at once, from one socket."""
    source, built = resolv_conf.parent / "look.c", resolv_conf.parent / "look"
    source.write_text(LOOK)
    command = next(command for name, command in MUSL.items() if shutil.which(name))
    subprocess.run([*command, "-static", "-o", built, source], check=True, timeout=120)
    resolv_conf.write_text("".join(f"nameserver {server}\n" for server in servers))
    found = run(session, resolv_conf, str(built), NAME)
    assert set(found.split()) == {PUBLIC, PUBLIC6}
    assert run(session, resolv_conf, str(built), "evil.example") == " exit 2"
    many = run(session, resolv_conf, str(built), "many.example.org")
    assert len(set(many.split())) > 40  # musl keeps 48


@pytest.mark.skipif(shutil.which("dig") is None, reason="dig is not installed")
def test_dig(session: Cgroup, resolv_conf: Path) -> None:
    found = run(
        session, resolv_conf, "dig", f"@{OTHER4}", "+short", "+subnet=198.51.100.0/24", NAME
    )
    assert found == PUBLIC


# -- attacks --------------------------------------------------------------------------------------


def test_one_session_cannot_ask_in_the_name_of_another(
    redirect: Redirect, running: Running
) -> None:
    """A raw socket could write any sender: its packet is noted as what it says, by who sends it."""
    one, two = redirect.session(), redirect.session()
    running.govern(one, "one", "evil.example:443")
    running.govern(two, "two", f"{NAME}:443")
    with sock(socket.AF_INET) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = len(running.recorded)

    def forge() -> None:
        message = question("evil.example")
        udp = struct.pack(">HHHH", port, running.port4, 8 + len(message), 0)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
            raw.connect(("127.0.0.1", 0))
            raw.send(udp + message)

    def hold() -> int:
        with sock(socket.AF_INET) as asking:
            asking.bind(("127.0.0.1", port))
            asking.sendto(question(NAME), (SERVER4, 53))
            asking.recv(4096)
            return asking.fileno()

    inside(one, hold)
    inside(two, forge)
    assert [each.session for each in running.recorded[count:]] in (["one"], ["one", "two"])
    assert not any(each.session == "one" and each.cause is None
                   for each in running.recorded[count:])  # fmt: skip


def test_a_flood_of_one_session_does_not_silence_another(
    redirect: Redirect, running: Running
) -> None:
    """Three programs that ask as fast as they can, for as long as the other asks."""
    loud, quiet = redirect.session(), redirect.session()
    running.govern(loud, "loud", f"{NAME}:443")
    running.govern(quiet, "quiet", f"{NAME}:443")

    def flood() -> None:
        message = question("x.evil.example")
        with sock(socket.AF_INET) as asking:
            asking.connect((SERVER4, 53))
            while True:
                with suppress(OSError):
                    asking.send(message)

    def ask() -> int:
        return sum(unconnected(socket.AF_INET, SERVER4)[0] == [PUBLIC] for _number in range(60))

    flooding = [Inside(loud, flood) for _number in range(3)]
    try:
        assert inside(quiet, ask) == 60
    finally:
        for each in flooding:
            os.kill(each.pid, signal.SIGKILL)
            each.reap()
    causes = [each.cause for each in running.recorded if each.session == "loud"]
    assert Cause.RATE in causes
    assert len(causes) < 2000


def test_a_flood_over_connections_does_not_either(redirect: Redirect, running: Running) -> None:
    loud, quiet = redirect.session(), redirect.session()
    running.govern(loud, "loud", f"{NAME}:443")
    running.govern(quiet, "quiet", f"{NAME}:443")

    def flood() -> None:
        message = question("x.evil.example")
        many = (struct.pack(">H", len(message)) + message) * 500
        held: list[socket.socket] = []
        while True:
            with suppress(OSError):
                held.append(sock(socket.AF_INET, socket.SOCK_STREAM))
                held[-1].connect((SERVER4, 53))
                held[-1].setblocking(False)
            for each in held:
                with suppress(OSError):
                    each.send(many)
            del held[:-40]

    def ask() -> int:
        return sum(unconnected(socket.AF_INET, SERVER4)[0] == [PUBLIC] for _number in range(60))

    flooding = [Inside(loud, flood) for _number in range(2)]
    try:
        assert inside(quiet, ask) == 60
        assert inside(quiet, lambda: stream(socket.AF_INET, SERVER4)[0]) == [PUBLIC]
    finally:
        for each in flooding:
            os.kill(each.pid, signal.SIGKILL)
            each.reap()


def test_questions_are_small(session: Cgroup) -> None:
    def ask() -> int:
        with sock(socket.AF_INET) as asking:
            asking.connect((SERVER4, 53))
            return attempt(lambda: asking.send(bytes(8000)))

    assert inside(session, ask) == errno.EPERM


def test_a_source_address_of_another_interface(session: Cgroup) -> None:
    """The answer goes to wherever the question came from."""

    def ask() -> list[str]:
        with sock(socket.AF_INET) as asking:
            asking.bind(("127.0.0.77", 0))
            asking.sendto(question(NAME), (SERVER4, 53))
            return told(asking.recv(4096))

    assert inside(session, ask) == [PUBLIC]


def test_a_note_of_long_ago_is_nobodys(
    redirect: Redirect, running: Running, session: Cgroup
) -> None:
    """Who gets a session's port later, and is not governed, must not ask in its name."""

    def ask() -> int:
        with sock(socket.AF_INET) as asking:
            asking.sendto(question(NAME), (SERVER4, 53))
            asking.recv(4096)
            return int(asking.getsockname()[1])

    port = inside(session, ask)
    peer = Peer(socket.IPPROTO_UDP, "127.0.0.1", port)
    assert redirect.flows.cgroup(peer) == session.id
    time.sleep(FRESH_SECONDS + 0.1)
    assert redirect.flows.cgroup(peer) is None

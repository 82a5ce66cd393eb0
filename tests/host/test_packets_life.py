# SPDX-License-Identifier: Apache-2.0
"""Packet rules from install to removal: nesting, replacement under traffic, crashes, neighbours."""

from __future__ import annotations

import errno
import importlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from monitor.daemon.packets import base, check
from monitor.daemon.packets.chains import Chains
from monitor.daemon.packets.facts import Count, Element, SessionFacts
from monitor.daemon.packets.packets import Packets
from monitor.kernel import nfnetlink, nft
from monitor.kernel.cgroup import OWN, Cgroup
from monitor.policy.packets import EVERYTHING, PacketRules, Span, rules
from tests.support.network import ALLOWED4, ALLOWED6, DENIED4, DENIED6, HERE4, Network
from tests.support.packets import POLICY, Floor
from tests.support.probes import TCP, UDP, Inside, attempt, inside, policy, ports

V4, V6 = socket.AF_INET, socket.AF_INET6
DGRAM = socket.SOCK_DGRAM
DONE, REFUSED, CLOSED = 0, errno.EPERM, errno.ECONNREFUSED
NOTHING = PacketRules()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture
def floor(network: Network) -> Iterator[Floor]:
    made = Floor()
    try:
        yield made
    finally:
        made.clean()


def send(address: str, port: int = 53) -> Callable[[], int]:
    def act() -> int:
        with socket.socket(V6 if ":" in address else V4, DGRAM) as sock:
            return attempt(lambda: sock.sendto(b"x", (address, port)))

    return act


def connect(address: str, port: int) -> Callable[[], int]:
    def act() -> int:
        with socket.socket(V6 if ":" in address else V4) as sock:
            sock.settimeout(2)
            return attempt(lambda: sock.connect((address, port)))

    return act


def element(address: str, low: int, high: int | None = None, protocol: int = UDP,
            seconds: int | None = None) -> Element:  # fmt: skip
    return Element(ipaddress.ip_address(address), protocol, low, high or low, seconds)


def listing(*what: str) -> str:
    done = subprocess.run(["nft", *what], capture_output=True, text=True, check=True)
    return done.stdout


def table(floor: Floor) -> str:
    return listing("list", "table", "inet", base.table_name(floor.instance))


# -- who is held -----------------------------------------------------------------------------------


def test_each_session_has_rules_of_its_own(floor: Floor) -> None:
    to_one = rules([policy(connect=[(f"::ffff:{ALLOWED4}/128", [ports(53, protocol=UDP)])])])
    to_other = rules([policy(connect=[(f"::ffff:{DENIED4}/128", [ports(53, protocol=UDP)])])])
    with floor.running(to_one) as one, floor.running(to_other) as other:
        assert inside(one, send(ALLOWED4)) == DONE
        assert inside(one, send(DENIED4)) == REFUSED
        assert inside(other, send(ALLOWED4)) == REFUSED
        assert inside(other, send(DENIED4)) == DONE
    assert inside(None, send(DENIED4)) == DONE


def test_a_packet_passes_the_sessions_above_too(floor: Floor) -> None:
    wide = EVERYTHING
    narrow = rules([POLICY])
    for above, below, reached in (
        (wide, narrow, (DONE, REFUSED)),
        (narrow, wide, (DONE, REFUSED)),
        (narrow, NOTHING, (REFUSED, REFUSED)),
        (NOTHING, narrow, (REFUSED, REFUSED)),
        (wide, wide, (DONE, DONE)),
    ):
        parent = floor.session(above)
        child = floor.session(below, parent)
        grandchild = floor.session(wide, child)
        for each in (child, grandchild):
            assert (inside(each, send(ALLOWED4)), inside(each, send(DENIED4))) == reached
        floor.end(grandchild)
        floor.end(child)
        floor.end(parent)


def test_what_a_nested_session_sends_is_counted_above_as_well(floor: Floor) -> None:
    parent = floor.session()
    child = floor.session(None, parent)
    inside(child, send(ALLOWED4))
    assert floor.packets.counters(child.name).sent == Count(1, 29)
    assert floor.packets.counters(parent.name).sent == Count(1, 29)
    inside(parent, send(ALLOWED4))
    assert floor.packets.counters(child.name).sent == Count(1, 29)
    assert floor.packets.counters(parent.name).sent == Count(2, 58)
    floor.end(child)
    floor.end(parent)


def test_the_folder_of_a_sessions_own_processes_is_the_sessions(floor: Floor) -> None:
    with floor.running() as session:
        own = Cgroup(session.path / OWN)
        own.create()
        assert (inside(own, send(ALLOWED4)), inside(own, send(DENIED4))) == (DONE, REFUSED)
        own.remove()


def test_a_cgroup_that_is_no_session_is_refused_everything(floor: Floor) -> None:
    stranger = floor.cgroup()
    assert inside(stranger, send(ALLOWED4)) == REFUSED
    assert inside(stranger, connect(HERE4, 9)) == CLOSED
    assert inside(floor.root, send(ALLOWED4)) == REFUSED
    stranger.remove()


def test_whether_it_holds_is_found_out(floor: Floor) -> None:
    assert check.holds(floor.instance)
    floor.packets.drop()
    assert not check.holds(floor.instance)


def test_counters_are_kept_for_each_rule(floor: Floor) -> None:
    with floor.running() as session:
        inside(session, send(ALLOWED4))
        inside(session, send(ALLOWED4))
        inside(session, send(ALLOWED6))
        inside(session, send(DENIED4))
        found = floor.packets.counters(session.name)
        assert found.sent == Count(3, 2 * 29 + 49)
        assert found.refused == Count(1, 29)
        assert found.rules[ALLOWED4, ALLOWED4, UDP, 53, 53] == Count(2, 58)
        assert found.rules[ALLOWED6, ALLOWED6, UDP, 53, 53] == Count(1, 49)
        assert found.rules[ALLOWED4, ALLOWED4, TCP, 8000, 8999] == Count(0, 0)


# -- what is added at run time ---------------------------------------------------------------------


def test_an_added_address_is_reached_at_its_ports_only(floor: Floor) -> None:
    with floor.running(NOTHING) as session:
        floor.packets.add_elements(session.name, [element(DENIED4, 53), element(DENIED6, 53)])
        assert inside(session, send(DENIED4)) == DONE
        assert inside(session, send(DENIED6)) == DONE
        assert inside(session, send(DENIED4, 54)) == REFUSED
        assert inside(session, send(ALLOWED4)) == REFUSED
        assert inside(session, connect(DENIED4, 53)) == CLOSED
        floor.packets.remove_elements(session.name, [element(DENIED4, 53), element(ALLOWED4, 1)])
        assert inside(session, send(DENIED4)) == REFUSED
        assert inside(session, send(DENIED6)) == DONE


def test_an_added_address_goes_by_itself_and_is_renewed(floor: Floor) -> None:
    with floor.running(NOTHING) as session:
        floor.packets.add_elements(session.name, [element(DENIED4, 53, seconds=1)])
        time.sleep(0.6)
        floor.packets.add_elements(session.name, [element(DENIED4, 53, seconds=1)])
        time.sleep(0.6)
        assert inside(session, send(DENIED4)) == DONE
        time.sleep(0.6)
        assert inside(session, send(DENIED4)) == REFUSED


def test_an_added_address_answers(network: Network, floor: Floor) -> None:
    def ask() -> int:
        with socket.socket(V4, DGRAM) as sock:
            sock.settimeout(1)
            sock.sendto(b"x", (DENIED4, 53))
            return attempt(lambda: sock.recv(8))

    with network.server(DENIED4, 53, DGRAM) as server, floor.running(NOTHING) as session:
        floor.packets.add_elements(session.name, [element(DENIED4, 53)])
        running = Inside(session, ask)
        _data, sender = server.recvfrom(8)
        server.sendto(b"y", sender)
        assert running.result() == DONE


def test_many_ports_of_an_added_address(floor: Floor) -> None:
    held = rules([policy()], [Span(UDP, 100, 200), Span(UDP, 150, 250)])
    with floor.running(held) as session:
        floor.packets.add_elements(session.name, [element(DENIED4, 100, 200, seconds=60)])
        floor.packets.add_elements(session.name, [element(DENIED6, 150, 250)])
        sent = {
            (address, port): inside(session, send(address, port))
            for address in (DENIED4, DENIED6)
            for port in (99, 100, 149, 150, 200, 201, 250, 251)
        }
        reached = {end for end, answer in sent.items() if answer == DONE}
        assert reached == {
            *((DENIED4, port) for port in (100, 149, 150, 200)),
            *((DENIED6, port) for port in (150, 200, 201, 250)),
        }
        # A new worker knows them as well.
        successor = Packets(floor.instance)
        successor.prepare()
        successor.remove_elements(session.name, [element(DENIED4, 100, 200)])
        assert inside(session, send(DENIED4, 150)) == REFUSED
        with pytest.raises(ValueError, match="spans"):
            successor.add_elements(session.name, [element(DENIED4, 100, 180)])
        successor.close()


def test_what_was_added_stays_through_replacement(floor: Floor) -> None:
    with floor.running(NOTHING) as session:
        floor.packets.add_elements(session.name, [element(DENIED4, 53, seconds=600)])
        for _ in range(3):
            floor.packets.replace(session.facts, rules([POLICY]))
            assert inside(session, send(DENIED4)) == DONE
            assert inside(session, send(ALLOWED4)) == DONE


def test_spans_are_those_of_the_rules_in_force(floor: Floor) -> None:
    one, other = ([Span(UDP, 100, 200)], [Span(UDP, 150, 250)])
    with floor.running(rules([policy()], one)) as session:
        floor.packets.add_elements(session.name, [element(DENIED4, 100, 200)])
        floor.packets.replace(session.facts, rules([policy()], other))
        assert inside(session, send(DENIED4, 150)) == REFUSED
        with pytest.raises(ValueError, match="spans"):
            floor.packets.add_elements(session.name, [element(DENIED4, 100, 200)])
        floor.packets.add_elements(session.name, [element(DENIED4, 150, 250)])
        floor.packets.replace(session.facts, rules([POLICY], other))
        assert inside(session, send(DENIED4, 150)) == DONE


# -- replacement -----------------------------------------------------------------------------------


def test_replacement_is_met_whole(network: Network, floor: Floor) -> None:
    """What both rules allow is never refused in between, and what neither does never passes."""
    one = rules([policy(connect=[(f"::ffff:{ALLOWED4}/128", [ports(50, 60, protocol=UDP)])])])
    wide = policy(connect=[("::ffff:10.9.0.2/128", [ports(53, protocol=UDP)]), ("fd09::/16", [])])
    other = rules([wide])
    stop, go = os.pipe()

    def hammer() -> dict[str, list[int]]:
        counts: dict[str, list[int]] = {"both": [], "neither": []}
        os.set_blocking(stop, False)
        with socket.socket(V4, DGRAM) as sock:
            while attempt(lambda: os.read(stop, 1)):
                counts["both"].append(attempt(lambda: sock.sendto(b"x", (ALLOWED4, 53))))
                counts["neither"].append(attempt(lambda: sock.sendto(b"x", (DENIED4, 53))))
        return {name: [len(each), sum(each)] for name, each in counts.items()}

    with floor.running(one) as session:
        running = [Inside(session, hammer) for _ in range(2)]
        for number in range(60):
            floor.packets.replace(session.facts, (other, one)[number % 2])
        os.write(go, b"xx")
        for each in running:
            found = each.result()
            assert found["both"][0] > 500
            assert found["both"][1] == 0
            assert found["neither"][1] == found["neither"][0] * REFUSED
    network.arrived(0)


def test_a_stream_lives_through_replacement(network: Network, floor: Floor) -> None:
    server = network.server(ALLOWED4, 443)
    got = []

    def sink() -> None:
        taken, _peer = server.accept()
        size = 0
        with taken:
            while data := taken.recv(1 << 16):
                size += len(data)
        got.append(size)

    def stream() -> int:
        sent = 0
        with socket.create_connection((ALLOWED4, 443)) as sock:
            until = time.monotonic() + 1
            while time.monotonic() < until:
                sock.sendall(bytes(1 << 15))
                sent += 1 << 15
        return sent

    reader = threading.Thread(target=sink)
    reader.start()
    with floor.running() as session:
        running = Inside(session, stream)
        until = time.monotonic() + 0.9
        while time.monotonic() < until:
            floor.packets.replace(session.facts, rules([POLICY]))
        sent = running.result()
        reader.join()  # before the session's end, which cuts what is on its way
        assert floor.packets.counters(session.name).refused == Count(0, 0)
    server.close()
    assert got == [sent]


def test_what_is_narrowed_away_is_cut(network: Network, floor: Floor) -> None:
    server = network.server(ALLOWED4, 443)

    def stream(go: int) -> int:
        with socket.create_connection((ALLOWED4, 443)) as sock:
            os.write(go, b"x")
            sock.settimeout(5)
            return attempt(lambda: drip(sock))

    with floor.running() as session:
        ready, go = os.pipe()
        running = Inside(session, lambda: stream(go))
        os.read(ready, 1)
        floor.packets.replace(session.facts, NOTHING)
        began = time.monotonic()
        assert running.result() in (errno.ECONNRESET, errno.EPIPE, errno.EPERM)
        assert time.monotonic() - began < 1
    server.close()


def drip(sock: socket.socket) -> None:
    for _ in range(500):
        sock.sendall(bytes(64))
        time.sleep(0.01)


# -- ends ------------------------------------------------------------------------------------------


def test_what_an_orphaned_socket_holds_does_not_leave(network: Network, floor: Floor) -> None:
    """The peer takes nothing, the session queues and ends; then the peer reads on."""
    for removed in (True, False):
        server = network.server(ALLOWED4, 443)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        session = floor.session()

        def queue() -> int:
            sock = socket.create_connection((ALLOWED4, 443))
            sock.setblocking(False)
            size = 0
            while not attempt(lambda: sock.sendall(bytes(1024))):
                size += 1024
            sock.setblocking(True)
            return size  # the process ends; the kernel keeps the socket and its queue

        queued = inside(session, queue)
        taken, _peer = server.accept()
        if removed:
            floor.end(session)
        taken.settimeout(0.5)
        size = 0
        while (data := receive(taken)) is not None:
            size += len(data)
            if not data:
                break
        taken.close()
        server.close()
        if removed:
            assert size < queued, "the rest never came"
        else:
            assert size >= queued
            floor.end(session)


def receive(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(1 << 16)
    except (TimeoutError, ConnectionResetError):
        return None


def test_nothing_is_left_of_a_session(floor: Floor) -> None:
    before = table(floor)
    held = rules([POLICY], [Span(TCP, 1, 9)])
    session = floor.session(held)
    floor.packets.add_elements(session.name, [element(DENIED4, 53)])
    floor.packets.replace(session.facts, held)
    assert table(floor) != before
    floor.end(session)
    assert table(floor) == before


def test_a_session_whose_cgroup_is_gone_is_removed_alone(floor: Floor) -> None:
    staying = floor.session()
    going = floor.session()
    going.remove()  # the cgroup, behind the daemon's back
    floor.packets.remove(going.name)
    assert going.name not in table(floor)
    assert inside(staying, send(ALLOWED4)) == DONE
    assert inside(staying, send(DENIED4)) == REFUSED
    floor.packets.remove(going.name)  # nothing to do any more
    floor.end(staying)


# -- crashes ---------------------------------------------------------------------------------------


def test_rules_outlive_the_one_who_made_them(floor: Floor) -> None:
    session = floor.cgroup()

    def install_and_die() -> None:
        packets = Packets(floor.instance)
        packets.prepare()
        packets.install(session.facts, rules([POLICY]))
        os.kill(os.getpid(), signal.SIGKILL)

    Inside(None, install_and_die).reap()
    assert (inside(session, send(ALLOWED4)), inside(session, send(DENIED4))) == (DONE, REFUSED)
    assert floor.packets.prepare() == [session.name]
    assert floor.packets.leftovers([session.name]) == []
    assert inside(session, send(ALLOWED4)) == DONE
    assert floor.packets.leftovers([]) == [session.name]
    assert session.name not in table(floor)
    assert inside(session, send(ALLOWED4)) == REFUSED
    session.remove()


def test_half_a_replacement_is_swept_up(floor: Floor) -> None:
    """Killed between building the new version and going over to it, or before the old is gone."""
    with floor.running() as session:
        chains = Chains(base.table_name(floor.instance), session.name)
        language = nft.Nft()
        language.apply(chains.version("b", NOTHING))
        stray = Chains(base.table_name(floor.instance), "stray")
        language.run(stray.lasting(NOTHING))
        language.apply(stray.version("a", NOTHING))
        assert inside(session, send(ALLOWED4)) == DONE
        successor = Packets(floor.instance)
        assert successor.prepare() == [session.name]
        text = table(floor)
        assert "stray" not in text
        assert f"send_{session.name}_b" not in text
        assert inside(session, send(ALLOWED4)) == DONE
        language.apply(chains.version("b", NOTHING))
        successor.replace(session.facts, rules([POLICY]))  # over what is left
        successor.close()
        assert (inside(session, send(ALLOWED4)), inside(session, send(DENIED4))) == (DONE, REFUSED)


@pytest.mark.parametrize("step", [0, 1])
def test_a_replacement_that_fails_is_no_harm(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """At each of its steps: the rules hold, the next try works, and the end leaves nothing."""
    before = table(floor)
    session = floor.session()
    made = floor.packets._netlink.apply
    steps = iter(range(9))

    def fail(changes: Sequence[nfnetlink.Message]) -> None:
        if next(steps) == step:
            raise OSError(errno.ENOBUFS, "no room")
        made(changes)

    with monkeypatch.context() as patched:
        patched.setattr(floor.packets._netlink, "apply", fail)
        with pytest.raises(OSError, match="no room"):
            floor.packets.replace(session.facts, rules([POLICY]))
    assert (inside(session, send(ALLOWED4)), inside(session, send(DENIED4))) == (DONE, REFUSED)
    if step:
        floor.packets.replace(session.facts, rules([POLICY]))
        assert inside(session, send(ALLOWED4)) == DONE
    floor.end(session)
    assert table(floor) == before


def test_a_table_that_does_not_fit_is_replaced(floor: Floor) -> None:
    session = floor.session()
    name = base.table_name(floor.instance)
    floor.packets.drop()
    subprocess.run(
        [
            "nft",
            f"add table inet {name}; add map inet {name} send_2 {{ type ipv4_addr : verdict; }}",
        ],
        check=True,
    )
    assert floor.packets.prepare() == []
    assert inside(session, send(ALLOWED4)) == REFUSED
    floor.packets.install(session.facts, rules([POLICY]))
    assert inside(session, send(ALLOWED4)) == DONE
    floor.end(session)


# -- other tools -----------------------------------------------------------------------------------

OTHERS = """
table inet others {
  set known { type ipv4_addr; elements = { 10.0.0.1 } }
  chain output { type filter hook output priority 10; policy accept; ip daddr @known drop; }
}
table ip ri_others {
  chain send_s1_a {
    drop
  }
}
"""


def test_tables_of_others_are_not_touched(floor: Floor) -> None:
    subprocess.run(["nft", "-f", "-"], input=OTHERS, text=True, check=True)
    families = ("inet others", "ip ri_others")
    before = [listing("-j", "list", "table", *each.split()) for each in families]
    session = floor.session()
    floor.packets.replace(session.facts, NOTHING)
    floor.packets.leftovers([])
    floor.packets.prepare()
    floor.packets.drop()
    assert [listing("-j", "list", "table", *each.split()) for each in families] == before
    for each in families:
        subprocess.run(["nft", "delete", "table", *each.split()], check=True)
    floor.packets.prepare()
    session.remove()


def test_flushed_by_another_tool(floor: Floor) -> None:
    with floor.running() as session:
        assert floor.packets.missing([session.name]) == []
        subprocess.run(["nft", "flush", "ruleset"], check=True)
        assert floor.packets.missing([session.name]) == [session.name]
        assert floor.packets.prepare() == []
        assert inside(session, send(ALLOWED4)) == REFUSED
        floor.packets.install(session.facts, rules([POLICY]))
        assert floor.packets.missing([session.name]) == []
        assert (inside(session, send(ALLOWED4)), inside(session, send(DENIED4))) == (DONE, REFUSED)


def test_a_session_ends_whatever_another_tool_took(floor: Floor) -> None:
    name = base.table_name(floor.instance)
    one, other = floor.session(), floor.session()
    subprocess.run(["nft", f"delete chain inet {name} output"], check=True)
    subprocess.run(["nft", f"flush map inet {name} send_2"], check=True)
    floor.end(one)
    assert f"_{one.name}" not in table(floor)
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    floor.end(other)
    floor.packets.prepare()


def test_a_socket_made_outside_is_not_the_sessions(floor: Floor) -> None:
    """What a session is given by others stays theirs: launches close what is inherited."""
    with socket.socket(V4, DGRAM) as given, floor.running(NOTHING) as session:
        assert inside(session, lambda: attempt(lambda: given.sendto(b"x", (DENIED4, 53)))) == DONE


def test_the_rules_can_be_listed_and_loaded_again(floor: Floor) -> None:
    """As an administrator does: nft(8) must neither choke on them nor print what it cannot read."""
    held = rules([POLICY], [Span(TCP, 1, 9)])
    with floor.running(held) as session:
        floor.packets.add_elements(session.name, [element(DENIED4, 53, seconds=60)])
        json.loads(listing("-j", "list", "ruleset"))
        text = listing("list", "ruleset")
        subprocess.run(["nft", "-c", "-f", "-"], input=text, text=True, check=True)


# -- refusals --------------------------------------------------------------------------------------


def test_bad_input_is_refused_in_words(floor: Floor) -> None:
    with floor.running() as session:
        with pytest.raises(FileExistsError, match="already"):
            floor.packets.install(session.facts, NOTHING)
        with pytest.raises(FileNotFoundError, match="no network rules"):
            floor.packets.add_elements("nobody", [element(ALLOWED4, 1)])
        with pytest.raises(FileNotFoundError, match="no network rules"):
            floor.packets.counters("nobody")
        for name in ("", "a b", "a;drop", "../x", "x" * 65, "ä"):
            with pytest.raises(ValueError, match="no name"):
                floor.packets.install(SessionFacts(name, session.path), NOTHING)
        with pytest.raises(OSError, match="levels"):
            floor.packets.install(SessionFacts("root", floor.root.path), NOTHING)
        gone = SessionFacts("gone", floor.root.path / "gone")
        with pytest.raises(FileNotFoundError, match="gone"):
            floor.packets.install(gone, NOTHING)
        assert "gone" not in table(floor)


def test_a_host_without_the_binding_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(OSError, match="python3-nftables") as raised:
        nft.Nft()
    assert raised.value.errno == errno.ENOSYS

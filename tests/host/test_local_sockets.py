# SPDX-License-Identifier: Apache-2.0
"""Ways out by local sockets: those that every host has, netlink, and families of other kinds."""

from __future__ import annotations

import errno
import secrets
import shutil
import socket
from pathlib import Path

import pytest

from monitor.daemon.probes import pins
from monitor.profile.catalog import Catalog
from monitor.profile.variables import Variables, expand
from tests.support.checkout import ROOT
from tests.support.daemon import Daemon
from tests.support.sides import Case, check, take

EPERM, EACCES, EAFNOSUPPORT = errno.EPERM, errno.EACCES, errno.EAFNOSUPPORT
CATALOG = Catalog((ROOT / "profiles",))
LISTS = [name for name in CATALOG.names() if name.startswith("socket-")]
# Those that the C library falls back to DNS from, and those of desktops, beside the lists.
OTHERS = ("/run/systemd/userdb/io.systemd.DynamicUser", "@/org/freedesktop/systemd1/notify",
          "/run/systemd/notify", "/dev/log", "/run/acpid.socket", "@dbus-1")  # fmt: skip


def listed(daemon: Daemon, *lists: str) -> list[str]:
    user = daemon.user
    variables = Variables(str(user.home), str(user.home), "s", user.uid)
    found: dict[str, None] = {}
    for name in lists:
        section = CATALOG.load(name).network
        assert section is not None
        found |= dict.fromkeys(expand(rule.path, variables) for rule in section.unix)
    return list(found)


def denial(path: str) -> str:
    """What a program passes for a name as rules write it."""
    return repr("\0" + path[1:] if path.startswith("@") else path)


@pytest.mark.parametrize("profile", ["base", "coding-agent", "research-agent"])
def test_no_agents_profile_reaches_them(daemon: Daemon, profile: str) -> None:
    """In every kind of socket, and recorded; the kernel decides before it looks for the socket."""
    if not pins.unix_hooks(daemon.instance):
        pytest.skip("this kernel has no unix socket hooks (they need Linux 6.7)")
    names = [*listed(daemon, *LISTS), *OTHERS]
    cases = []
    for path in names:
        for kind in ("SOCK_STREAM", "SOCK_SEQPACKET", "SOCK_DGRAM"):
            code = f"unix({denial(path)}, socket.{kind})"
            cases.append(Case(f"{kind} {path}", code, EPERM))
        send = f"socket.socket(1, socket.SOCK_DGRAM).sendto(b'x', {denial(path)})"
        cases.append(Case(f"sendto {path}", send, EPERM))
    run = take(daemon, profile, cases, "--workspace", str(daemon.user.home))
    assert run.answers == {case.name: EPERM for case in cases}
    denied = [record["object"] for record in run.matching(verb="net.unix", verdict="deny")]
    assert set(denied) >= set(names)
    observed = take(daemon, profile, cases, "--workspace", str(daemon.user.home), observe=True)
    assert EPERM not in observed.answers.values()
    would = observed.matching(verb="net.unix", verdict="would-deny")
    assert {record["object"] for record in would} >= set(names)


@pytest.mark.parametrize("name", LISTS)
def test_including_a_list_opens_it_and_no_other(daemon: Daemon, name: str) -> None:
    if not pins.unix_hooks(daemon.instance):
        pytest.skip("this kernel has no unix socket hooks (they need Linux 6.7)")
    profile = daemon.profile(f"with-{name}", f"include: [base, {name}]\n")
    own = listed(daemon, name)
    others = [path for path in listed(daemon, *LISTS) if path not in own]
    cases = [Case(path, f"unix({denial(path)})") for path in (*own, *others)]
    run = take(daemon, profile, cases)
    for path in own:  # nobody listens there on most hosts; the rules are not what refuses
        assert run.answers[path] != EPERM, path
    assert {run.answers[path] for path in others} == {EPERM}


def test_a_listed_socket_works(daemon: Daemon) -> None:
    """One of the shipped lists, with a server behind it: tmux's, in a folder sessions may write."""
    if not pins.unix_hooks(daemon.instance):
        pytest.skip("this kernel has no unix socket hooks (they need Linux 6.7)")
    folder = Path(f"/tmp/tmux-{daemon.user.uid}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / "default"))
            (folder / "default").chmod(0o666)
            server.listen(8)
            more = "files: {read: [/tmp/**], write: [/tmp/**]}\n"
            with_it = daemon.profile("tmux-with", f"include: [base, socket-tmux]\n{more}")
            without = daemon.profile("tmux-without", f"include: [base]\n{more}")
            case = Case("tmux", f"unix({str(folder / 'default')!r})")
            assert take(daemon, with_it, [case]).answers == {"tmux": 0}
            assert take(daemon, without, [case]).answers == {"tmux": EPERM}
    finally:
        shutil.rmtree(folder)


# -- netlink --------------------------------------------------------------------------------------

INTERFACES = "assert socket.if_nameindex()"
DUMP = """
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
    sock.send(struct.pack("=IHHIIB3x", 20, 18, 0x301, 1, 0, 0))
    kind = struct.unpack_from("=IH", sock.recv(9000))[1]
    assert kind == 16, kind
"""
# RTM_NEWADDR, RTM_NEWROUTE, RTM_SETLINK: an error message with EPERM comes back.
CHANGE = """
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
    sock.send(struct.pack("=IHHII", 40, {kind}, 0x5, 1, 0) + bytes([2, 8, 0, 0, 1, 0, 0, 0]) +
              bytes(16))
    _size, kind, _flags, _number, _port, error = struct.unpack_from("=IHHIIi", sock.recv(9000))
    assert kind == 2, kind
    if error:
        raise OSError(-error, "netlink")
"""


def test_route_read_reads_and_changes_nothing(daemon: Daemon) -> None:
    name = daemon.profile("routes", "include: [base]\nnetwork: {netlink: route-read}\n")
    cases = [
        Case("interfaces", INTERFACES),
        Case("dump", DUMP),
        *(Case(f"change {kind}", CHANGE.format(kind=kind), EPERM) for kind in (20, 24, 19)),
        Case("no other family", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)", EPERM),
    ]
    run = take(daemon, name, cases)
    assert run.answers == {case.name: case.errno for case in cases}


def test_closed_netlink_leaves_name_lookups_alone(daemon: Daemon) -> None:
    """getaddrinfo(3) goes on without: it takes the host to have both kinds of addresses."""
    reached = "network: {{connect: ['10.255.0.1:9'], netlink: {netlink}}}\n"
    for netlink, answer in (("closed", EAFNOSUPPORT), ("route-read", 0)):
        text = f"include: [base]\n{reached.format(netlink=netlink)}"
        name = daemon.profile(f"netlink-{netlink}", text)
        found = "assert socket.getaddrinfo('localhost', 80, flags=socket.AI_ADDRCONFIG)"
        cases = [Case("dump", DUMP), Case("names", found)]
        run = take(daemon, name, cases)
        assert run.answers == {"dump": answer, "names": 0}
        if answer:
            denied = run.matching(verdict="deny", mechanism="seccomp")
            assert any("netlink" in record["object"].lower() for record in denied), denied


def test_netlink_is_open_by_itself_only_where_other_hosts_are_reached(daemon: Daemon) -> None:
    for address, answer in (("127.0.0.1", EAFNOSUPPORT), ("10.255.0.1", 0)):
        name = daemon.profile(
            f"reach-{address.replace('.', '-')}",
            f"include: [base]\nnetwork: {{connect: ['{address}:9']}}\n",
        )
        assert take(daemon, name, [Case("dump", DUMP)]).answers == {"dump": answer}


# -- other families -------------------------------------------------------------------------------

# linux/socket.h: everything that is not unix, IPv4, IPv6 or netlink.
FAMILIES = {
    "ax25": 3, "ipx": 4, "appletalk": 5, "x25": 9, "key": 15, "packet": 17, "rds": 21,
    "pppox": 24, "llc": 26, "infiniband": 27, "can": 29, "tipc": 30, "bluetooth": 31,
    "rxrpc": 33, "phonet": 35, "alg": 38, "nfc": 39, "vsock": 40, "kcm": 41, "qipcrtr": 42,
    "smc": 43, "xdp": 44, "mctp": 45,
}  # fmt: skip
NETLINKS = {"usersock": 2, "sock_diag": 4, "xfrm": 6, "audit": 9, "connector": 11, "netfilter": 12,
            "kobject_uevent": 15, "generic": 16, "crypto": 21}  # fmt: skip


def test_every_other_family_is_closed(daemon: Daemon) -> None:
    """Whatever the profile opens, and under --observe too: the floor refuses them."""
    text = "include: [base]\nnetwork: {connect: ['any:*', 'any:*/udp'], netlink: route-read}\n"
    name = daemon.profile("families", text)
    cases = [
        Case(f"{family} {kind}", f"socket.socket({number}, {kind}, 0).close()", EAFNOSUPPORT)
        for family, number in FAMILIES.items()
        for kind in (1, 2, 3, 5)
    ]
    cases += [
        Case(f"netlink {family}", f"socket.socket(16, {kind}, {number}).close()", EPERM)
        for family, number in NETLINKS.items()
        for kind in (2, 3)
    ]
    pairs = [("inet pair", 2), ("vsock pair", 40), ("tipc pair", 30)]
    cases += [Case(each, f"call(53, {family}, 1, 0, bytes(8))", EAFNOSUPPORT)
              for each, family in pairs]  # fmt: skip
    for observe in (False, True):
        run = take(daemon, name, cases, observe=observe)
        wrong = {
            case.name: run.answers[case.name]
            for case in cases
            if run.answers[case.name] not in {EAFNOSUPPORT, EPERM}
        }
        assert not wrong
        denied = run.matching(verdict="deny", mechanism="seccomp")
        assert sum(record["count"] for record in denied) >= len(cases)


# -- cron and at: without a socket ----------------------------------------------------------------


def test_jobs_for_later_cannot_be_left(daemon: Daemon) -> None:
    """crontab and at run as the group that owns their folders; in a session they do not."""
    marker = secrets.token_hex(4)
    cases = [
        Case(f"{folder}", f"write({f'{folder}/{marker}'!r}, os.O_CREAT)", EACCES)
        for folder in ("/var/spool/cron", "/var/spool/cron/crontabs", "/var/spool/cron/atjobs",
                       "/var/spool/at", "/etc/cron.d")
        if Path(folder).is_dir()
    ]  # fmt: skip
    programs = [found for found in map(shutil.which, ("crontab", "at")) if found]
    for program in programs:
        code = (
            "import subprocess\n"
            f"arguments = [{program!r}, *({['now']!r} if {program!r}.endswith('at') else ['-'])]\n"
            "done = subprocess.run(arguments, input=b'* * * * * /bin/true\\n')\n"
            "assert done.returncode"
        )
        cases.append(Case(program, code))
    assert cases
    profile = daemon.profile("later", "include: [coding-agent]\n")
    run = take(daemon, profile, cases, "--workspace", str(daemon.user.home))
    wrong = {name: number for name, number in run.answers.items()
             if number not in {0, EACCES, errno.EROFS}}  # fmt: skip
    assert not wrong
    assert all(run.answers[case.name] for case in cases if case.errno)


def test_the_twin_of_a_listed_name_is_refused(daemon: Daemon) -> None:
    """A path and an abstract name of the same letters are two sockets."""
    if not pins.unix_hooks(daemon.instance):
        pytest.skip("this kernel has no unix socket hooks (they need Linux 6.7)")
    token = f"/ri-{secrets.token_hex(6)}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0" + token)
        server.listen(8)
        for rule, answer in ((token, EPERM), (f"@{token}", 0)):
            name = daemon.profile("twin", f"include: [base]\nnetwork:\n  unix: ['{rule}']\n")
            check(daemon, name, [Case("it", f"unix({chr(0) + token!r})", answer)])

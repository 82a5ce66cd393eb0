# SPDX-License-Identifier: Apache-2.0
"""Ways out by the network and by sockets."""

from __future__ import annotations

from monitor.prove.case import BARE, MEASURED, OBSERVE, ROOT, Case

NETWORK = (
    Case(
        18,
        "abstract unix socket",
        "nono#207",
        ("connect_abstract.py", "{abstract}"),
        "EPERM",
        "net.unix",
        OBSERVE,
    ),
    Case(
        22,
        "IPv6",
        "hive#4319 (5 of 5 measured); moat#317",
        ("connect_tcp.py", "::1", "{port}"),
        "EPERM",
        "net.connect",
        OBSERVE,
    ),
    Case(
        22,
        "IPv4 in an IPv6 address",
        "klangk#1936",
        ("connect_tcp.py", "::ffff:127.0.0.1", "{other}"),
        "EPERM",
        "net.connect",
        OBSERVE,
    ),
    Case(
        22,
        "datagram over IPv6",
        "hive#4319",
        ("send_udp.py", "::1", "{port}"),
        "EPERM",
        "net.send",
        OBSERVE,
    ),
    Case(
        22,
        "datagram to IPv4 in an IPv6 address",
        "klangk#1936",
        ("send_udp.py", "::ffff:127.0.0.1", "{other}"),
        "EPERM",
        "net.send",
        OBSERVE,
    ),
    Case(
        25,
        "TCP fast open",
        MEASURED,
        ("fast_open.py", "127.0.0.1", "{other}"),
        "EPERM",
        "net.connect",
        OBSERVE,
    ),
    Case(
        25,
        "TCP fast open over IPv6",
        MEASURED,
        ("fast_open.py", "::1", "{port}"),
        "EPERM",
        "net.connect",
        OBSERVE,
    ),
    Case(
        25,
        "TCP fast open to IPv4 in an IPv6 address",
        MEASURED,
        ("fast_open.py", "::ffff:127.0.0.1", "{other}"),
        "EPERM",
        "net.connect",
        OBSERVE,
    ),
    Case(
        58,
        "datagram from a socketpair to outside",
        MEASURED,
        ("pair_to_outside.py", "{datagrams}"),
        "EPERM",
        "net.unix",
        OBSERVE,
    ),
    *(
        Case(23, name, source, ("make_socket.py", *words), expect, "net.socket", control)
        for name, source, words, expect, control in (
            ("vsock", "lince#218", ("40", "1", "0"), "EAFNOSUPPORT", BARE),
            ("packet socket", "boundary PR#165", ("17", "3", "0"), "EAFNOSUPPORT", ROOT),
            ("raw socket", "sandlock#12", ("2", "3", "1"), "EPERM", ROOT),
            ("multipath TCP", "[reasoned]", ("2", "1", "262"), "EPERM", BARE),
        )
    ),
    Case(
        49,
        "UDP-Lite",
        MEASURED,
        ("make_socket.py", "2", "2", "136"),
        "EPERM",
        "net.socket",
        BARE,
    ),
    Case(
        58,
        "netlink between processes",
        MEASURED,
        ("make_socket.py", "16", "3", "2"),
        "EPERM",
        "net.socket",
        BARE,
    ),
    Case(
        50,
        "IPv6 routing header",
        f"{MEASURED}; RFC 8754",
        ("routing_header.py",),
        "EPERM",
        "syscall",
        BARE,
    ),
    Case(51, "listen without bind", MEASURED, ("listen_unbound.py",), "EPERM", "net.listen", BARE),
)

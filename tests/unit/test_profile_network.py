# SPDX-License-Identifier: Apache-2.0
"""The text of network rules."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitor.profile.network import EVERYWHERE, HIGHEST_PORT, Destination, parse

TCP, UDP = 6, 17


def net(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


@pytest.mark.parametrize(
    ("text", "networks", "ports", "protocol"),
    [
        ("127.0.0.1:80", ["127.0.0.1/32"], [(80, 80)], TCP),
        ("10.0.0.0/8:443", ["10.0.0.0/8"], [(443, 443)], TCP),
        ("0.0.0.0/0:*", ["0.0.0.0/0"], [(0, HIGHEST_PORT)], TCP),
        ("[::1]:8000-8100/udp", ["::1/128"], [(8000, 8100)], UDP),
        ("[2001:DB8::]/32:53/udp", ["2001:db8::/32"], [(53, 53)], UDP),
        (
            "1.2.3.4:443,80,81,8080-9000/tcp",
            ["1.2.3.4/32"],
            [(80, 81), (443, 443), (8080, 9000)],
            6,
        ),
        ("1.2.3.4:1-5,3-9,9", ["1.2.3.4/32"], [(1, 9)], TCP),
        ("[::ffff:10.0.0.1]:1", ["10.0.0.1/32"], [(1, 1)], TCP),
        ("[::ffff:a00:0]/104:1", ["10.0.0.0/8"], [(1, 1)], TCP),
        ("[::ffff:0:0]/96:1", ["0.0.0.0/0"], [(1, 1)], TCP),
        ("[::]/0:1", ["::/0"], [(1, 1)], TCP),
        ("127.0.0.1:0", ["127.0.0.1/32"], [(0, 0)], TCP),
    ],
)
def test_reads(text: str, networks: list[str], ports: list[tuple[int, int]], protocol: int) -> None:
    assert parse(text) == Destination(tuple(map(net, networks)), tuple(ports), protocol)


def test_any_is_both_families() -> None:
    assert parse("any:53/udp") == Destination(EVERYWHERE, ((53, 53),), UDP)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "form"),
        ("10.0.0.1", "form"),
        ("10.0.0.1/8:1", "the network is 10.0.0.0/8"),
        ("[2001:db8::1]/32:1", "the network is [2001:db8::]/32"),
        ("[::ffff:10.0.0.1]/104:1", "the network is 10.0.0.0/8"),
        ("[::ffff:0:0]/95:1", "mixes IPv4 and IPv6"),
        ("::1:80", "brackets"),
        ("[::1/128]:80", "behind the bracket"),
        ("[fe80::1%eth0]:80", "zone"),
        ("[1.2.3.4]:80", "not an IPv6 address"),
        ("1.2.3:80", "not an IPv4 address"),
        ("1.2.3.04:80", "not an IPv4 address"),
        ("1.2.3.4/255.0.0.0:80", "prefix"),
        ("1.2.3.4/33:80", "from 0 to 32"),
        ("1.2.3.4/08:80", "prefix"),
        ("[::1]/129:80", "from 0 to 128"),
        ("example.com:443", "network.connect alone"),
        ("*.example.com:443", "network.connect alone"),
        ("localhost:80", "network.connect alone"),
        ("*:443", "any"),
        (":443", "any"),
        ("any/0:443", "takes no prefix"),
        ("1.2.3.4:", "ports are missing"),
        ("1.2.3.4:65536", "not a port"),
        ("1.2.3.4:5-2", "ends before"),
        ("1.2.3.4:1-", "not a port"),
        ("1.2.3.4:1,,2", "not a port"),
        ("1.2.3.4:0x50", "not a port"),
        ("1.2.3.4:٣", "not a port"),  # a digit, but not of ours
        ("1.2.3.4:80/sctp", "neither tcp nor udp"),
        ("1.2.3.4:80/TCP", "neither tcp nor udp"),
        ("1.2.3.4:80/", "neither tcp nor udp"),
        (" 1.2.3.4:80", "not an address"),
        ("1.2.3.4:80\n", "not a port"),
        ("1.2.3.4:80/tcp/udp", "form"),
        ("evil\0.example.com:443", "not an address"),
    ],
)
def test_refuses(text: str, says: str) -> None:
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        parse(text)
    assert says in str(error.value)


@given(st.text(alphabet="0123456789abcdef:.,-/[]*%anyudptc \n\0", max_size=40))
def test_gives_a_destination_or_value_error(text: str) -> None:
    try:
        to = parse(text)
    except ValueError:
        return
    assert to.networks
    assert list(to.ports) == sorted(to.ports)
    assert all(first <= last for first, last in to.ports)
    assert all(a[1] + 1 < b[0] for a, b in zip(to.ports, to.ports[1:], strict=False))


@given(st.ip_addresses(v=4), st.integers(0, 32), st.integers(0, HIGHEST_PORT))
def test_mapped_notation_means_ipv4(address: ipaddress.IPv4Address, prefix: int, port: int) -> None:
    plain = ipaddress.ip_network((address, prefix), strict=False)
    mapped = f"[::ffff:{plain.network_address}]/{prefix + 96}:{port}"
    assert parse(mapped) == parse(f"{plain}:{port}")

# SPDX-License-Identifier: Apache-2.0
"""Requests of a launcher, or of whoever says to be one."""

from __future__ import annotations

import pytest

from monitor.daemon.context import Refused
from monitor.daemon.launch import request as launch_request
from monitor.launch import protocol
from monitor.launch.protocol import Message, ProtocolError

SOUND = {"agent": b"demo/a", "workspace": b"/w", "cwd": b"/c"}


def request(**fields: bytes) -> Message:
    pairs = [(name, value) for name, value in (SOUND | fields).items()]
    return protocol.decode(protocol.encode(protocol.REQUEST, *pairs))


def test_a_request_by_name() -> None:
    found = launch_request.read(
        request(profile=b"p", ttl=b"30m", purpose="für".encode(), observe=b"1", user=b"u")
    )
    assert (found.profile, found.profile_text) == ("p", None)
    assert (found.ttl, found.purpose, found.observe, found.user) == (1800, "für", True, "u")


def test_a_depth_is_said_or_not() -> None:
    assert launch_request.read(request()).depth is None
    assert launch_request.read(request(depth=b"0")).depth == 0
    assert launch_request.read(request(depth=b"12")).depth == 12


def test_a_request_by_file() -> None:
    found = launch_request.read(request(profile_text=b"name: x\n", profile_source=b"/h/\xff.yaml"))
    assert found.profile is None
    assert (found.profile_text, found.profile_source) == ("name: x\n", "/h/\udcff.yaml")


def test_a_request_by_grant_names_an_agent_or_not() -> None:
    found = launch_request.read(request(grant=b"ri1.x"))
    assert (found.grant, found.profile, found.agent) == ("ri1.x", None, "demo/a")
    fields = (("grant", b"ri1.x"), ("workspace", b"/w"), ("cwd", b"/c"))
    message = protocol.decode(protocol.encode(protocol.REQUEST, *fields))
    assert launch_request.read(message).agent == ""
    with pytest.raises(ProtocolError, match="agent is missing"):
        launch_request.read(protocol.decode(protocol.encode(protocol.REQUEST, *fields[1:])))


def test_paths_that_are_no_text_pass_and_the_command_is_made_readable() -> None:
    found = launch_request.read(request(workspace=b"/\xff", argv0=b"\xff\n"))
    assert found.workspace == "/\udcff"
    assert found.argv0 == "\\xff\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"profile": b"p", "profile_text": b"x", "profile_source": b"/x"},
        {"profile_text": b"x"},
        {"profile_source": b"/x"},
        {"grant": b"ri1.", "profile": b"p"},
        {"grant": b"ri1.", "profile_text": b"x", "profile_source": b"/x"},
        {"workspace": b"w"},
        {"cwd": b""},
        {"observe": b"yes"},
    ],
)
def test_what_our_launcher_never_sends(fields: dict[str, bytes]) -> None:
    with pytest.raises(ProtocolError):
        launch_request.read(request(**fields))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"agent": b"\xff"}, "agent's name is not UTF-8"),
        ({"purpose": b"a\xff"}, r"purpose is not UTF-8 \(byte 1\)"),
        ({"profile": b"\xff"}, "profile's name is not UTF-8"),
        ({"profile_text": b"\xff", "profile_source": b"/x.yaml"}, "profile /x.yaml is not UTF-8"),
        ({"grant": b"\xff"}, "the grant is not UTF-8"),
        ({"ttl": b"soon"}, "--ttl: 'soon' is not a duration"),
        ({"ttl": b"\xff"}, "ttl is not UTF-8"),
        ({"depth": b"-1"}, "--depth: a number from 0 on"),
        ({"depth": b"99999"}, "--depth: a number from 0 on"),
        ({"depth": b""}, "--depth: a number from 0 on"),
        ({"depth": "²".encode()}, "--depth: a number from 0 on"),
    ],
)
def test_what_a_person_may_get_wrong(fields: dict[str, bytes], what: str) -> None:
    with pytest.raises(Refused, match=what):
        launch_request.read(request(**fields))


def test_names_of_the_environment() -> None:
    data = protocol.encode(
        protocol.REQUEST, ("environ", b"A"), ("environ", b""), ("environ", b"\xff")
    )
    assert launch_request.environment(protocol.decode(data)) == ["A", "\udcff"]

# SPDX-License-Identifier: Apache-2.0
"""Reads a `request` of ri-exec: bytes that anyone may have sent, into what they ask for."""

from __future__ import annotations

import os

from monitor.daemon.context import LaunchRequest, Refused
from monitor.daemon.leases import SHORTEST
from monitor.launch.protocol import Message, ProtocolError
from monitor.profile import durations

TRUE = b"1"
MOST_DIGITS = 4


def read(message: Message) -> LaunchRequest:
    """What is asked for. Refused: it cannot be; ProtocolError: no launcher of ours sent it."""
    profile = message.get("profile")
    text = message.get("profile_text")
    source = message.get("profile_source")
    if profile is not None and text is not None:
        raise ProtocolError("request: profile and profile_text exclude each other")
    if (text is None) is not (source is None):
        raise ProtocolError("request: profile_text and profile_source go together")
    grant = message.get("grant")
    if grant is not None and (profile is not None or text is not None):
        raise ProtocolError("request: a grant and a profile exclude each other")
    # Only a grant names the agent itself.
    agent = message.one("agent") if grant is None else message.get("agent") or b""
    observe = message.get("observe")
    if observe not in (None, TRUE):
        raise ProtocolError("request: observe is not 1")
    user = message.get("user")
    return LaunchRequest(
        agent=_text(agent, "the agent's name"),
        workspace=_folder(message, "workspace"),
        cwd=_folder(message, "cwd"),
        profile=None if profile is None else _text(profile, "the profile's name"),
        profile_text=None if text is None else _text(text, f"profile {os.fsdecode(source or b'')}"),
        profile_source=os.fsdecode(source or b""),
        ttl=_ttl(message.get("ttl"), "--ttl"),
        lease=_lease(message.get("lease")),
        purpose=_text(message.get("purpose") or b"", "the purpose"),
        observe=observe is not None,
        user=None if user is None else _text(user, "the user's name"),
        argv0=(message.get("argv0") or b"").decode("utf-8", "backslashreplace"),
        grant=None if grant is None else _text(grant, "the grant"),
        depth=_depth(message.get("depth")),
    )


def environment(message: Message) -> list[str]:
    """The names of the caller's environment variables."""
    return [os.fsdecode(name) for name in message.all("environ") if name]


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{what} is not UTF-8 (byte {error.start})") from error


def _folder(message: Message, name: str) -> str:
    value = os.fsdecode(message.one(name))
    if not value.startswith("/"):
        raise ProtocolError(f"request: {name} is not an absolute path")
    return value


def _lease(value: bytes | None) -> int | None:
    seconds = _ttl(value, "--lease")
    if seconds is not None and seconds < SHORTEST:
        raise Refused(
            f"--lease: {seconds}s is too short to be renewed in time: {SHORTEST}s or more"
        )
    return seconds


def _ttl(value: bytes | None, option: str) -> int | None:
    if value is None:
        return None
    try:
        return durations.seconds(_text(value, f"the {option[2:]}"))
    except ValueError as error:
        raise Refused(f"{option}: {error}") from error


def _depth(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > MOST_DIGITS:
        raise Refused("--depth: a number from 0 on")
    return int(value)

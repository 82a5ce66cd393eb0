# SPDX-License-Identifier: Apache-2.0
"""ri-exec's command line."""

from __future__ import annotations

import pytest

from monitor.launch import options
from monitor.launch.options import UsageError, parse


def test_everything_at_once() -> None:
    words = "--profile p --agent demo/a --ttl=30m --purpose x --workspace /w --user u --observe"
    found = parse([*words.split(), "--", "cmd", "--help", "-x"])
    assert found.values == {
        "profile": "p",
        "agent": "demo/a",
        "ttl": "30m",
        "purpose": "x",
        "workspace": "/w",
        "user": "u",
    }
    assert found.observe
    assert found.command == ["cmd", "--help", "-x"]


def test_the_first_word_that_is_no_option_is_the_command() -> None:
    assert parse(["--observe", "ls", "--profile", "x"]).command == ["ls", "--profile", "x"]
    assert parse(["--", "--observe"]).command == ["--observe"]
    assert parse(["--purpose", "--", "--", "ls"]).values == {"purpose": "--"}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ([], "no CMD"),
        (["--"], "no CMD"),
        (["--profile"], "--profile needs a value"),
        (["--profile="], "--profile needs a value"),
        (["--profile", "a", "--profile", "b", "ls"], "--profile is given twice"),
        (["--color", "ls"], "unknown option --color"),
        (["-x", "ls"], "unknown option -x"),
        (["-", "ls"], "unknown option -"),
        (["--observe=1", "ls"], "unknown option --observe=1"),
        (["--grant", "f", "--profile", "p", "ls"], "exclude each other"),
        (["--profile", "p", "--grant", "f", "ls"], "exclude each other"),
    ],
)
def test_what_cannot_be_understood(words: list[str], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        parse(words)


def test_help_and_version_need_no_command() -> None:
    text = parse(["--observe", "--help"]).done
    assert text is not None
    assert all(len(line) <= 100 for line in text.splitlines())
    for name in options.TAKES_VALUE:
        assert f"--{name} " in text
    assert parse(["-h"]).done == text
    assert (parse(["--version"]).done or "").startswith("ri-exec ")


@pytest.mark.parametrize(
    ("profile", "file", "agent"),
    [
        ("coding-agent", False, "coding-agent"),
        ("./mine", True, "mine"),
        ("mine.yaml", True, "mine"),
        ("/etc/x/mine.yml", True, "mine"),
    ],
)
def test_a_profile_is_a_name_or_a_file(profile: str, file: bool, agent: str) -> None:
    found = parse(["--profile", profile, "ls"])
    assert found.profile_file == (profile if file else None)
    assert found.agent == agent
    assert parse(["--profile", profile, "--agent", "other", "ls"]).agent == "other"


def test_without_a_profile_the_agent_has_a_name_too() -> None:
    assert parse(["ls"]).agent == options.DEFAULT_AGENT


def test_a_grant_names_the_agent_itself() -> None:
    assert parse(["--grant", "f", "ls"]).agent == ""
    assert parse(["--grant", "f", "--agent", "coder", "ls"]).agent == "coder"


def test_the_launch_socket_stands_beside_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RI_SOCKET", "/run/other/ri.sock")
    assert options.launch_socket() == "/run/other/launch.sock"
    monkeypatch.delenv("RI_SOCKET")
    assert options.launch_socket() == "/run/ri/launch.sock"

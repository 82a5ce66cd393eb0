# SPDX-License-Identifier: Apache-2.0
"""The configuration's approvers: what is taken, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from monitor.daemon.config import Approver, Config, ConfigError, load

PROGRAM = "{run: [/usr/bin/ask, --loud], user: nobody, timeout: 5}"
HOOK = "{post: 'https://chat.example.org/x', secret_file: /etc/ri/s}"


def written(folder: Path, *approvers: str) -> Path:
    file = folder / "config.yaml"
    file.write_text("approvers:\n" + "".join(f"  - {each}\n" for each in approvers))
    return file


def test_approvers(tmp_path: Path) -> None:
    config = load(written(tmp_path, PROGRAM, HOOK))
    assert config.approvers == (
        Approver(5, run=("/usr/bin/ask", "--loud"), user="nobody"),
        Approver(60, post="https://chat.example.org/x", secret_file=Path("/etc/ri/s")),
    )
    assert Config.from_json(config.to_json()) == config
    assert [each.name for each in config.approvers] == [
        "approver /usr/bin/ask",
        "approver https://chat.example.org",
    ]


def test_none(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("instance: ri\n")
    assert load(tmp_path / "config.yaml").approvers == ()


@pytest.mark.parametrize("host", ["127.0.0.1:8899", "localhost", "[::1]:80"])
def test_plain_http_on_this_host(tmp_path: Path, host: str) -> None:
    text = f"{{post: 'http://{host}/', secret_file: /s}}"
    assert load(written(tmp_path, text)).approvers[0].post == f"http://{host}/"


@pytest.mark.parametrize(
    ("approver", "problem"),
    [
        ("{}", "either run or post is given"),
        ("{run: [/bin/true], post: 'https://x/', secret_file: /s}", "either run or post"),
        ("{run: [ask]}", "ask must be an absolute path"),
        ("{run: [/bin/true], secret_file: /s}", "secret_file is for post only"),
        ("{run: [/bin/true], user: no-such-user}", "no user 'no-such-user' on this host"),
        ("{run: [/bin/true], timeout: 0}", "greater than 0"),
        ("{run: [/bin/true], shell: true}", "shell: Extra inputs are not permitted"),
        ("{run: /bin/true}", "valid list"),
        ("{post: 'https://x/'}", "post needs secret_file, an absolute path"),
        ("{post: 'https://x/', secret_file: s}", "post needs secret_file, an absolute path"),
        ("{post: 'https://x/', secret_file: /s, user: nobody}", "user is for run only"),
        ("{post: 'http://chat.example.org/', secret_file: /s}", "post is an https URL"),
        ("{post: 'http://127.0.0.1.example.org/', secret_file: /s}", "post is an https URL"),
        ("{post: 'http://127.0.0.1@example.org/', secret_file: /s}", "is no URL of a webhook"),
        ("{post: 'file:///etc/passwd', secret_file: /s}", "is no URL of a webhook"),
        ("{post: 'https://x:99999/', secret_file: /s}", "is no URL"),
        ("{post: 'https://[::/', secret_file: /s}", "is no URL"),
    ],
)
def test_what_is_refused(tmp_path: Path, approver: str, problem: str) -> None:
    file = written(tmp_path, PROGRAM, approver)
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}:3: approvers.1")
    assert problem in str(caught.value)


def test_so_many_and_no_more(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="approvers"):
        load(written(tmp_path, *["{run: [/bin/true]}"] * 17))


def test_the_line_in_a_list(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("host_groups:\n  - good\n  - 'not good'\n")
    with pytest.raises(ConfigError, match=r"config.yaml:3: host_groups.1: "):
        load(file)

# SPDX-License-Identifier: Apache-2.0
"""rictl profile: check, show, schema, with folders of profiles of our own."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
name: small
files:
  read: ["{workspace}/**", /usr/lib/**]
  execute: [/usr/bin/env]
  deny: ["{workspace}/.env"]
network:
  connect: ["127.0.0.1:8080", "[2001:db8::]/32:53/udp"]
environment:
  set: {PLACE: "{workspace}"}
limits: {ttl: 30m}
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def rictl(tmp_path: Path) -> Run:
    """Runs `rictl profile`, with the catalog in tmp_path/catalog and the shipped profiles."""
    catalog = tmp_path / "catalog"
    catalog.mkdir()
    config = tmp_path / "config.yaml"
    config.write_text(f"profiles: [{catalog}, {ROOT / 'profiles'}]\n")

    def run(command: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        options: list[str | Path] = [] if command == "schema" else ["--config", config]
        done = subprocess.run(
            [sys.executable, "-m", "monitor.cli.rictl", "profile", command, *arguments, *options],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"},
            cwd=tmp_path,
        )
        assert "Traceback" not in done.stderr
        assert "defect" not in done.stderr
        return done

    return run


def test_a_good_profile_is_ok(rictl: Run, tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(GOOD)
    done = rictl("check", file, "--workspace", "/tmp")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"{file}: ok"


@pytest.mark.parametrize(
    ("text", "place", "part"),
    [
        ("name: x\nfiles:\n  reed: []\n", ":3:3:", "reed"),
        ("name: x\nnetwork:\n  connect:\n    - nonsense\n", ":4:7:", "network rule"),
        ("name: x\nextends: nobody\n", ":2:", "nobody"),
        ("name: x\nfiles: {ask: [srv]}\n", ":2:", "relative"),
        ("name: [\n", ":", ""),
        ("", ":", ""),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    rictl: Run, tmp_path: Path, text: str, place: str, part: str
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    done = rictl("check", file)
    assert done.returncode == 1
    assert f"{file}{place}" in done.stdout
    assert part in done.stdout
    assert f"{file} cannot be used" in done.stderr


def test_findings_of_lint_fail_the_check_only_when_they_are_errors(
    rictl: Run, tmp_path: Path
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text('name: x\nnetwork: {connect: ["any:443"]}\n')
    done = rictl("check", file)
    assert done.returncode == 0
    assert f"{file}:2:" in done.stdout
    assert ": warning: network.connect" in done.stdout
    file.write_text("name: x\nnetwork: {unix: [/run/docker.sock]}\n")
    done = rictl("check", file)
    assert done.returncode == 1
    assert ": error: network.unix" in done.stdout


@pytest.mark.parametrize("target", ["missing.yaml", ".", "/dev/null/x"])
def test_files_that_cannot_be_read(rictl: Run, target: str) -> None:
    done = rictl("check", target)
    assert done.returncode == 1
    assert target in done.stderr + done.stdout


def test_a_file_that_is_not_text(rictl: Run, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: \xff\xfe\n")
    assert rictl("check", "x.yaml").returncode == 1
    assert rictl("show", "./x.yaml").returncode == 1


def test_names_of_odd_bytes_are_shown_safely(rictl: Run, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\x1b[1m.yaml")
    (tmp_path / name).write_text("name: x\nfiles: {reed: []}\n")
    done = rictl("check", name)
    assert done.returncode == 1
    assert "[1m.yaml:2:" in done.stdout
    assert "caf\\xe9\\x1b[1m.yaml cannot be used" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_a_workspace_that_is_none(rictl: Run, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(GOOD)
    done = rictl("check", "x.yaml", "--workspace", "/none")
    assert done.returncode == 1
    assert "/none is no directory" in done.stderr
    assert rictl("check", "x.yaml", "--user", "no-such-user").returncode == 1


def test_a_configuration_that_is_wrong_is_named(rictl: Run, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("profilez: []\n")
    done = rictl("show", "base")
    assert done.returncode == 1
    assert "config.yaml:1" in done.stderr


def test_show_prints_the_file_as_written(rictl: Run, tmp_path: Path) -> None:
    assert rictl("show", "base").stdout == (ROOT / "profiles" / "base.yaml").read_text()
    (tmp_path / "catalog" / "base.yaml").write_text("name: base\n# ours\n")
    assert rictl("show", "base").stdout == "name: base\n# ours\n"
    done = rictl("show", "nobody")
    assert done.returncode == 1
    assert "coding-agent" in done.stderr
    assert rictl("show", "../catalog/base").returncode == 1


def test_show_effective_fills_in_variables_and_names_origins(rictl: Run, tmp_path: Path) -> None:
    (tmp_path / "catalog" / "small.yaml").write_text(GOOD)
    user = pwd.getpwuid(os.getuid()).pw_name
    done = rictl("show", "small", "--effective", "--workspace", "/opt", "--user", user)
    assert done.returncode == 0, done.stderr
    for line in (
        "profile small",
        "    r--       /opt/**    # files.read: {workspace}/**",
        "    hide      /opt/.env    # files.deny: {workspace}/.env",
        "    allow     127.0.0.1/32 8080/tcp    # network.connect: 127.0.0.1:8080",
        "    allow     2001:db8::/32 53/udp    # network.connect: [2001:db8::]/32:53/udp",
        "  set    PLACE=/opt",
        "  ttl        1800 s",
        "  memory     not limited",
        "  workspace  /opt",
    ):
        assert line in done.stdout
    assert f"{tmp_path}/catalog/small.yaml:3" in done.stdout


WAITS = """\
name: waits
files: {read: [/srv/**], ask: ["/srv/*.key"]}
exec: {ask: [{path: /usr/bin/git, args: ["...", push, "..."], sha256: true}]}
network: {connect: ["10.20.7.0/24:5432"], ask: [{to: "10.9.0.1:443", why: out}]}
labels:
  seen:
    files: [/srv/c/**]
    connect: ["10.20.7.0/24:5432"]
    then: {network: {only: []}, exec: {deny: [/usr/bin/nc]}, ask: everywhere}
limits: {egress_bytes: 10M, on_budget: freeze}
conditions: {time: [{days: [mon], start: "08:00", until: "18:00"}], load_below: 9}
signals: {risk_score: [{at: 50, then: deny}]}
"""


def test_show_effective_says_what_waits_and_what_follows(rictl: Run, tmp_path: Path) -> None:
    (tmp_path / "waits.yaml").write_text(WAITS)
    done = rictl("show", "./waits.yaml", "--effective")
    assert done.returncode == 0, done.stderr
    lines = {line.partition("    #")[0] for line in done.stdout.splitlines()}
    assert lines >= {
        "    allow     10.20.7.0/24 5432/tcp (label seen)",
        "    ask       10.9.0.1/32 443/tcp",
        "    ask       /usr/bin/git ... push ... (by content)",
        "    ask       /srv/*.key",
        "    by open   /srv/c",
        "    asks about every connection and program start",
        "    egress    10485760",
        "  mon 08:00-18:00 UTC",
        "  load below 9",
        "  held first program starts, connections, opens that rules name",
        "  asks       300 s for an answer, 30 a minute; deny where nobody can be asked",
        "  budgets    past them: freeze",
        "  signals    revoked: kill, assurance: freeze, risk from 50: deny",
    }


def test_show_effective_json_is_the_plan(rictl: Run, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(GOOD)
    plan = json.loads(rictl("show", "./small.yaml", "--effective", "--json").stdout)
    assert plan["limits"]["ttl"] == 1800
    assert plan["policies"][0]["profile"] == "small"


@pytest.mark.parametrize("name", ["base", "coding-agent", "ci-agent", "readonly-auditor"])
def test_shipped_profiles_take_effect_here(rictl: Run, name: str) -> None:
    assert rictl("show", name, "--effective").returncode == 0


def test_schema_is_json_schema() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "monitor.cli.rictl", "profile", "schema"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    schema = json.loads(done.stdout)
    assert schema["type"] == "object"
    assert {"name", "files", "network"} <= schema["properties"].keys()

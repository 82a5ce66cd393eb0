# SPDX-License-Identifier: Apache-2.0
"""The profiles that come with the software: each loads, says why, and keeps its promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.profile import placed
from monitor.profile.catalog import Catalog
from monitor.profile.lint import lint
from monitor.profile.model import NetworkSection, Profile
from monitor.profile.network import parse
from monitor.profile.resolve import resolve
from monitor.profile.variables import Variables

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT / "profiles", ROOT / "bench" / "profiles")
CATALOG = Catalog(FOLDERS)
SHIPPED = Catalog(FOLDERS[:1]).names()
SOCKETS = [name for name in SHIPPED if name.startswith("socket-")]
AGENTS = [name for name in SHIPPED if name not in SOCKETS]
VARIABLES = Variables("/home/u/w", "/home/u", "s", 1000)

# What is meant as it stands, and said so in the profile.
MEANT = {
    "coding-agent": {"writable and executable"},
    "ci-agent": {"writable and executable"},
    "research-agent": {"any host is a way out"},
}


def effective(name: str) -> Profile:
    (whole,) = resolve(CATALOG.load(name), CATALOG.load)
    return whole


def allows(name: str, kind: str, path: str) -> bool:
    rules = placed.rules(effective(name), VARIABLES)
    denying = [*rules.deny]
    if kind == "write":
        denying += rules.read_only
    listed: tuple[placed.PlacedPath, ...] = getattr(rules, kind)
    granted = any(rule.covers(path) for rule in listed)
    return granted and placed.taken(denying, path) is None


def test_what_ships() -> None:
    assert AGENTS == ["base", "ci-agent", "coding-agent", "readonly-auditor", "research-agent"]
    assert [name.removeprefix("socket-") for name in SOCKETS] == [
        "containerd", "dbus-system", "dbus-user", "docker", "gpg-agent", "incus", "libvirt",
        "names", "podman", "snapd", "ssh-agent", "systemd", "tmux", "wayland", "x11",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SOCKETS)
def test_each_socket_is_told_of_and_nothing_else_is_opened(name: str) -> None:
    whole = effective(name)
    assert whole.network is not None
    findings = lint((whole,), VARIABLES, exists=lambda path: True, is_folder=lambda path: False)
    told = {finding.message.split(" ", 1)[0] for finding in findings}
    assert told == {rule.path for rule in whole.network.unix}
    assert {finding.level for finding in findings} == {"warning"}
    opened = whole.model_dump(exclude={"name", "description", "network", "environment", "files"})
    assert opened == Profile(name=name).model_dump(
        exclude={"name", "description", "network", "environment", "files"}
    )
    rest = whole.network.model_dump(exclude={"unix"})
    assert rest == NetworkSection().model_dump(exclude={"unix"})
    allowed = placed.rules(whole, VARIABLES)
    assert {rule.path for rule in allowed.read} <= {"/home/u/.Xauthority"}
    assert not allowed.write
    assert not allowed.execute


@pytest.mark.parametrize("name", SOCKETS)
def test_a_listed_socket_opens_by_including_its_profile(name: str) -> None:
    path = effective(name).network.unix[0].path  # type: ignore[union-attr]
    own = Profile(name="own", include=("base", name))
    (whole,) = resolve(own, CATALOG.load)
    assert whole.network is not None
    assert path in {rule.path for rule in whole.network.unix}


@pytest.mark.parametrize("name", CATALOG.names())
def test_loads_and_resolves(name: str) -> None:
    whole = effective(name)
    assert whole.may_lack == ()
    assert whole.run_as == "user"


@pytest.mark.parametrize("name", AGENTS)
def test_lint_finds_only_what_is_meant(name: str) -> None:
    findings = lint(
        (effective(name),), VARIABLES, exists=lambda path: True, is_folder=lambda path: False
    )
    doubts = [finding for finding in findings if finding.level != "note"]
    for finding in doubts:
        assert any(meant in finding.message for meant in MEANT.get(name, ())), finding
    assert not [finding for finding in findings if finding.level == "note"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_rule_says_why(name: str) -> None:
    lines = (ROOT / "profiles" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    rules = [(number, line) for number, line in enumerate(lines, 1) if re.match(r" +- ", line)]
    assert rules
    for number, line in rules:
        assert re.search(r" # .{3,}$", line), f"{name}.yaml:{number}: {line}"


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/ssl/private/x.key",
        "/etc/ssh/ssh_host_ed25519_key", "/home/u/.ssh/id_ed25519", "/home/u/.aws/credentials",
        "/home/u/.gnupg/x", "/home/u/.bash_history", "/home/u/.netrc", "/home/u/w/.env",
        "/home/u/w/.git-credentials", "/root/x", "/home/other/x", "/dev/sda", "/dev/mem",
    ],
)  # fmt: skip
def test_nobody_reads_secrets(name: str, path: str) -> None:
    assert not allows(name, "read", path)


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "/etc/cron.d/x", "/usr/bin/x", "/usr/local/bin/x", "/opt/x", "/proc/x",
        "/sys/x", "/home/u/.bashrc", "/home/u/.profile", "/home/u/.ssh/config",
        "/home/u/.gitconfig",
        "/home/u/.config/autostart/x", "/home/u/.local/bin/x", "/home/u/w/.git/hooks/pre-commit",
        "/home/u/w/.git/config", "/var/spool/cron/x",
    ],
)  # fmt: skip
def test_nobody_writes_what_others_run(name: str, path: str) -> None:
    assert not allows(name, "write", path)


@pytest.mark.parametrize("name", AGENTS)
def test_no_sockets_no_listening_no_wide_environment(name: str) -> None:
    whole = effective(name)
    if whole.network is not None:
        assert whole.network.unix == ()
        assert whole.network.bind == ()
    assert whole.environment is not None
    assert "*" not in whole.environment.keep
    for glob in ("LD_*", "PYTHON*", "GIT_*", "*TOKEN*", "*SECRET*", "*_KEY", "SSH_AUTH_SOCK"):
        assert glob in whole.environment.scrub


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("read", "/home/u/w/src/x.py"), ("write", "/home/u/w/src/x.py"),
        ("execute", "/home/u/w/.venv/bin/python"), ("write", "/home/u/w/.git/index.lock"),
        ("write", "/tmp/x"), ("read", "/home/u/.gitconfig"), ("read", "/etc/passwd"),
        ("read", "/home/u/.config/mini-swe-agent/.env"), ("read", "/home/u/w/.env.example"),
        ("read", "/home/u/w/.env.sample"), ("read", "/home/u/w/.env.template"),
        ("write", "/home/u/.config/mini-swe-agent/last_mini_run.traj.json"),
        ("execute", "/home/u/.local/share/pipx/venvs/mini-swe-agent/bin/python"),
        ("write", "/dev/null"), ("execute", "/usr/bin/env"), ("execute", "/lib64/ld-linux.so.2"),
    ],
)  # fmt: skip
def test_coding_agents_can_work(kind: str, path: str) -> None:
    assert allows("coding-agent", kind, path)


@pytest.mark.parametrize(
    "name", ["local", "production", "staging", "test", "development", "prod", "e", "secret", "dev"]
)
def test_coding_agents_read_no_variant_of_dotenv(name: str) -> None:
    assert not allows("coding-agent", "read", f"/home/u/w/.env.{name}")


def test_coding_agents_reach_only_this_host() -> None:
    whole = effective("coding-agent")
    assert whole.network is not None
    for rule in whole.network.connect:
        to = parse(rule.to)
        assert all(net.is_loopback for net in to.networks)
        assert to.ports == ((8000, 8999),)


def test_what_must_not_reach_out_has_no_network() -> None:
    for name in ("base", "ci-agent", "readonly-auditor"):
        section = effective(name).network
        assert section is None or section.connect == ()


def test_auditors_change_nothing_but_scratch() -> None:
    rules = placed.rules(effective("readonly-auditor"), VARIABLES)
    places = {rule.path for rule in rules.write if not rule.path.startswith("/dev/")}
    assert places == {"/tmp"}
    assert not allows("readonly-auditor", "execute", "/tmp/x")
    assert not allows("readonly-auditor", "write", "/home/u/w/x")
    assert allows("readonly-auditor", "read", "/home/u/w/x")

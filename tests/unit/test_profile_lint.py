# SPDX-License-Identifier: Apache-2.0
"""What lint finds, and what it leaves alone."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest

from monitor.profile.lint import Finding, lint
from monitor.profile.lint_gates import NOTHING, Look, look
from monitor.profile.load import parse
from monitor.profile.variables import Variables

VARIABLES = Variables("/home/u/w", "/home/u", "s", 1000)


SCRIPT, TWICE = "/usr/bin/a-script", "/usr/bin/perl"
LOOKS = defaultdict(lambda: NOTHING, {SCRIPT: Look(1, True), TWICE: Look(2, False)})


def findings(*texts: str, missing: str | None = None) -> list[Finding]:
    profiles = tuple(parse(f"name: p{i}\n{text}", f"p{i}") for i, text in enumerate(texts))
    exists, is_folder = (lambda path: path != missing), (lambda path: False)
    return lint(profiles, VARIABLES, exists, is_folder, LOOKS.__getitem__)


def found(*texts: str) -> set[tuple[str, str]]:
    return {(finding.level, finding.key) for finding in findings(*texts)}


def test_nothing_is_said_of_a_plain_profile() -> None:
    text = (
        'files: {read: [/usr/**, "{workspace}/src/**"], write: ["{workspace}/src/**"],'
        ' execute: [/usr/**], deny: ["{workspace}/src/x"]}\n'
        "network: {connect: [127.0.0.1:8000, 10.1.2.0/24:443], bind: [127.0.0.1:8000]}\n"
        "environment: {keep: [PATH]}"
    )
    assert findings(text) == []


@pytest.mark.parametrize(
    ("text", "level", "key", "says"),
    [
        ("files: {read: [/a/b], deny: [/a]}", "warning", "files.read", "files.deny takes away /a"),
        ("files: {read: [/a/b/**], deny: [/a/**]}", "warning", "files.read", "never allowed"),
        ("files: {read: [/a/b/c], deny: ['/a/?']}", "warning", "files.read", "never allowed"),
        ("files: {write: [/a/b], read_only: [/a]}", "warning", "files.write", "read_only takes"),
        ("files: {execute: [/a]}\nexec: {deny: [/a]}", "warning", "files.execute",
         "exec.deny takes"),
        ("files: {read: [/a/b, /a/**]}", "note", "files.read", "within /a/** already"),
        ("files: {read: [/a/b/**, /a/**]}", "note", "files.read", "within"),
        ("files: {read: [/a], deny: [/b]}", "note", "files.deny", "what nothing allows"),
        ("files: {read: [/a/**], read_only: [/a/b]}", "note", "files.read_only", "nothing"),
        ("files: {read: [/a/**], deny: ['/b/*']}", "note", "files.deny", "nothing"),
        ("files: {write: [/a/**], execute: [/a/b/**]}", "warning", "files.write",
         "writable and executable"),
        ("files: {write: ['{home}/.bashrc']}", "error", "files.write", ".bashrc"),
        ("files: {write: ['{home}/**']}", "error", "files.write", "{home}/.ssh"),
        ("files: {write: ['{home}/.ssh/config']}", "error", "files.write", "log in"),
        ("files: {write: ['{home}/.config/**']}", "error", "files.write", ".config/autostart"),
        ("files: {write: ['{workspace}/**']}", "warning", "files.write", ".git/hooks"),
        ("files: {write: ['{workspace}/.git/hooks/**']}", "warning", "files.write", "git runs"),
        ("files: {write: [/etc/cron.d/**]}", "error", "files.write", "/etc"),
        ("files: {write: [/usr/local/bin/x]}", "error", "files.write", "/usr"),
        ("files: {write: [/**]}", "error", "files.write", "host itself"),
        ("files: {write: [/var/run/docker.sock]}", "error", "files.write", "is root"),
        ("files: {read: ['{home}/**']}", "warning", "files.read", "{home}/.ssh"),
        ("files: {read: [/etc/**]}", "warning", "files.read", "/etc/shadow"),
        ("network: {unix: [/var/run/docker.sock]}", "error", "network.unix", "is root"),
        ("network: {unix: [/run/docker.sock]}", "error", "network.unix", "is root"),
        ("network: {unix: ['/run/user/{uid}/bus']}", "error", "network.unix", "outside"),
        ("network: {unix: [/run/dbus/system_bus_socket]}", "error", "network.unix", "outside"),
        ("network: {unix: [/tmp/ssh-a1/agent.7]}", "warning", "network.unix", "keys"),
        ("network: {unix: ['@/tmp/.X11-unix/X0']}", "warning", "network.unix", "types"),
        ("files: {write: [/run/own/**]}\nnetwork: {unix: [/run/own/x]}", "note",
         "network.unix", "waits for the gate"),
        ("files: {write: [/var/run/**]}\nnetwork: {unix: [/run/own/x]}", "note",
         "network.unix", "waits for the gate"),
        ("network: {connect: ['any:443']}", "warning", "network.connect", "no host"),
        ("network: {connect: ['0.0.0.0/1:443']}", "warning", "network.connect", "millions"),
        ("network: {connect: ['169.254.169.254:80']}", "error", "network.connect", "credential"),
        ("network: {connect: ['169.254.0.0/16:80']}", "error", "network.connect", "credential"),
        ("network: {connect: ['[fd00:ec2::254]:80']}", "error", "network.connect", "credential"),
        ("network: {connect: ['10.0.0.1:80'], deny: ['10.0.0.0/8:*']}", "warning",
         "network.connect", "never allowed"),
        ("network: {bind: ['any:80']}", "note", "network.bind", "only this host can connect in"),
        ("network: {bind: ['0.0.0.0:80'], expose: ['10.0.0.1:80']}", "note", "network.expose",
         "lets others than this host connect in"),
        ("network: {bind: ['[::]:0'], expose: ['any:8000-8999']}", "note", "network.expose",
         "lets others than this host connect in"),
        ("network: {bind: ['127.0.0.1:80'], expose: ['any:81']}", "warning", "network.expose",
         "lets nobody in"),
        ("environment: {keep: ['*']}", "warning", "environment.keep", "every variable"),
        ("environment: {keep: [MY_KEY], scrub: [MY_KEY]}", "warning", "environment.keep",
         "never kept"),
    ],
)  # fmt: skip
def test_finds(text: str, level: str, key: str, says: str) -> None:
    hits = [each for each in findings(text) if (each.level, each.key) == (level, key)]
    assert any(says in each.message for each in hits), findings(text)
    assert all(each.position is not None and each.position.line >= 2 for each in hits)


@pytest.mark.parametrize(
    ("text", "level", "key"),
    [
        ("files: {read: [/a/**], deny: [/a/b]}", "warning", "files.read"),
        ("files: {write: ['{workspace}/**'], read_only: ['{workspace}/.git/**',"
         " '{workspace}/.vscode', '{workspace}/.idea', '{workspace}/.envrc',"
         " '{workspace}/.claude']}", "warning", "files.write"),
        ("files: {read: ['{home}/src/**']}", "warning", "files.read"),
        ("files: {read: ['{home}/.sshx']}", "warning", "files.read"),
        ("network: {connect: ['10.0.0.1:80'], deny: ['10.0.0.0/8:*/udp']}", "warning",
         "network.connect"),
        ("network: {connect: ['10.0.0.1:80-90'], deny: ['10.0.0.0/8:80']}", "warning",
         "network.connect"),
        # Policy keeps wide rules away from them.
        ("network: {connect: ['any:80']}", "error", "network.connect"),
        ("network: {unix: [/run/own/x.sock]}", "error", "network.unix"),
        # Its name stays what it is.
        ("files: {write: [/run/own/x/**, /run/own]}\nnetwork: {unix: [/run/own/x]}", "warning",
         "network.unix"),
        ("files: {write: [/run/own/**], read_only: [/run/own/x]}\n"
         "network: {unix: [/run/own/x]}", "warning", "network.unix"),
        ("files: {write: [/**]}\nnetwork: {unix: ['@x']}", "warning", "network.unix"),
    ],
)  # fmt: skip
def test_leaves_alone(text: str, level: str, key: str) -> None:
    assert (level, key) not in found(text)


def test_what_the_extended_profile_does_not_allow() -> None:
    outer = "files: {read: [/a/**, /b]}"
    (finding,) = findings(outer, "files: {read: [/a/x, /c]}")
    assert finding.message == "/c is never allowed: what this extends does not allow it"
    # A wider rule is reachable in part.
    assert found("files: {read: [/a/x]}", "files: {read: [/a/**]}") == set()


def test_a_socket_that_the_extended_profile_keeps_in_place() -> None:
    inner = "files: {write: [/s/**]}\nnetwork: {unix: [/s/x]}"
    for outer, warned in (("files: {write: [/s/**]}", True), ("files: {read: [/s/**]}", False)):
        both = f"{outer}\nnetwork: {{unix: [/s/x]}}"
        messages = [each.message for each in findings(both, inner) if each.key == "network.unix"]
        assert any("waits for the gate" in message for message in messages) is warned


def test_missing_paths_are_noted_where_they_are_ones_own() -> None:
    (finding,) = findings("files: {read: [/a/b/**, /c]}", missing="/a/b")
    assert (finding.level, finding.key) == ("note", "files.read")
    assert finding.message == "/a/b does not exist here"


def test_a_home_below_root_is_the_users_own() -> None:
    (profile,) = (parse("name: a\nfiles: {write: ['{home}/x/**']}", "F"),)
    root = Variables("/root/w", "/root", "s", 0)
    assert lint((profile,), root, lambda path: True, lambda path: False) == []
    whole = Variables("/w", "/", "s", 0)
    other = parse("name: a\nfiles: {write: ['{home}/**']}", "F")
    levels = {each.level for each in lint((other,), whole, lambda path: True, lambda path: False)}
    assert "error" in levels


def test_a_folder_is_no_file() -> None:
    profile = parse("name: a\nfiles: {read: [/a, /b/**], deny: [/b/x]}", "F")
    found = lint((profile,), VARIABLES, exists=lambda path: True, is_folder=lambda path: True)
    assert [(each.level, each.key) for each in found] == [("error", "files.read")]
    assert "write /a/**" in found[0].message


def test_the_worst_comes_first_and_nothing_twice() -> None:
    text = "files: {read: ['{home}/**', /usr/x, /usr/**], write: [/etc/x]}"
    levels = [finding.level for finding in findings(text, text)]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)
    once = findings(text)
    assert len(once) == len(set(once))


RUNS = "files: {execute: [/usr/**]}"
RUNS_COPIES = "files: {read: [/usr/**, /w/**], write: [/w/**], execute: [/usr/**, /w/**]}"


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("ask_fallback: allow", "ask_fallback", "whoever is away has agreed"),
        ("files: {ask: [/x]}", "files.ask", "never asked about"),
        ("files: {read: [/a/**], ask: ['/b/*.key']}", "files.ask", "never asked about"),
        (
            "network: {ask: ['10.0.0.1:443'], deny: ['10.0.0.0/8:443']}",
            "network.ask",
            "takes it away",
        ),
        (f"{RUNS_COPIES}\nexec: {{ask: [/usr/bin/git]}}", "exec.ask", "a copy of /usr/bin/git"),
        (
            f"{RUNS_COPIES}\nexec: {{deny: [{{path: /usr/bin/git, args: [push]}}]}}",
            "exec.deny",
            "a copy of /usr/bin/git",
        ),
        (
            "labels: {a: {files: [/x], then: {ask: everywhere}}}",
            "labels.a.files",
            "never gives the label",
        ),
        ("limits: {on_budget: ask}", "limits.on_budget", "no budget is set"),
        (f"{RUNS}\nexec: {{ask: [/usr/bin/git]}}", "exec.ask", "/usr/lib/git-core/git as well"),
        (f"{RUNS}\nexec: {{ask: [{TWICE}]}}", "exec.ask", "other names"),
        (f"{RUNS}\nexec: {{deny: [{{path: {TWICE}, args: [-e]}}]}}", "exec.deny", "other names"),
        (f"{RUNS}\nexec: {{deny: [{SCRIPT}]}}", "exec.deny", "gives it to its interpreter"),
        (f"{RUNS}\nexec: {{ask: [{SCRIPT}]}}", "exec.ask", "gives it to its interpreter"),
        (
            f"{RUNS}\nlabels: {{a: {{exec: [{SCRIPT}], then: {{ask: everywhere}}}}}}",
            "labels.a.exec",
            "gives it to its interpreter",
        ),
        (
            f"{RUNS}\nlabels: {{a: {{exec: [/x], then: {{exec: {{deny: [{TWICE}]}}}}}}}}",
            "labels.a.then.exec.deny",
            "other names",
        ),
        (
            "labels: {a: {connect: ['10.0.0.1:1'], then: {ask: everywhere}}}",
            "labels.a.connect",
            "never gives the label",
        ),
        (
            "network: {connect: ['10.0.0.0/8:443']}\nfiles: {read: [/x]}\n"
            "labels: {a: {files: [/x], then: {network: {only: ['11.0.0.0/8:443']}}}}",
            "labels.a.then.network.only",
            "leaves nothing",
        ),
    ],
)
def test_doubts_about_what_waits(text: str, key: str, says: str) -> None:
    said = [each for each in findings(text) if each.key == key]
    assert any(each.level == "warning" and says in each.message for each in said), said


@pytest.mark.parametrize(
    "text",
    [
        "files: {read: [/a/**], ask: ['/a/*.key', '/a/**/x']}",
        "network: {ask: ['10.0.0.1:443'], deny: ['10.0.0.0/8:80']}",
        f"{RUNS_COPIES}\nexec: {{ask: [{{path: /usr/bin/git, sha256: true}}]}}",
        "files: {read: [/usr/**], execute: [/usr/**]}\nexec: {ask: [/usr/bin/rm]}",
        "files: {execute: [/usr/bin/**]}\nexec: {ask: [/usr/bin/git]}",
        f"{RUNS}\nexec: {{ask: [{{path: {TWICE}, sha256: true}}], deny: [{TWICE}]}}",
        f"{RUNS}\nexec: {{ask: ['/usr/bin/a-*']}}",
        "limits: {execs_per_minute: 9, on_budget: ask}",
    ],
)
def test_no_doubts_where_they_hold(text: str) -> None:
    keys = {"files.ask", "network.ask", "exec.ask", "exec.deny", "limits.on_budget"}
    assert [each for each in findings(text) if each.key in keys] == []


def test_destinations_of_labels_that_touch_what_is_allowed() -> None:
    text = (
        "network: {connect: ['10.20.0.0/16:5432'], ask: ['any:443'], unix: [/run/own/x]}\n"
        "labels: {a: {connect: ['10.20.7.0/24:*'], then: {network: {only: ['10.0.0.0/8:*']}}}}"
    )
    (said,) = [each for each in findings(text) if each.key.startswith("labels.")]
    assert (said.level, said.key) == ("note", "labels.a.then.network")
    assert "unix sockets stay" in said.message


def test_looks_at_files_and_at_nothing_else(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    (tmp_path / "other").hardlink_to(script)
    os.mkfifo(tmp_path / "fifo")
    assert look(str(script)) == Look(2, True)
    for name in ("fifo", "absent", "", "a\0b", "\udcff"):
        assert look(str(tmp_path / name)) == NOTHING


def test_a_time_zone_that_this_host_does_not_know() -> None:
    text = "conditions: {time: [{zone: Europe/Berlin}, {zone: Europe/Berln}, {zone: Europe}]}"
    said = [each.message for each in findings(text) if each.level == "error"]
    assert [message.split()[-4].rstrip(":") for message in said] == ["Europe/Berln", "Europe"]

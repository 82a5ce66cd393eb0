# SPDX-License-Identifier: Apache-2.0
"""Profiles from text: what is read, what is refused and where it is said to stand."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.profile import durations
from monitor.profile.document import DEEPEST, LARGEST_TEXT, MOST_NODES
from monitor.profile.errors import Problem, ProfileError
from monitor.profile.load import load, parse
from monitor.profile.model import (
    ConnectRule,
    ExecRule,
    FilesSection,
    NetworkRule,
    PathRule,
    Profile,
    UnixRule,
)

WHOLE = """\
name: whole
description: every key there is
include: [base]
files:
  read: [/usr/**, {path: "{home}/.gitconfig"}]
  write:
    - "{workspace}/**"
  execute: []
  deny: ["{workspace}/**/.env"]
  read_only: ["{workspace}/.git/hooks"]
network:
  connect: [127.0.0.1:8000-8999]
  bind: []
  deny: [{to: "10.0.0.0/8:*"}]
  unix: ["/run/user/{uid}/x", "@abstract"]
exec:
  deny: [/usr/bin/sudo, {path: /usr/bin/s*}]
syscalls:
  preset: strict
  allow: [sysv-ipc]
  deny: [mount]
limits: {ttl: 30m, processes: 10, open_files: 64, memory: 512M}
environment:
  keep: [PATH, LC_*]
  scrub: ["*_KEY"]
  set: {CI: "true", WORK: "{workspace}"}
audit: {records: every, required: true}
run_as: root
may_lack: [view]
"""


def problems(text: str) -> list[Problem]:
    with pytest.raises(ProfileError) as error:
        parse(text, "F")
    assert str(error.value).splitlines() == [str(each) for each in error.value.problems]
    return list(error.value.problems)


def only(text: str) -> Problem:
    (found,) = problems(text)
    return found


def test_reads_every_key_with_its_place() -> None:
    profile = parse(WHOLE, "F")
    assert profile.files is not None
    assert profile.network is not None
    assert profile.exec is not None
    read = profile.files.read
    assert [rule.path for rule in read] == ["/usr/**", "{home}/.gitconfig"]
    assert [(rule.position.line, rule.position.column) for rule in read if rule.position] == [
        (5, 10),
        (5, 19),
    ]
    rules: list[PathRule | ConnectRule | NetworkRule | UnixRule | ExecRule] = [
        *read, *profile.files.write, *profile.files.deny, *profile.files.read_only,
        *profile.network.connect, *profile.network.deny, *profile.network.unix,
        *profile.exec.deny,
    ]  # fmt: skip
    assert all(rule.position is not None and rule.position.source == "F" for rule in rules)
    assert profile.places["limits.ttl"].line == 22
    assert profile.places["include[0]"].column == 11
    assert profile.places["environment.set.WORK"].line == 26
    assert profile.limits is not None
    assert profile.limits.processes == 10


def test_absent_and_empty_sections_differ() -> None:
    assert parse("name: a", "F").files is None
    assert parse("name: a\nfiles: {}", "F").files == FilesSection()


@pytest.mark.parametrize(
    ("text", "line", "column", "key", "says"),
    [
        ("name: a\nfile: {}", 2, 1, "file", "did you mean files"),
        ("name: a\nfiles:\n  raed: []", 3, 3, "files.raed", "did you mean read"),
        ("name: a\nplaces: {}", 2, 1, "places", "unknown key"),
        ("description: x", 1, 1, "name", "is missing"),
        ("name: Bad Name", 1, 7, "name", "lower-case"),
        ("name: ../../etc/shadow", 1, 7, "name", "lower-case"),
        ("name: 7", 1, 7, "name", "quotes"),
        ("name: a\nfiles: []", 2, 8, "files", "a mapping"),
        ("name: a\nfiles:", 2, 7, "files", "no value"),
        ("name: a\nfiles: {read: /usr}", 2, 15, "files.read", "a list"),
        ("name: a\nfiles: {read: [[/usr]]}", 2, 16, "files.read[0]", "a rule"),
        ("name: a\nfiles: {read: [7]}", 2, 16, "files.read[0]", "quotes"),
        ("name: a\nfiles: {read: [~]}", 2, 16, "files.read[0]", "a rule"),
        ("name: a\nfiles: {read: [{}]}", 2, 16, "files.read[0].path", "is missing"),
        (
            "name: a\nfiles: {read: [{path: /a, position: x}]}", 2, 27,
            "files.read[0].position", "unknown key",
        ),
        ("name: a\nfiles:\n  read:\n    - {home}", 4, 8, "files.read[0].home", "in quotes"),
        ("name: a\nlimits: {processes: 0}", 2, 21, "limits.processes", "greater"),
        ("name: a\nlimits: {processes: '3'}", 2, 21, "limits.processes", "whole number"),
        ("name: a\nlimits: {open_files: 1.5}", 2, 22, "limits.open_files", "whole number"),
        ("name: a\nlimits: {ttl: 30}", 2, 15, "limits.ttl", "quotes"),
        ("name: a\nlimits: {ttl: 30x}", 2, 15, "limits.ttl", "duration"),
        ("name: a\nlimits: {ttl: 0s}", 2, 15, "limits.ttl", "duration"),
        ("name: a\nlimits: {memory: 5X}", 2, 18, "limits.memory", "size"),
        ("name: a\nlimits: {on_expiry: thaw}", 2, 21, "limits.on_expiry", "'freeze'"),
        ("name: a\naudit: {required: 'true'}", 2, 19, "audit.required", "true or false"),
        ("name: a\naudit: {required: yes}", 2, 19, "audit.required", "true or false"),
        ("name: a\naudit: {records: some}", 2, 18, "audit.records", "'first' or 'every'"),
        ("name: a\nrun_as: alice", 2, 9, "run_as", "'user' or 'root'"),
        ("name: a\nmay_lack: [seccomp]", 2, 12, "may_lack[0]", "'view'"),
        ("name: a\nsyscalls: {allow: [ptrace]}", 2, 20, "syscalls.allow[0]", "sysv-ipc"),
        ("name: a\nsyscalls: {deny: ['a b']}", 2, 19, "syscalls.deny[0]", "system call"),
        ("name: a\nenvironment: {keep: ['A B']}", 2, 22, "environment.keep[0]", "pattern"),
        ("name: a\nenvironment: {set: {A: 1}}", 2, 24, "environment.set.A", "quotes"),
        ("name: a\nenvironment: {set: {'1': x}}", 2, 26, "environment.set.1", "name"),
        ("name: a\nenvironment: {set: {A: '{x}'}}", 2, 24, "environment.set.A", "{x}"),
        ("name: a\nextends: ../b", 2, 10, "extends", "not the name"),
        ("name: a\ninclude: [b, b]", 2, 14, "include[1]", "already"),
        ("name: a\nnetwork: {ask: [x.org:1]}", 2, 17, "network.ask[0]", "network.connect alone"),
        (
            "name: a\nnetwork: {connect: [{to: '10.0.0.1:1', private: true}]}",
            *(2, 21, "network.connect[0]", "names addresses"),
        ),
        ("name: a\nnetwork: {unix: [x.sock]}", 2, 18, "network.unix[0]", "relative"),
        ("name: a\nnetwork: {unix: ['@']}", 2, 18, "network.unix[0]", "name"),
    ],
)  # fmt: skip
def test_says_what_is_wrong_and_where(
    text: str, line: int, column: int, key: str, says: str
) -> None:
    found = only(text)
    assert (found.source, found.line, found.column, found.key) == ("F", line, column, key)
    assert says in found.message
    assert str(found).startswith(f"F:{line}:{column}: {key}: ")


LABEL = "then: {ask: everywhere}"


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("files: {ask: [x]}", "files.ask[0]", "relative"),
        ("network: {ask: ['any']}", "network.ask[0]", "the form"),
        ("exec: {ask: ['*']}", "exec.ask[0]", "relative"),
        ("exec: {deny: [{path: /x, args: [a...]}]}", "exec.deny[0].args[0]", "stands alone"),
        ("exec: {deny: [{path: /x, outside: w}]}", "exec.deny[0].outside", "relative"),
        ("exec: {deny: [{path: /x, outside: /w/**}]}", "exec.deny[0].outside", "without /**"),
        ("exec: {ask: [{args: [a]}]}", "exec.ask[0].path", "is missing"),
        ("limits: {connects_per_minute: 0}", "limits.connects_per_minute", "greater"),
        ("limits: {egress_bytes: 1X}", "limits.egress_bytes", "not a size"),
        ("limits: {ask_timeout: soon}", "limits.ask_timeout", "not a duration"),
        ("limits: {on_budget: kill}", "limits.on_budget", "'deny', 'ask' or 'freeze'"),
        ("labels: {a: {files: [/x]}}", "labels.a.then", "is missing"),
        ("labels: {a: {files: [/x], then: {}}}", "labels.a.then", "nothing follows"),
        (f"labels: {{a: {{{LABEL}}}}}", "labels.a", "nothing earns it"),
        (f"labels: {{A: {{files: [/x], {LABEL}}}}}", "labels.A", "not the name of a label"),
        (f"labels: {{a: {{files: [x], {LABEL}}}}}", "labels.a.files[0]", "relative"),
        (f"labels: {{a: {{connect: [x], {LABEL}}}}}", "labels.a.connect[0]", "the form"),
        (f"labels: {{a: {{exec: [x], {LABEL}}}}}", "labels.a.exec[0]", "relative"),
        (
            "labels: {a: {files: [/x], then: {network: {only: [x]}}}}",
            "labels.a.then.network.only[0]",
            "the form",
        ),
        (
            "labels: {a: {files: [/x], then: {exec: {deny: [x]}}}}",
            "labels.a.then.exec.deny[0]",
            "relative",
        ),
        ("labels: [a]", "labels", "mapping of names to mappings"),
        ('conditions: {time: [{start: "8:00"}]}', "conditions.time[0].start", "time of day"),
        ('conditions: {time: [{until: "25:00"}]}', "conditions.time[0].until", "time of day"),
        (
            'conditions: {time: [{start: "08:00", until: "08:00"}]}',
            "conditions.time[0]",
            "ends when it begins",
        ),
        (
            'conditions: {time: [{start: "24:00", until: "08:00"}]}',
            "conditions.time[0].start",
            "time of day",
        ),
        ("conditions: {time: [mon]}", "conditions.time[0]", "a mapping with days, start"),
        ("signals: {risk_score: [50]}", "signals.risk_score[0]", "a mapping with at, then"),
        ('files: {ask: [{path: /x, why: "a\\nb"}]}', "files.ask[0].why", "line break"),
        ('network: {ask: [{to: "any:1", why: "\\e[31m"}]}', "network.ask[0].why", "control"),
        (f"exec: {{ask: [{{path: /x, why: {'x' * 501}}}]}}", "exec.ask[0].why", "longer"),
        ("conditions: {time: [{days: []}]}", "conditions.time[0].days", "no day"),
        ("conditions: {time: [{zone: ../x}]}", "conditions.time[0].zone", "not a time zone"),
        ("conditions: {memory_available: much}", "conditions.memory_available", "not a size"),
        ("conditions: {load_below: 0}", "conditions.load_below", "greater"),
        ("signals: {risk_score: [{at: 101, then: deny}]}", "signals.risk_score[0].at", "less"),
        ("ask_fallback: maybe", "ask_fallback", "'deny' or 'allow'"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_place(text: str, key: str, says: str) -> None:
    found = only(f"name: a\n{text}")
    assert (found.key, found.line) == (key, 2)
    assert says in found.message


def test_more_labels_than_the_kernel_holds() -> None:
    labels = ", ".join(f"l{i}: {{files: [/x], {LABEL}}}" for i in range(9))
    assert "the kernel holds 8" in only(f"name: a\nlabels: {{{labels}}}").message


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("usr", "relative"),
        ("*", "written out"),
        ("**", "written out"),
        ("/*", "DIR/**"),
        ("/usr/*", "DIR/**"),
        ("/usr/**/x", "pattern"),
        ("/usr/b?n", "pattern"),
        ("/usr/[ab]", "pattern"),
        ("/a/../etc/shadow", "component"),
        ("/a/./b", "component"),
        ("/a//b", "component"),
        ("/a/", "component"),
        ("//etc", "component"),
        ("/..", "component"),
        ("{home}/..", "component"),
        ("{home}x/y", "a / is missing behind {home}"),
        ("{workspace}**", "a / is missing"),
        ("/a/{home}", "only stand at the beginning"),
        ("{uid}/x", "relative"),
        ("{nobody}/x", "unknown variable {nobody}"),
        ("/a/{", "belongs to no variable"),
        ("/a/}{", "belongs to no variable"),
        ("~/x", "{home}"),
        ("", "empty"),
        ("/a\\tb", "control character"),
        ("/a\\x00b", "control character"),
        ("/" + "a" * 5000, "4095 bytes"),
    ],
)
def test_paths_that_no_allow_list_takes(path: str, says: str) -> None:
    for key in ("read", "write", "execute"):
        found = only(f'name: a\nfiles:\n  {key}:\n    - "{path}"')
        assert (found.line, found.key) == (4, f"files.{key}[0]")
        assert says in found.message


@pytest.mark.parametrize(
    "path", ["/", "/**", "/a", "/a/**", "{home}", "{workspace}/**", "/x/{uid}"]
)
def test_paths_that_allow_lists_take(path: str) -> None:
    files = parse(f'name: a\nfiles: {{read: ["{path}"]}}', "F").files
    assert files is not None
    assert files.read[0].path == path


@pytest.mark.parametrize(
    "path",
    ["/a", "/a/*", "/a/**/b", "{workspace}/.env.[!e]*", "{home}/**/*.pem", "/a/[]]", "/a/**"],
)
def test_globs_that_deny_takes(path: str) -> None:
    for section in ("files: {deny: ", "files: {read_only: ", "exec: {deny: "):
        parse(f'name: a\n{section}["{path}"]}}', "F")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/**/.env", "name a folder first"),
        ("/*/x", "name a folder first"),
        ("/**", "name a folder first"),
        ("/a/b**", "stands alone"),
        ("/a/[b", "without its ]"),
        ("/a/../b", "component"),
        ("*.pem", "relative"),
    ],
)
def test_globs_that_deny_refuses(path: str, says: str) -> None:
    for section in ("files: {deny: ", "files: {read_only: ", "exec: {deny: "):
        assert says in only(f'name: a\n{section}["{path}"]}}').message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("just text", "a mapping"),
        ("- a", "a mapping"),
        ("name: a\nname: b", "there already, in line 1"),
        ("name: a\n---\nname: b", "second document"),
        ("name: &a b\nfiles: *a", "anchors and aliases"),
        ("name: a\n<<: {files: {}}", "unknown key"),
        ("name: !!python/object/apply:os.system [id]", "tags"),
        ("name: !!str a", "tags"),
        ("name: a\nfiles: {read: [*.py]}", "anchors and aliases"),
        ("name: a\n\tfiles: {}", "cannot start any token"),
        ("name: [", "expected"),
        ("name: a\nfiles: {read: [{home}/x]}", "in quotes"),
        ("name: a\0b", "U+0000"),
        ("name: \ud800", "U+D800"),
        ("? [a]\n: b", "a key is text"),
        ("%YAML 9.9\n---\nname: a", "version"),
        ('"\\UFFFFFFFF": a', ""),
        ("name: " + "1" * 10_000, "lower-case"),
        ("[" * 50_000, "deeper"),
        ("- " * 50_000, "deeper"),
        ("{a: " * 50_000, "deeper"),
        ("name: a\ninclude: [" + "a," * MOST_NODES + "]", "keys and values"),
        ("#" * (LARGEST_TEXT + 1), "larger than"),
    ],
)
def test_hostile_yaml_is_refused(text: str, says: str) -> None:
    assert any(says in found.message for found in problems(text))


@pytest.mark.parametrize(
    "text",
    [
        'name: a\n"x\\ny": 1',
        'name: a\n"\\e[31m": 1',
        "name: a\n" + "k" * 900 + ": 1",
        "name: !" + "t" * 10_000,
        'name: a\ninclude: ["' + "b" * 10_000 + '"]',
    ],
)
def test_a_problem_is_one_short_line_whatever_the_text(text: str) -> None:
    line = str(only(text))
    assert line.isprintable()
    assert len(line) < 1200


def test_a_bomb_of_anchors_is_refused_at_its_first() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for one, other in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{other}: &{other} [{', '.join(['*' + one] * 9)}]")
    assert only("\n".join(lines)).line == 1


def test_depth_is_bounded_where_the_models_are_not() -> None:
    assert "deeper" in only("name: a\nfiles: " + "{a: " * DEEPEST).message


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(WHOLE)
    assert load(good).name == "whole"
    cases = {
        "bytes.yaml": (b"name: a\nx: \xff", f"{tmp_path}/bytes.yaml:2:4: the byte 0xff"),
        "huge.yaml": (b"#" * (LARGEST_TEXT + 1), "larger than"),
        "nul.yaml": (b"name: a\0", "U+0000"),
    }
    for name, (data, says) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ProfileError, match="^[^\n]*$") as error:
            load(tmp_path / name)
        assert says in str(error.value)
    for path in (tmp_path, tmp_path / "absent.yaml", Path("/dev/zero"), Path("a\0b")):
        with pytest.raises(ProfileError):
            load(path)


@given(st.text())
def test_any_text_is_a_profile_or_a_profile_error(text: str) -> None:
    with contextlib.suppress(ProfileError):
        assert isinstance(parse(text, "F"), Profile)


KEYS = st.sampled_from([*Profile.model_fields, *FilesSection.model_fields, "to", "path", "x", "<<"])
LEAVES = st.sampled_from(
    ["/usr", "/a/**", "{home}", "*", "&a", "*a", "!!int 3", "any:1", "~", "true", "-1", "0x1", "''",
     "|\n  x", ">-", "'", '"', "[", "{", "a: b", "- ", "#", "%", "@", "\t", "\x85", "\ufeff", "…"]
)  # fmt: skip


@st.composite
def yamlish(draw: st.DrawFn) -> str:
    """Text that gets further into the parser than random characters do."""
    lines = draw(
        st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(["- ", "", "? "]), KEYS, LEAVES),
            max_size=12,
        )
    )
    return "\n".join(f"{'  ' * indent}{dash}{key}: {leaf}" for indent, dash, key, leaf in lines)


@given(yamlish())
@settings(max_examples=300)
def test_anything_like_yaml_is_a_profile_or_a_profile_error(text: str) -> None:
    try:
        parse(text, "F")
    except ProfileError as error:
        assert all(found.source == "F" for found in error.problems)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_profile_or_a_profile_error(data: bytes) -> None:
    descriptor, name = tempfile.mkstemp()
    try:
        os.write(descriptor, data)
        load(Path(name))
    except ProfileError:
        pass
    finally:
        os.close(descriptor)
        Path(name).unlink()


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("30m", 1800), ("8h", 28800), ("7d", 604800)]
)
def test_durations(text: str, value: int) -> None:
    assert durations.seconds(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("4K", 4096), ("512M", 1 << 29), ("2G", 1 << 31)]
)
def test_sizes(text: str, value: int) -> None:
    assert durations.octets(text) == value


@pytest.mark.parametrize(
    "text", ["", "0s", "1", "-1s", "1.5h", "1H", "99999d", "1s ", "１s", "1 s"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        durations.seconds(text)


@pytest.mark.parametrize("text", ["", "0", "-1M", "1.5G", "1m", "1MB", "9999999999T", "1 G"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        durations.octets(text)

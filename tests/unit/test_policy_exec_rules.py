# SPDX-License-Identifier: Apache-2.0
"""Rules on program starts: which calls they speak of, and what the links come to together."""

from __future__ import annotations

import os.path
from collections.abc import Callable

import pytest

from monitor.policy.action import ExecAction, Verdict
from monitor.policy.decide import decide
from monitor.policy.exec_rules import MOST_PATHS, Program, judge, matches
from monitor.policy.gates import CALLS, Gates, gates, notified
from monitor.policy.plan import ExecRule, Plan
from monitor.profile.load import parse
from tests.support.profiles import compiled

GIT = "/usr/bin/git"
FILES = "files: {read: [/**], write: [/a/**], execute: [/**]}"


def plan(*texts: str, files: str = FILES) -> Plan:
    return compiled(
        [parse(f"name: p{i}\n{files}\n{text}", f"p{i}") for i, text in enumerate(texts)]
    )


def rule(text: str) -> ExecRule:
    (found,) = plan(f"exec: {{ask: [{text}]}}").policies[0].exec
    return found


def start(*argv: str, cwd: str = "/a/b", resolve: Callable[[str], str] = str) -> Program:
    return Program(argv[0], argv, cwd, resolve)


@pytest.mark.parametrize(
    ("patterns", "arguments", "matching"),
    [
        ("[push, ...]", ("push",), True),
        ("[push, ...]", ("push", "origin"), True),
        ("[push, ...]", ("pull",), False),
        ("[push, ...]", (), False),
        ("[push, ...]", ("-C", "x", "push"), False),
        ("[..., push, ...]", ("-C", "x", "push", "origin"), True),
        ("[..., push]", ("push", "push"), True),
        ("[..., push]", ("push", "origin"), False),
        ("[]", (), True),
        ("[]", ("x",), False),
        ("[...]", ("x", "y"), True),
        ("[..., ...]", (), True),
        ("['?', 'a*']", ("x", "ab"), True),
        ("['*']", ("with\nnewline",), True),
        ("['*']", ("",), True),
        ("['[!-]*']", ("-x",), False),
    ],
)
def test_arguments(patterns: str, arguments: tuple[str, ...], matching: bool) -> None:
    made = rule(f"{{path: {GIT}, args: {patterns}}}")
    assert matches(made, start(GIT, *arguments)) is matching


@pytest.mark.parametrize(
    ("path", "argv", "patterns", "matching"),
    [
        (GIT, ("git-push", "origin"), "[..., push, ...]", True),
        (GIT, ("/x/git-push",), "[push, ...]", True),
        (GIT, ("git-pull",), "[push, ...]", False),
        (GIT, ("git-push",), "[...,'p*']", False),
        (GIT, ("git", "pull"), "[push, ...]", False),
        (GIT, (), "[push, ...]", False),
        ("/usr/bin/busybox", ("rm", "-r", "x"), "[rm, ..., '-*r*', ...]", True),
        ("/usr/bin/busybox", ("rm", "x"), "[rm, ..., '-*r*', ...]", False),
        ("/usr/bin/dash", ("sh",), "['*']", False),
        ("/usr/bin/dash", ("sh",), "[]", True),
        ("/usr/bin/dash", ("...",), "[x]", False),
    ],
)
def test_the_name_that_a_program_is_called_by_is_an_argument_where_it_is_spelt_out(
    path: str, argv: tuple[str, ...], patterns: str, matching: bool
) -> None:
    made = rule(f"{{path: {path}, args: {patterns}}}")
    assert matches(made, Program(path, argv, "/")) is matching


def test_a_copy_by_the_name_of_what_it_does() -> None:
    made = rule(f"{{path: {GIT}, args: [push, ...], sha256: true}}")
    copy = Program("/a/git-push", ("git-push",), "/", same_content=lambda _rule: True)
    assert matches(made, copy)


def test_paths_that_climb_are_outside_without_a_resolver_too() -> None:
    made = rule('{path: /usr/bin/rm, outside: "{workspace}"}')
    climbing = ExecAction("/usr/bin/rm", ("rm", "-r", "/a/b/../c"))
    assert matches(made, Program(climbing.path, climbing.argv, "/a/b"))


def test_a_rule_without_arguments_is_about_the_program() -> None:
    made = rule(GIT)
    assert matches(made, start(GIT, "status"))
    assert not matches(made, start("/usr/bin/gitk"))


@pytest.mark.parametrize(
    ("arguments", "matching"),
    [
        (("-r", "build"), False),
        (("-r", "../x"), True),
        (("-r", "/a/b/x"), False),
        (("/a/b",), False),
        (("/a/bc",), True),
        (("--root=/etc",), True),
        (("--root=x",), False),
        (("-C/etc",), True),
        (("-C../..",), True),
        (("-C..",), True),
        (("-xC/etc",), True),
        (("-Cbuild/x",), True),  # it might be -Cbuild /x: outside, in doubt
        (("-",), False),
        (("of=/dev/sda",), True),
        (("of=build/x",), False),
        (("--", "--root=/etc"), True),
        (("",), False),
        (("--", "-x", "/etc"), True),
        ((), False),
    ],
)
def test_outside(arguments: tuple[str, ...], matching: bool) -> None:
    made = rule('{path: /usr/bin/rm, outside: "{workspace}"}')
    program = start("/usr/bin/rm", *arguments, resolve=os.path.normpath)
    assert matches(made, program) is matching


def test_more_paths_than_are_looked_up_are_outside() -> None:
    made = rule('{path: /usr/bin/rm, outside: "{workspace}"}')
    assert not matches(made, start("/usr/bin/rm", *["x"] * MOST_PATHS))
    assert matches(made, start("/usr/bin/rm", *["x"] * (MOST_PATHS + 1)))


def test_outside_follows_links() -> None:
    made = rule('{path: /usr/bin/rm, outside: "{workspace}"}')
    link = {"/a/b/link": "/etc"}
    assert matches(made, start("/usr/bin/rm", "link", resolve=lambda path: link.get(path, path)))


def test_deny_beats_ask_beats_allow_and_every_link_speaks() -> None:
    made = plan(
        f"exec: {{ask: [{{path: {GIT}, args: [push, ...]}}]}}",
        f"exec: {{ask: [{GIT}], deny: [{{path: {GIT}, args: [gc]}}]}}",
    )
    push = judge(made.policies, start(GIT, "push"))
    assert [each.verdict for each in push.findings] == [Verdict.ASK, Verdict.ASK]
    assert judge(made.policies, start(GIT, "gc")).verdict is Verdict.DENY
    status = judge(made.policies, start(GIT, "status"))
    assert [each.verdict for each in status.findings] == [Verdict.ALLOW, Verdict.ASK]
    assert judge(made.policies, start("/bin/ls")).verdict is Verdict.ALLOW


def test_arguments_matter_only_where_a_rule_looks_at_them() -> None:
    made = plan(f"exec: {{ask: [{{path: {GIT}, args: [push]}}, /bin/ls]}}")
    assert judge(made.policies, start(GIT, "status")).arguments_matter
    assert not judge(made.policies, start("/bin/ls", "x")).arguments_matter


def test_labels_narrow_once_they_are_earned() -> None:
    made = plan(
        f"labels: {{one: {{exec: [/bin/psql], then: {{exec: {{deny: [{GIT}]}}}}}},"
        " two: {files: [/x], then: {ask: everywhere}}}"
    )
    earning = judge(made.policies, start("/bin/psql"))
    assert (earning.verdict, earning.earned) == (Verdict.ALLOW, (0,))
    assert judge(made.policies, start(GIT)).verdict is Verdict.ALLOW
    assert judge(made.policies, start(GIT), frozenset({0})).verdict is Verdict.DENY
    asked = judge(made.policies, start("/bin/ls"), frozenset({1}))
    assert (asked.verdict, asked.findings[0].rule) == (Verdict.ASK, None)
    assert asked.findings[0].label is not None
    assert judge(made.policies, start("/bin/psql"), frozenset({0})).earned == ()


def test_the_same_content_counts_where_the_rule_says_so() -> None:
    (by_content,) = plan(f"exec: {{deny: [{{path: {GIT}, sha256: true}}]}}").policies[0].exec
    copy = Program("/a/copy", ("copy",), "/a", same_content=lambda rule: rule is by_content)
    assert matches(by_content, copy)
    assert not matches(rule(GIT), copy)


def test_plain_denials_are_the_views_unless_the_plan_is_gated() -> None:
    assert plan("exec: {deny: [/bin/ls]}").policies[0].exec == ()
    gated = plan("exec: {deny: [/bin/ls], ask: [/bin/cat]}").policies[0]
    assert [each.verdict for each in gated.exec] == [Verdict.DENY, Verdict.ASK]
    assert [mask.pattern for mask in gated.masks] == ["/bin/ls"]
    assert plan("exec: {deny: [{path: /bin/ls, args: [x]}]}").policies[0].masks == ()


def test_the_reference_agrees() -> None:
    made = plan(f"exec: {{ask: [{{path: {GIT}, args: [push], why: it leaves}}], deny: [/bin/nc]}}")
    asked = decide(made, ExecAction(GIT, (GIT, "push")))
    assert asked.verdict is Verdict.ASK
    assert "git push" in asked.reason
    assert decide(made, ExecAction(GIT, (GIT, "pull"))).verdict is Verdict.ALLOW
    assert decide(made, ExecAction("/bin/nc", ("nc",))).verdict is Verdict.DENY


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", Gates.NONE),
        (f"exec: {{ask: [{GIT}]}}", Gates.EXEC),
        ("limits: {execs_per_minute: 9}", Gates.EXEC),
        ("limits: {deletes_per_minute: 9}", Gates.DELETE),
        ("limits: {connects_per_minute: 9}", Gates.NONE),
        ("network: {ask: ['any:443']}", Gates.CONNECT),
        ("labels: {a: {connect: ['any:9'], then: {network: {only: []}}}}", Gates.NONE),
        (
            "network: {connect: ['any:443']}\n"
            "labels: {a: {connect: ['any:443'], then: {ask: everywhere}}}",
            Gates.EXEC | Gates.CONNECT,
        ),
        ("labels: {a: {files: [/x], then: {network: {only: []}}}}", Gates.OPEN),
    ],
)
def test_gates(text: str, wanted: Gates) -> None:
    made = plan(text)
    assert gates(made) == wanted
    assert made.syscalls.notified == notified(wanted)
    assert gates(made, sub_agents=True) == wanted | Gates.EXEC


def test_every_gate_of_system_calls_has_its_calls() -> None:
    assert set(CALLS) == set(Gates) - {Gates.OPEN, Gates.NONE}
    assert len(notified(Gates.EXEC | Gates.CONNECT | Gates.DELETE)) == 9

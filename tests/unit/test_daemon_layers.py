# SPDX-License-Identifier: Apache-2.0
"""From a plan's rules on files to the Landlock layers that the launcher's child puts on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monitor.daemon.launch import layers
from monitor.kernel import landlock
from monitor.kernel.landlock import Access, Scope
from monitor.launch import kernel, protocol
from monitor.policy.action import Origin
from monitor.policy.plan import (
    EnvironmentPlan,
    FileAccess,
    FileRule,
    Limits,
    Plan,
    Policy,
    SyscallPlan,
    UnixRule,
)

ORIGIN = Origin("p", "files.read", "x", "p.yaml", 1)
ABI = 7


def policy(*rules: FileRule, unix: tuple[UnixRule, ...] = ()) -> Policy:
    return Policy("p", "d", rules, (), (), (), unix, (), ())


def plan(*policies: Policy) -> Plan:
    environment = EnvironmentPlan((), ())
    return Plan(policies, SyscallPlan((), 470), None, environment, Limits(), "/w", "/h")


def rule(path: str, access: FileAccess, tree: bool = True) -> FileRule:
    return FileRule(path, tree, access, ORIGIN)


def fields(made: Plan, abi: int = ABI) -> list[tuple[str, bytes]]:
    return protocol.decode(layers.document(made, abi), maximum=None).fields


def rights(made: Plan, abi: int = ABI) -> Access:
    """Of a plan with one rule."""
    (_layer, (_name, value)) = fields(made, abi)
    return Access(int(value.split(b" ")[0]))


def test_one_layer_for_each_policy_outermost_first() -> None:
    made = plan(
        policy(rule("/a", FileAccess.READ), rule("/b", FileAccess.READ, tree=False)),
        policy(rule("/c", FileAccess.READ)),
    )
    names = [(name, value.split(b" ")[-1]) for name, value in fields(made)]
    assert names == [
        ("layer", b"3"),
        ("tree", b"/a"),
        ("exact", b"/b"),
        ("layer", b"3"),
        ("tree", b"/c"),
    ]


def test_a_policy_without_rules_is_a_layer_that_grants_nothing() -> None:
    assert fields(plan(policy())) == [("layer", b"65535 3")]


def test_what_each_word_grants() -> None:
    assert rights(plan(policy(rule("/a", FileAccess.READ)))) == Access.READ_FILE | Access.READ_DIR
    assert rights(plan(policy(rule("/a", FileAccess.EXECUTE)))) == Access.EXECUTE
    everything = rights(
        plan(policy(rule("/a", FileAccess.READ | FileAccess.WRITE | FileAccess.EXECUTE)))
    )
    assert landlock.accesses(ABI) & ~everything == Access.MAKE_CHAR | Access.MAKE_BLOCK


def test_rules_of_one_path_are_one() -> None:
    made = plan(policy(rule("/a", FileAccess.READ), rule("/a", FileAccess.EXECUTE)))
    assert rights(made) == Access.READ_FILE | Access.READ_DIR | Access.EXECUTE


@pytest.mark.parametrize(
    ("abi", "handled"),
    [(1, 0x1FFF), (2, 0x3FFF), (3, 0x7FFF), (4, 0x7FFF), (5, 0xFFFF), (7, 0xFFFF)],
)
def test_a_layer_handles_every_right_of_the_abi_and_grants_no_other(abi: int, handled: int) -> None:
    made = plan(policy(rule("/a", FileAccess.WRITE)))
    layer = fields(made, abi)[0][1]
    assert int(layer.split(b" ")[0]) == handled
    assert int(layer.split(b" ")[1]) == (3 if abi >= 6 else 0)
    assert not rights(made, abi) & ~Access(handled)


def test_abstract_names_in_a_policy_leave_them_to_the_cgroup_programs() -> None:
    made = plan(policy(unix=(UnixRule("@x", 0),)), policy(unix=(UnixRule("/x", 0),)))
    assert [value for _name, value in fields(made)] == [
        b"65535 %d" % Scope.SIGNAL,
        b"65535 %d" % (Scope.SIGNAL | Scope.ABSTRACT_UNIX_SOCKET),
    ]


def test_an_observed_session_has_no_layer() -> None:
    assert fields(replace(plan(policy(rule("/a", FileAccess.READ))), observe=True)) == []


def test_more_layers_than_the_kernel_holds_are_refused() -> None:
    layers.document(plan(*[policy()] * 16), ABI)
    with pytest.raises(ValueError, match="16 layers"):
        layers.document(plan(*[policy()] * 17), ABI)


def test_paths_that_are_no_text_pass() -> None:
    made = plan(policy(rule("/a\udcff b\n", FileAccess.READ)))
    assert fields(made)[1] == ("tree", b"12 /a\xff b\n")


def test_the_launcher_and_the_daemon_mean_the_same_rights() -> None:
    names = ("EXECUTE", "WRITE_FILE", "READ_FILE", "TRUNCATE", "IOCTL_DEV")
    both = Access(0)
    for name in names:
        assert getattr(kernel, f"LANDLOCK_ACCESS_FS_{name}") == Access[name]
        both |= Access[name]
    assert both == kernel.LANDLOCK_FILE_RIGHTS


def test_the_controlling_terminal_gets_what_its_name_in_rules_has() -> None:
    tty = rule("/dev/tty", FileAccess.WRITE, tree=False)
    made = plan(policy(tty, rule("/dev", FileAccess.READ)), policy(rule("/d", FileAccess.READ)))
    found = [(name, value) for name, value in fields(made) if name in {"layer", "terminal"}]
    both = layers.RIGHTS[FileAccess.WRITE] | layers.RIGHTS[FileAccess.READ]
    assert found == [("layer", b"65535 3"), ("terminal", b"%d" % both), ("layer", b"65535 3")]

# SPDX-License-Identifier: Apache-2.0
"""Decisions: verdict, reason, rule, mechanism and remedy, case by case."""

from __future__ import annotations

import ipaddress

import pytest

from monitor.policy.action import (
    Action,
    ExecAction,
    FileAction,
    Mechanism,
    NetAction,
    SocketAction,
    SyscallAction,
    UnixAction,
    Verb,
    Verdict,
)
from monitor.policy.decide import decide
from monitor.policy.syscalls import NUMBERS
from tests.support.profiles import compiled, profile

ALLOW, DENY = Verdict.ALLOW, Verdict.DENY

CODER = profile(
    name="coder",
    files={
        "read": ["/usr/**", "/w/**", "/proc/**"],
        "write": ["/w/**", "/out", "/tmp/**"],
        "execute": ["/usr/**", "/bin/tool"],
        "deny": ["/w/**/.env", "/root/.ssh"],
        "read_only": ["/w/.git/hooks", "/w/.git/config"],
    },
    exec={"deny": ["/usr/bin/curl"]},
    network={
        "connect": ["10.0.0.0/8:443", "[2001:db8::]/32:53/udp"],
        "deny": ["10.1.0.0/16:443"],
        "unix": ["/run/x.sock", "@bus"],
    },
    syscalls={"deny": ["fork"]},
)
PLAN = compiled([CODER])


def net(address: str, port: int, protocol: int = 6, verb: Verb = Verb.NET_CONNECT) -> NetAction:
    return NetAction(verb, ipaddress.ip_address(address), port, protocol)


def open_(path: str) -> FileAction:
    return FileAction(Verb.FILE_OPEN, path)


def write(path: str) -> FileAction:
    return FileAction(Verb.FILE_WRITE, path)


def unlink(path: str) -> FileAction:
    return FileAction(Verb.FILE_UNLINK, path)


def rename(path: str, target: str) -> FileAction:
    return FileAction(Verb.FILE_RENAME, path, target)


def link(path: str, target: str | None) -> FileAction:
    return FileAction(Verb.FILE_LINK, path, target)


ALLOWED: list[Action] = [
    open_("/usr/bin/git"),
    open_("/w/a"),
    open_("/w"),
    open_("/proc/self/status"),
    open_("/w/.git/hooks/pre-commit"),
    write("/w/a"),
    write("/out"),
    write("/w/.git/index"),
    unlink("/w/a"),
    unlink("/w/.git/index.lock"),
    rename("/w/a", "/w/b"),
    rename("/w/a", "/w/d/b"),
    rename("/w/a", "/tmp/a"),
    link("/w/a", "/w/b"),
    link("/w/a", "/w/d/b"),
    link("/w/symlink", None),
    FileAction(Verb.FILE_MKDIR, "/w/d"),
    FileAction(Verb.FILE_TRUNCATE, "/out"),
    FileAction(Verb.FILE_CHMOD, "/w/a"),
    ExecAction("/usr/bin/git"),
    net("10.2.0.1", 443),
    net("2001:db8::1", 53, 17, Verb.NET_SEND),
    UnixAction("/run/x.sock"),
    UnixAction("@bus"),
    SocketAction(1, 1, 0),
    SocketAction(2, 1, 0),
    SocketAction(10, 2, 17),
    SyscallAction(NUMBERS["read"], (0,)),
]

DENIED: list[tuple[Action, Mechanism, str]] = [
    (open_("/etc/shadow"), Mechanism.LANDLOCK, 'files.read: add "/etc/shadow"'),
    (open_("/usrlocal"), Mechanism.LANDLOCK, 'files.read: add "/usrlocal"'),
    (open_("/out"), Mechanism.LANDLOCK, 'files.read: add "/out"'),
    (open_('/a"\n'), Mechanism.LANDLOCK, 'files.read: add "/a\\"\\n"'),
    (open_("/w/.env"), Mechanism.VIEW, 'files.deny: remove "/w/**/.env"'),
    (open_("/w/a/.env/x"), Mechanism.VIEW, 'files.deny: remove "/w/**/.env"'),
    (open_("/root/.ssh/id"), Mechanism.LANDLOCK, 'files.deny: remove "/root/.ssh"'),
    (write("/usr/bin/git"), Mechanism.VIEW, 'files.write: add "/usr/bin/git"'),
    (write("/w/.git/config"), Mechanism.VIEW, 'files.read_only: remove "/w/.git/config"'),
    (write("/w/.git/hooks/x"), Mechanism.VIEW, 'files.read_only: remove "/w/.git/hooks"'),
    (write("/usr/bin/curl"), Mechanism.VIEW, 'exec.deny: remove "/usr/bin/curl"'),
    (unlink("/out"), Mechanism.VIEW, 'files.write: add "/**"'),
    (unlink("/w"), Mechanism.VIEW, 'files.write: add "/**"'),
    (unlink("/w/.git/config"), Mechanism.VIEW, 'files.read_only: remove "/w/.git/config"'),
    (rename("/w/.git", "/w/g"), Mechanism.VIEW, 'files.read_only: remove "/w/.git/config"'),
    (rename("/w/g", "/w/.git"), Mechanism.VIEW, 'files.read_only: remove "/w/.git/config"'),
    (rename("/w/a", "/etc/a"), Mechanism.VIEW, 'files.write: add "/etc/**"'),
    (rename("/etc/a", "/w/a"), Mechanism.VIEW, 'files.write: add "/etc/**"'),
    (rename("/tmp/a", "/w/a"), Mechanism.LANDLOCK, ""),
    (link("/w/a", "/etc/a"), Mechanism.VIEW, 'files.write: add "/etc/**"'),
    (link("/w/.env", "/w/b"), Mechanism.VIEW, 'files.deny: remove "/w/**/.env"'),
    (link("/etc/symlink", None), Mechanism.VIEW, 'files.write: add "/etc/**"'),
    (FileAction(Verb.FILE_MKDIR, "/x"), Mechanism.VIEW, 'files.write: add "/**"'),
    (
        FileAction(Verb.FILE_CHMOD, "/w/.git/config"),
        Mechanism.VIEW,
        'files.read_only: remove "/w/.git/config"',
    ),
    (FileAction(Verb.FILE_CHMOD, "/usr/a"), Mechanism.VIEW, 'files.write: add "/usr/a"'),
    (ExecAction("/w/a.out"), Mechanism.LANDLOCK, 'files.execute: add "/w/a.out"'),
    (ExecAction("/bin/tool"), Mechanism.LANDLOCK, 'files.read: add "/bin/tool"'),
    (ExecAction("/usr/bin/curl"), Mechanism.VIEW, 'exec.deny: remove "/usr/bin/curl"'),
    (net("10.2.0.1", 80), Mechanism.CGROUP_BPF, 'network.connect: add "10.2.0.1:80"'),
    (
        net("10.2.0.1", 443, 17),
        Mechanism.CGROUP_BPF,
        'network.connect: add "10.2.0.1:443/udp"',
    ),
    (net("10.1.0.1", 443), Mechanism.CGROUP_BPF, 'network.deny: remove "10.1.0.0/16:443"'),
    (net("::1", 80), Mechanism.CGROUP_BPF, 'network.connect: add "[::1]:80"'),
    (net("169.254.169.254", 80), Mechanism.CGROUP_BPF, ""),
    (net("10.2.0.1", 443, 136), Mechanism.CGROUP_BPF, ""),
    (
        net("127.0.0.1", 80, verb=Verb.NET_BIND),
        Mechanism.CGROUP_BPF,
        'network.bind: add "127.0.0.1:80"',
    ),
    (UnixAction("/run/docker.sock"), Mechanism.CGROUP_BPF, 'network.unix: add "/run/docker.sock"'),
    (UnixAction("run/x.sock"), Mechanism.CGROUP_BPF, 'network.unix: add "run/x.sock"'),
    (SocketAction(40, 1, 0), Mechanism.SECCOMP, ""),
    (SocketAction(2, 2, 136), Mechanism.SECCOMP, ""),
    (SyscallAction(NUMBERS["bpf"]), Mechanism.SECCOMP, ""),
    (SyscallAction(NUMBERS["fork"]), Mechanism.SECCOMP, 'syscalls.deny: remove "fork"'),
    (SyscallAction(NUMBERS["shmget"]), Mechanism.SECCOMP, 'syscalls.allow: add "sysv-ipc"'),
    (SyscallAction(NUMBERS["listen"]), Mechanism.SECCOMP, 'network.bind: add "ADDRESS:PORT"'),
    (SyscallAction(NUMBERS["socket"], (16, 3, 2)), Mechanism.SECCOMP, ""),
]


@pytest.mark.parametrize("action", ALLOWED, ids=str)
def test_allows(action: Action) -> None:
    decision = decide(PLAN, action)
    assert decision.verdict is ALLOW
    assert decision.mechanism is Mechanism.NONE
    assert decision.remedy == ""


@pytest.mark.parametrize(("action", "mechanism", "remedy"), DENIED, ids=str)
def test_denies(action: Action, mechanism: Mechanism, remedy: str) -> None:
    decision = decide(PLAN, action)
    assert decision.verdict is DENY
    assert decision.mechanism is mechanism
    assert decision.remedy == remedy
    assert "\n" not in decision.reason


def test_sockets_without_udp_rules_say_what_to_add() -> None:
    plan = compiled([profile(network={"connect": ["10.0.0.0/8:443"]})])
    decision = decide(plan, SocketAction(2, 2, 0))
    assert decision.remedy == 'network.connect: add "ADDRESS:PORT/udp"'
    assert decision.rule is None


def test_reasons_are_sentences_with_the_rule_in_them() -> None:
    assert (
        decide(PLAN, open_("/etc/shadow")).reason == "no rule of coder allows reading /etc/shadow"
    )
    reason = "writing /w/.git/config: refused by files.read_only: /w/.git/config (coder)"
    assert decide(PLAN, write("/w/.git/config")).reason == reason
    reason = "bpf is refused: loads programs into the kernel that could watch or undo the"
    assert decide(PLAN, SyscallAction(NUMBERS["bpf"])).reason == f"{reason} session's own"


def test_an_allowed_action_names_the_innermost_rule() -> None:
    narrower = profile(name="narrower", files={"read": ["/w/**"]})
    decision = decide(compiled([CODER, narrower]), open_("/w/a"))
    assert decision.link == 1
    assert decision.rule is not None
    assert decision.rule.profile == "narrower"


def test_the_first_link_that_refuses_is_named() -> None:
    narrower = profile(name="narrower", files={"read": ["/w/sub/**"]})
    plan = compiled([CODER, narrower])
    assert decide(plan, open_("/w/a")).link == 1
    assert decide(plan, open_("/w/a")).reason == "no rule of narrower allows reading /w/a"
    assert decide(plan, open_("/etc/shadow")).link == 0
    assert decide(plan, net("10.2.0.1", 443)).link == 1
    assert decide(plan, UnixAction("@bus")).link == 1
    assert decide(plan, SocketAction(2, 1, 0)).link == 1


def test_an_observed_plan_says_what_it_would_deny() -> None:
    plan = compiled([CODER], observe=True)
    for action, _mechanism, _remedy in DENIED:
        decision = decide(plan, action)
        match action:
            case SyscallAction():
                held = action.number != NUMBERS["listen"]
                assert (decision.verdict is DENY) is held
            case SocketAction():
                assert decision.verdict is DENY
            case _:
                assert decision.verdict is Verdict.WOULD_DENY
    assert decide(plan, open_("/w/.env")).mechanism is Mechanism.VIEW
    without = compiled([profile()], observe=True)
    decision = decide(without, SocketAction(2, 1, 0))
    assert decision.verdict is Verdict.WOULD_DENY
    assert decision.mechanism is Mechanism.CGROUP_BPF

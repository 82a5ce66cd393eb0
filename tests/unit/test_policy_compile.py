# SPDX-License-Identifier: Apache-2.0
"""Profiles to plans: what each section comes to, and what a host cannot hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from monitor.policy.action import Verdict
from monitor.policy.compile import CompileError
from monitor.policy.plan import (
    FileAccess,
    HostFeatures,
    Limits,
    MaskKind,
    PortRange,
    RecordChoice,
    ViewPlan,
)
from monitor.policy.syscalls import NUMBERS
from monitor.profile.load import parse
from tests.support.profiles import ABLE, compiled, profile

BLIND = replace(ABLE, view=False)
DEAF = replace(ABLE, unix_hooks=False)

TEXT = """\
name: written
files:
  read:
    - "{workspace}/**"
    - /etc/hosts
  deny:
    - "{workspace}/**/.env"
network:
  connect:
    - 10.0.0.0/8:443
  unix:
    - /run/agent.sock
syscalls:
  deny: [fork, frok]
"""


def test_rules_know_where_they_are_written() -> None:
    plan = compiled([parse(TEXT.replace(", frok", ""), "written.yaml")])
    policy = plan.policies[0]
    assert [(rule.path, rule.tree, str(rule.origin)) for rule in policy.files] == [
        ("/a/b", True, "files.read: {workspace}/** (written.yaml:4)"),
        ("/etc/hosts", False, "files.read: /etc/hosts (written.yaml:5)"),
    ]
    assert str(policy.masks[0].origin) == "files.deny: {workspace}/**/.env (written.yaml:7)"
    texts = [str(rule) for rule in policy.rules]
    assert "network.connect: 10.0.0.0/8:443 (written.yaml:10)" in texts
    assert "network.unix: /run/agent.sock (written.yaml:12)" in texts
    denied = next(rule for rule in plan.syscalls.rules if rule.number == NUMBERS["fork"])
    assert str(denied.origin) == "syscalls.deny: fork (written.yaml:14)"


def test_an_unknown_system_call_is_an_error_with_its_place() -> None:
    with pytest.raises(CompileError, match=r"^written.yaml:14: syscalls.deny: frok: .* no such"):
        compiled([parse(TEXT, "written.yaml")])


def test_no_profile_is_no_plan() -> None:
    with pytest.raises(CompileError):
        compiled([])


# -- files ----------------------------------------------------------------------------------------


def test_paths_are_expanded_and_resolved() -> None:
    one = profile(files={"read": ["{home}/x", "/var/run/**"], "deny": ["/var/run/*.key", "/**"]})
    plan = compiled([one], resolve=lambda path: path.replace("/var/run", "/run"))
    assert [(rule.path, rule.tree) for rule in plan.policies[0].files] == [
        ("/a/x", False),
        ("/run", True),
    ]
    assert [mask.pattern for mask in plan.policies[0].masks] == ["/", "/run/*.key"]


def test_a_variables_value_is_no_pattern() -> None:
    one = profile(files={"read": ["{workspace}/**"], "deny": ["{workspace}/*.key"]})
    plan = compiled([one], workspace="/a/[b]*")
    assert plan.policies[0].files[0].path == "/a/[b]*"
    assert plan.policies[0].masks[0].pattern == "/a/[[]b][*]/*.key"


def test_a_path_that_leaves_is_an_error() -> None:
    with pytest.raises(CompileError, match=r"'\.\.'"):
        compiled([profile(files={"read": ["/a/../b"]})])


def test_what_each_list_grants_and_takes() -> None:
    lists = {
        "read": ["/r"],
        "write": ["/w/**"],
        "execute": ["/x/**"],
        "deny": ["/d"],
        "read_only": ["/w/o"],
    }
    policy = compiled([profile(files=lists, exec={"deny": ["/x/curl"]})]).policies[0]
    assert [(rule.path, rule.access) for rule in policy.files] == [
        ("/r", FileAccess.READ),
        ("/w", FileAccess.WRITE),
        ("/x", FileAccess.EXECUTE),
    ]
    assert [(mask.pattern, mask.kind) for mask in policy.masks] == [
        ("/d", MaskKind.HIDE),
        ("/w/o", MaskKind.READ_ONLY),
        ("/x/curl", MaskKind.NO_EXEC),
    ]


# -- the view -------------------------------------------------------------------------------------

VIEW = ViewPlan(own_proc=True, hide_run=True, own_terminals=False, read_only_rest=True, sockets=())
NEEDS_VIEW = [
    {"read": ["/a/**"], "deny": ["/a/b"]},
    {"read": ["/a/**"], "deny": ["/a"]},
    {"read": ["/a/b/c"], "deny": ["/a/b"]},
    {"read": ["/a/b/c"], "deny": ["/a/*/c"]},
    {"read": ["/a/b/**"], "deny": ["/a/**/c"]},
    {"write": ["/a/**"], "read_only": ["/a/b"]},
]
NEEDS_NONE = [
    {"read": ["/a/**"], "deny": ["/b"]},
    {"read": ["/a/b"], "deny": ["/a/b/c"]},
    {"read": ["/a/b/c"], "deny": ["/a/*/d"]},
    {"read": ["/a/**"], "read_only": ["/a/b"]},
    {"write": ["/a/**"], "read_only": ["/ab"]},
]


@pytest.mark.parametrize("files", NEEDS_VIEW)
def test_taking_away_inside_what_is_granted_needs_a_view(files: dict[str, list[str]]) -> None:
    assert compiled([profile(files=files)]).view == VIEW
    with pytest.raises(CompileError, match="private mount namespace"):
        compiled([profile(files=files)], BLIND)


@pytest.mark.parametrize("files", NEEDS_NONE)
def test_taking_away_what_nobody_grants_needs_none(files: dict[str, list[str]]) -> None:
    for host in (ABLE, BLIND):
        plan = compiled([profile(files=files)], host)
        assert plan.view is None
        assert plan.missing == ()
        assert len(plan.policies[0].masks) == 1


def test_a_denied_program_needs_a_view() -> None:
    for granted in ({"execute": ["/usr/**"]}, {"write": ["/usr/**"]}):
        one = profile(files=granted, exec={"deny": ["/usr/bin/curl"]})
        assert compiled([one]).view == VIEW
    one = profile(files={"read": ["/usr/**"]}, exec={"deny": ["/usr/bin/curl"]})
    assert compiled([one]).view is None


@pytest.mark.parametrize("path", ["/dev/pts/**", "/dev/**", "/**", "/dev/pts/3"])
def test_a_rule_that_names_terminals_needs_a_view(path: str) -> None:
    files = {"write": [path]}
    assert compiled([profile(files=files)]).view == replace(VIEW, own_terminals=True)
    with pytest.raises(CompileError, match="names the user's other terminals too"):
        compiled([profile(files=files)], BLIND)
    plan = compiled([profile(files=files, may_lack=["view"])], BLIND)
    assert (plan.view, plan.missing) == (None, ("view",))
    # Where another link does not grant it there is nothing to give, but the view stays.
    chain = [profile(files=files), profile()]
    assert compiled(chain).view == VIEW
    assert compiled(chain, BLIND).missing == ()
    # The multiplexer alone names nobody's terminal.
    assert compiled([profile(files={"write": ["/dev/ptmx"]})]).view is None


def test_a_profile_may_go_without_a_view_in_writing() -> None:
    files = {"read": ["/a/**"], "deny": ["/a/b", "/c"]}
    plan = compiled([profile(files=files, may_lack=["view"])], BLIND)
    assert plan.view is None
    assert plan.missing == ("view",)
    # What nothing holds does not decide either.
    assert [mask.pattern for mask in plan.policies[0].masks] == ["/c"]
    assert compiled([profile(files=files, may_lack=["view"])]).missing == ()


def test_each_link_speaks_for_its_own_rules() -> None:
    masked = profile(files={"read": ["/a/**"], "deny": ["/a/b"]})
    willing = profile(files={"read": ["/a/**"]}, may_lack=["view"])
    with pytest.raises(CompileError, match="files.deny: /a/b"):
        compiled([masked, willing], BLIND)
    elsewhere = profile(files={"read": ["/c/**"]})
    assert compiled([masked, elsewhere], BLIND).view is None


def test_the_view_leaves_the_sockets_that_every_link_lists() -> None:
    files = {"read": ["/a/**"], "deny": ["/a/b"]}
    one = profile(files=files, network={"unix": ["/run/x", "/run/y", "/tmp/z", "@run"]})
    other = profile(files=files, network={"unix": ["/run/y", "/run/x", "/tmp/z"]})
    third = profile(files=files, network={"unix": ["/run/y"]})
    for chain, sockets in (([one], ["/run/x", "/run/y"]), ([one, other, third], ["/run/y"])):
        view = compiled(chain).view
        assert view is not None
        assert view.sockets == tuple(sockets)


# -- the host -------------------------------------------------------------------------------------


@pytest.mark.parametrize("abi", [0, 1, 2])
def test_file_rules_need_landlock_with_truncate(abi: int) -> None:
    host = HostFeatures(landlock_abi=abi, unix_hooks=True, view=True)
    with pytest.raises(CompileError, match=f"ABI 3 and this kernel has {abi}"):
        compiled([profile()], host)
    assert compiled([profile()], host, observe=True).observe


def test_unix_rules_need_the_kernels_hook() -> None:
    one = profile(network={"unix": ["/run/x"]})
    with pytest.raises(CompileError, match="network.unix: /run/x"):
        compiled([one], DEAF)
    assert compiled([one], DEAF, observe=True).observe
    assert not any(rule.family == 1 for rule in compiled([profile()], DEAF).policies[0].sockets)


def test_a_unix_name_counts_as_written_and_as_resolved() -> None:
    one = profile(network={"unix": ["/var/run/x", "@name"]})
    plan = compiled([one], resolve=lambda path: path.replace("/var/run", "/run"))
    names = {rule.path: plan.policies[0].rules[rule.rule].text for rule in plan.policies[0].unix}
    assert names == {"/var/run/x": "/var/run/x", "/run/x": "/var/run/x", "@name": "@name"}


# -- network --------------------------------------------------------------------------------------


def ports(table: str, network: str, **lists: list[str]) -> list[tuple[int, int, int, bool]]:
    policy = compiled([profile(network=lists)]).policies[0]
    found: tuple[PortRange, ...] = next(
        each.ports for each in getattr(policy, table) if each.network == network
    )
    return [(each.protocol, each.first, each.last, each.verdict is Verdict.ALLOW) for each in found]


def test_a_prefix_carries_the_rules_of_all_that_cover_it() -> None:
    assert ports(
        "connect",
        "::ffff:10.1.0.0/112",
        connect=["any:443", "10.0.0.0/8:53/udp", "10.1.0.0/16:80-90"],
        deny=["10.0.0.0/8:85"],
    ) == [
        (6, 80, 84, True),
        (6, 85, 85, False),
        (6, 86, 90, True),
        (6, 443, 443, True),
        (17, 53, 53, True),
    ]


def test_rules_about_ipv6_do_not_speak_of_ipv4() -> None:
    assert ports("connect", "::ffff:0.0.0.0/96", connect=["[::]/0:443"]) == []


def test_reserved_destinations_are_named_or_refused() -> None:
    rules = {"connect": ["any:*", "169.254.169.254:80", "169.254.0.0/15:443"]}
    assert ports("connect", "::ffff:169.254.169.254/128", **rules) == [
        (6, 0, 79, False),
        (6, 80, 80, True),
        (6, 81, 65535, False),
        (17, 0, 65535, False),
    ]
    assert ports("connect", "::ffff:169.254.0.0/112", **rules)[0] == (6, 0, 65535, False)
    assert ports("connect", "::ffff:224.0.0.0/100", **rules)[0] == (6, 0, 65535, False)


def test_deny_is_taken_from_bind_too() -> None:
    lists = {"bind": ["any:8000-8010"], "deny": ["127.0.0.1:8005"]}
    assert ports("bind", "::ffff:127.0.0.1/128", **lists) == [
        (6, 8000, 8004, True),
        (6, 8005, 8005, False),
        (6, 8006, 8010, True),
    ]


def test_listening_takes_a_tcp_bind_rule_of_every_link() -> None:
    def refused(*chain: dict[str, list[str]]) -> bool:
        plan = compiled([profile(network=lists) for lists in chain])
        return any(rule.name == "listen" for rule in plan.syscalls.rules)

    tcp, udp, out = {"bind": ["any:80"]}, {"bind": ["any:80/udp"]}, {"connect": ["any:80"]}
    assert not refused(tcp)
    assert not refused(tcp, tcp)
    assert refused(out)
    assert refused(tcp, out)
    assert refused(udp | out)
    # A link without TCP sockets has nothing to keep from listening, and opens nothing either.
    for chain in ((udp,), ({},), (tcp, udp)):
        assert not refused(*chain)
    assert refused(out, {})
    assert refused({}, out)


# -- the rest -------------------------------------------------------------------------------------


def test_the_strictest_of_all_links_counts() -> None:
    one = profile(limits={"ttl": "8h", "processes": 10}, audit={"required": True})
    other = profile(limits={"ttl": "30m", "processes": 50, "memory": "1G", "open_files": 64})
    plan = compiled([one, other])
    assert plan.limits == Limits(ttl=1800, processes=10, files=64, memory=1 << 30)
    assert compiled([one, other], ttl=60).limits.ttl == 60
    assert compiled([one, other], ttl=7200).limits.ttl == 1800
    assert compiled([profile()]).limits == Limits()
    assert plan.audit_required
    assert plan.records is RecordChoice.FIRST
    assert compiled([other, profile(audit={"records": "every"})]).records is RecordChoice.EVERY


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ([None], "kill"),
        (["deny"], "deny"),
        (["freeze"], "freeze"),
        (["deny", "freeze"], "freeze"),
        (["freeze", "deny"], "freeze"),
        (["deny", "kill", "freeze"], "kill"),
        (["deny", None], "kill"),
        ([None, "deny"], "kill"),
    ],
)
def test_the_strictest_end_counts(said: list[str | None], counts: str) -> None:
    profiles = [profile(limits={"on_expiry": each} if each else {}) for each in said]
    assert compiled(profiles).limits.on_expiry.value == counts


def test_root_only_where_every_link_says_so() -> None:
    root = profile(run_as="root")
    assert compiled([root]).run_as_root
    assert not compiled([root, profile()]).run_as_root


def test_equal_profiles_have_equal_digests() -> None:
    one, other = profile(files={"read": ["/a"]}), profile(files={"read": ["/b"]})
    digests = [policy.digest for policy in compiled([one, other, one]).policies]
    assert digests[0] == digests[2] != digests[1]

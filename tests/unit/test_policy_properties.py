# SPDX-License-Identifier: Apache-2.0
"""Plans held against a plain reading of the profiles, on random profiles and actions."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.policy import plan_json
from monitor.policy.action import (
    Action,
    ExecAction,
    FileAction,
    NetAction,
    SocketAction,
    SyscallAction,
    Verb,
    Verdict,
)
from monitor.policy.decide import decide
from monitor.policy.environment import kept
from monitor.policy.floor import matching_rule
from monitor.policy.plan import HostFeatures, Plan, Policy
from monitor.policy.syscalls import NUMBERS
from monitor.profile.model import FilesSection, NetworkRule, NetworkSection, Profile
from monitor.wire import layout
from monitor.wire.layout import Table
from monitor.wire.rows import policy_rows
from tests.support import profiles, reference
from tests.support.profiles import compiled

BLIND = HostFeatures(landlock_abi=7, unix_hooks=True, view=False)


def allowed(plan: Plan, action: Action) -> bool:
    decision = decide(plan, action)
    assert decision.verdict in {Verdict.ALLOW, Verdict.DENY}
    assert "\n" not in decision.reason
    assert "\n" not in decision.remedy
    return decision.verdict is Verdict.ALLOW


@settings(max_examples=150)
@given(profiles.chains, profiles.actions)
def test_decides_as_the_profiles_read(chain: list[Profile], actions: list[Action]) -> None:
    plan = compiled(chain)
    for action in actions:
        if not isinstance(action, SyscallAction):
            expected = reference.allows(chain, action, plan.view is not None)
            assert allowed(plan, action) is expected, action
        if isinstance(action, SocketAction):
            arguments = (action.family, action.type, action.protocol)
            refusal = matching_rule(plan.syscalls, NUMBERS["socket"], arguments)
            assert (refusal is None) is allowed(plan, action), action


@settings(max_examples=100)
@given(profiles.chains, profiles.profiles, profiles.actions, st.integers(0, 11))
def test_a_further_link_never_allows_more(
    chain: list[Profile], link: Profile, actions: list[Action], number: int
) -> None:
    place = number % (len(chain) + 1)
    plan, longer = compiled(chain), compiled([*chain[:place], link, *chain[place:]])
    for action in actions:
        assert not allowed(longer, action) or allowed(plan, action), action
    names = ["AB", "A", "PATH", "B", "PB"]
    assert set(kept(longer.environment, names)) <= set(kept(plan.environment, names))


@settings(max_examples=100)
@given(
    profiles.chains,
    profiles.profiles,
    profiles.some(profiles.FILE_ACTIONS),
    profiles.some(profiles.PAIR_ACTIONS),
)
def test_a_further_link_never_allows_more_without_a_view(
    chain: list[Profile], link: Profile, singles: list[Action], pairs: list[Action]
) -> None:
    lacking = [each.model_copy(update={"may_lack": ("view",)}) for each in (*chain, link)]
    plan, longer = compiled(lacking[:-1], BLIND), compiled(lacking, BLIND)
    for action in (*singles, *pairs):
        assert not allowed(longer, action) or allowed(plan, action), action


@given(profiles.profiles, st.sampled_from(["connect", "bind"]))
def test_an_empty_network_list_denies(profile: Profile, key: str) -> None:
    section = profile.network or NetworkSection()
    plan = compiled([profile.model_copy(update={"network": section.model_copy(update={key: ()})})])
    for action in profiles.NET_ACTIONS:
        if (action.verb is Verb.NET_BIND) is (key == "bind") and not reference.asking(action):
            assert not allowed(plan, action)


@given(profiles.profiles)
def test_an_empty_unix_list_denies(profile: Profile) -> None:
    section = (profile.network or NetworkSection()).model_copy(update={"unix": ()})
    plan = compiled([profile.model_copy(update={"network": section})])
    assert not any(allowed(plan, action) for action in profiles.UNIX_ACTIONS)


@given(profiles.profiles, st.sampled_from(["read", "write", "execute"]))
def test_an_empty_file_list_denies(profile: Profile, key: str) -> None:
    section = (profile.files or FilesSection()).model_copy(update={key: ()})
    plan = compiled([profile.model_copy(update={"files": section})])
    for action in (*profiles.FILE_ACTIONS, *profiles.PAIR_ACTIONS[::7]):
        if key in _needed(action):
            assert not allowed(plan, action), action


def _needed(action: Action) -> set[str]:
    match action:
        case ExecAction():
            return {"read", "execute"}
        case FileAction(verb=Verb.FILE_OPEN):
            return {"read"}
        case FileAction(verb=Verb.FILE_CHMOD):
            return set()
    return {"write"}


@given(profiles.chains, st.integers(0, 2**32))
def test_the_order_of_rules_does_not_matter(chain: list[Profile], seed: int) -> None:
    mixed = [_shuffled(profile, random.Random(seed)) for profile in chain]
    plan, other = compiled(chain), compiled(mixed)
    # The digest names the profile as written, and the environment's patterns are a set of globs.
    policies = [replace(each, digest="") for each in plan.policies]
    assert policies == [replace(each, digest="") for each in other.policies]
    assert plan.syscalls == other.syscalls
    assert plan.view == other.view


def _shuffled(profile: Profile, order: random.Random) -> Profile:
    update = {}
    for name in ("files", "network", "exec", "syscalls"):
        section = getattr(profile, name)
        if section is not None:
            lists = {
                field: tuple(order.sample(value, len(value)))
                for field, value in section
                if isinstance(value, tuple)
            }
            update[name] = section.model_copy(update=lists)
    return profile.model_copy(update=update)


@settings(max_examples=100)
@given(profiles.profiles, st.sampled_from(profiles.NET_ACTIONS))
def test_deny_beats_allow(profile: Profile, action: NetAction) -> None:
    name = "udp" if action.protocol == 17 else "tcp"
    address = f"[{action.address}]" if action.address.version == 6 else str(action.address)
    section = profile.network or NetworkSection()
    denied = NetworkRule(to=f"{address}:{action.port}/{name}")
    update = {"network": section.model_copy(update={"deny": (*section.deny, denied)})}
    assert not allowed(compiled([profile.model_copy(update=update)]), action)


@settings(max_examples=100)
@given(profiles.chains, st.booleans())
def test_json_gives_the_same_plan(chain: list[Profile], observe: bool) -> None:
    plan = compiled(chain, observe=observe)
    text = plan_json.to_json(plan)
    assert plan_json.from_json(text) == plan
    assert plan_json.to_json(plan_json.from_json(text)) == text
    assert text.isascii()


@settings(max_examples=50)
@given(profiles.chains, profiles.actions)
def test_observing_denies_by_the_floor_only(chain: list[Profile], actions: list[Action]) -> None:
    plan, observing = compiled(chain), compiled(chain, observe=True)
    assert observing.view is None
    for action in actions:
        held, seen = decide(plan, action).verdict, decide(observing, action).verdict
        if seen is Verdict.WOULD_DENY:
            assert held is Verdict.DENY
        elif seen is Verdict.ALLOW:
            assert (
                held is Verdict.ALLOW
                or "listen" in decide(plan, action).reason
                or (
                    # The filter lets every TCP and UDP socket be made, for the program to report.
                    decide(plan, action).reason.startswith("socket is refused")
                )
            )


# -- the kernel's tables --------------------------------------------------------------------------


class KernelMaps:
    """The rows of a policy, looked up as probes/network.bpf.c does."""

    def __init__(self, number: int, policy: Policy) -> None:
        self.number = number
        self.rows = policy_rows(number, policy)

    def destination(self, table: Table, action: NetAction) -> bool:
        prefix = layout.ri_prefix_key(64 + 128, self.number, table)
        address = action.address
        packed = (
            address.packed if address.version == 6 else b"\0" * 10 + b"\xff\xff" + address.packed
        )
        prefix.address[:] = packed
        found = self._longest("prefixes", bytes(prefix))
        if found is None:
            return False
        port = layout.ri_port_key(
            80 + 16,
            self.number,
            int.from_bytes(found, "little"),
            action.protocol,
            int.from_bytes(action.port.to_bytes(2, "big"), "little"),
        )
        value = self._longest("ports", bytes(port))
        return value is not None and bool(layout.ri_port_value.from_buffer_copy(value).verdict)

    def _longest(self, name: str, key: bytes) -> bytes | None:
        """A lookup in an LPM trie: keys are a bit count and then bits, the highest first."""
        best: tuple[int, bytes] | None = None
        wanted = int.from_bytes(key[4:], "big")
        size = (len(key) - 4) * 8
        for row in self.rows:
            if row.map != name:
                continue
            bits = int.from_bytes(row.key[:4], "little")
            here = int.from_bytes(row.key[4:], "big")
            if here >> (size - bits) == wanted >> (size - bits) and (not best or bits > best[0]):
                best = bits, row.value
        return best[1] if best else None


@settings(max_examples=100)
@given(profiles.chains, profiles.some(profiles.NET_ACTIONS, 100))
def test_the_kernels_rows_say_what_the_profiles_say(
    chain: list[Profile], actions: list[NetAction]
) -> None:
    maps = [KernelMaps(number, policy) for number, policy in enumerate(compiled(chain).policies, 7)]
    for action in actions:
        table = Table.BIND if action.verb is Verb.NET_BIND else Table.CONNECT
        found = all(each.destination(table, action) for each in maps)
        assert found is reference.allows(chain, action), action

# SPDX-License-Identifier: Apache-2.0
"""Plans held against a plain reading of the profiles, on random profiles and actions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.policy import plan_json
from monitor.policy.action import Action, NetAction, Verb, Verdict
from monitor.policy.decide import decide
from monitor.policy.environment import kept
from monitor.policy.plan import HostFeatures, Plan, Policy
from monitor.profile.model import FilesSection, NetworkSection, Profile
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


@settings(max_examples=250)
@given(
    profiles.chains,
    st.lists(
        st.one_of(
            profiles.file_actions,
            profiles.exec_actions,
            profiles.net_actions,
            profiles.unix_actions,
            profiles.socket_actions,
        ),
        min_size=1,
        max_size=20,
    ),
)
def test_decides_as_the_profiles_read(chain: list[Profile], actions: list[Action]) -> None:
    plan = compiled(chain)
    for action in actions:
        assert allowed(plan, action) is reference.allows(chain, action), action


@settings(max_examples=200)
@given(
    profiles.chains,
    profiles.profiles,
    st.lists(profiles.actions, min_size=1, max_size=20),
    st.data(),
)
def test_a_further_link_never_allows_more(
    chain: list[Profile], link: Profile, actions: list[Action], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(chain)))
    plan, longer = compiled(chain), compiled([*chain[:place], link, *chain[place:]])
    for action in actions:
        assert not allowed(longer, action) or allowed(plan, action), action
    names = ["AB", "A", "PATH", "B", "PB"]
    assert set(kept(longer.environment, names)) <= set(kept(plan.environment, names))


@settings(max_examples=200)
@given(
    profiles.chains,
    profiles.profiles,
    st.lists(profiles.file_actions | profiles.exec_actions, min_size=1, max_size=20),
)
def test_a_further_link_never_allows_more_without_a_view(
    chain: list[Profile], link: Profile, actions: list[Action]
) -> None:
    lacking = [each.model_copy(update={"may_lack": ("view",)}) for each in (*chain, link)]
    plan, longer = compiled(lacking[:-1], BLIND), compiled(lacking, BLIND)
    for action in actions:
        assert not allowed(longer, action) or allowed(plan, action), action


@given(profiles.profiles, profiles.net_actions)
def test_an_empty_network_list_denies(profile: Profile, action: NetAction) -> None:
    section = profile.network or NetworkSection()
    key = "bind" if action.verb is Verb.NET_BIND else "connect"
    emptied = profile.model_copy(update={"network": section.model_copy(update={key: ()})})
    assert not allowed(compiled([emptied]), action)


@given(profiles.profiles, profiles.unix_actions)
def test_an_empty_unix_list_denies(profile: Profile, action: Action) -> None:
    section = (profile.network or NetworkSection()).model_copy(update={"unix": ()})
    assert not allowed(compiled([profile.model_copy(update={"network": section})]), action)


@pytest.mark.parametrize("key", ["read", "write", "execute"])
@given(profile=profiles.profiles, data=st.data())
def test_an_empty_file_list_denies(key: str, profile: Profile, data: st.DataObject) -> None:
    actions = {
        "read": st.one_of(profiles.exec_actions, profiles.file_actions.filter(_reads)),
        "write": profiles.file_actions.filter(_changes),
        "execute": profiles.exec_actions,
    }
    section = (profile.files or FilesSection()).model_copy(update={key: ()})
    emptied = profile.model_copy(update={"files": section})
    assert not allowed(compiled([emptied]), data.draw(actions[key]))


def _reads(action: Action) -> bool:
    return getattr(action, "verb", None) is Verb.FILE_OPEN


def _changes(action: Action) -> bool:
    return getattr(action, "verb", None) not in {Verb.FILE_OPEN, Verb.FILE_CHMOD}


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


@settings(max_examples=150)
@given(profiles.profiles, profiles.net_actions)
def test_deny_beats_allow(profile: Profile, action: NetAction) -> None:
    name = {6: "tcp", 17: "udp"}.get(action.protocol, "tcp")
    address = f"[{action.address}]" if action.address.version == 6 else str(action.address)
    denied = profiles.profile(
        network={"deny": [f"{address}:{action.port}/{name}"], "connect": [], "bind": []}
    ).network
    assert denied is not None
    section = profile.network or NetworkSection()
    update = {"network": section.model_copy(update={"deny": (*section.deny, *denied.deny)})}
    assert not allowed(compiled([profile.model_copy(update=update)]), action)


@settings(max_examples=100)
@given(profiles.chains, st.booleans())
def test_json_gives_the_same_plan(chain: list[Profile], observe: bool) -> None:
    plan = compiled(chain, observe=observe)
    text = plan_json.to_json(plan)
    assert plan_json.from_json(text) == plan
    assert plan_json.to_json(plan_json.from_json(text)) == text
    assert text.isascii()


@given(profiles.chains, st.lists(profiles.actions, min_size=1, max_size=10))
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
        return value is not None and bool(layout.ri_port_value.from_buffer_copy(value).allow)

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


def kernel_allows(policies: Sequence[Policy], action: NetAction) -> bool:
    table = Table.BIND if action.verb is Verb.NET_BIND else Table.CONNECT
    return all(
        KernelMaps(number, policy).destination(table, action)
        for number, policy in enumerate(policies, 7)
    )


@settings(max_examples=150)
@given(profiles.chains, st.lists(profiles.net_actions, min_size=1, max_size=10))
def test_the_kernels_rows_say_what_the_profiles_say(
    chain: list[Profile], actions: list[NetAction]
) -> None:
    plan = compiled(chain)
    for action in actions:
        assert kernel_allows(plan.policies, action) is reference.allows(chain, action), action

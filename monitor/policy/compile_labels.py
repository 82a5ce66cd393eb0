# SPDX-License-Identifier: Apache-2.0
"""From `exec`, `files.ask` and `labels` to what the gates judge by, and what labels take away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from monitor.policy import compile_network, origins
from monitor.policy.action import Verdict
from monitor.policy.compile_files import pattern_of
from monitor.policy.origins import Rules
from monitor.policy.plan import Budgets, ExecRule, FileAsk, Label, Policy
from monitor.profile import durations
from monitor.profile import model as profiles
from monitor.profile.model import Profile
from monitor.profile.variables import Variables, expand

Resolve = Callable[[str], str]


def file_asks(profile: Profile, variables: Variables, resolve: Resolve) -> tuple[FileAsk, ...]:
    """What is asked about before it is opened."""
    key = "files.ask"
    return tuple(
        FileAsk(
            pattern_of(profile, key, rule, variables, resolve),
            rule.why,
            origins.make(profile, key, rule.path, rule.position),
        )
        for rule in (profile.files.ask if profile.files else ())
    )


def exec_rules(
    profile: Profile, variables: Variables, resolve: Resolve, *, gated: bool
) -> tuple[ExecRule, ...]:
    """The rules on program starts that the gate judges by.

    What is denied whatever its arguments are, the view holds: the gate repeats it where there is
    one anyway (`gated`), or where the content counts.
    """
    section = profile.exec or profiles.ExecSection()
    denied = [rule for rule in section.deny if gated or rule.sha256 or not rule.whatever_arguments]
    made = _Maker(profile, variables, resolve)
    return (
        *made.rules("exec.deny", denied, Verdict.DENY),
        *made.rules("exec.ask", section.ask, Verdict.ASK),
    )


def is_gated(profile: Profile) -> bool:
    """Whether any rule of this profile makes program starts wait for the gate."""
    section = profile.exec or profiles.ExecSection()
    limits = profile.limits or profiles.LimitsSection()
    return bool(
        section.ask
        or any(rule.sha256 or not rule.whatever_arguments for rule in section.deny)
        or any(label.exec or label.then.exec or label.then.ask for label in profile.labels.values())
        or limits.execs_per_minute
    )


def with_labels(policy: Policy, profile: Profile, variables: Variables, resolve: Resolve) -> Policy:
    """The policy with the labels of its profile."""
    labels = tuple(
        _label(policy, profile, name, _Maker(profile, variables, resolve))
        for name in profile.labels
    )
    return replace(policy, labels=labels)


def _label(policy: Policy, profile: Profile, name: str, made: _Maker) -> Label:
    section, key = profile.labels[name], f"labels.{name}"
    then = section.then
    rules: tuple[ExecRule, ...] = ()
    if then.exec is not None:
        rules = (
            *made.rules(f"{key}.then.exec.deny", then.exec.deny, Verdict.DENY),
            *made.rules(f"{key}.then.exec.ask", then.exec.ask, Verdict.ASK),
        )
    return Label(
        name=name,
        files=tuple(
            pattern_of(profile, f"{key}.files", rule, made.variables, made.resolve)
            for rule in section.files
        ),
        exec=made.rules(f"{key}.exec", section.exec, Verdict.ALLOW),
        policy=_narrowed(policy, profile, name, made),
        rules=rules,
        ask=then.ask is not None,
        origin=origins.make(profile, "labels", name, profile.places.get(key)),
    )


def _narrowed(policy: Policy, profile: Profile, name: str, made: _Maker) -> Policy | None:
    """The policy that must allow as well once a session has the label; None: the network stays."""
    then = profile.labels[name].then
    if then.network is None and then.ask is None:
        return None
    rules = Rules()
    return Policy(
        profile=policy.profile,
        digest=policy.digest,
        files=(),
        masks=(),
        connect=compile_network.label_table(profile, name, rules),
        bind=compile_network.bind_table(profile, rules),
        unix=compile_network.unix_rules(profile, made.variables, made.resolve, rules),
        sockets=policy.sockets,
        rules=rules.all(),
    )


def budgets(profile: Profile) -> Budgets:
    """What the profile's limits count."""
    limits = profile.limits or profiles.LimitsSection()
    egress = limits.egress_bytes
    return Budgets(
        connects=limits.connects_per_minute,
        destinations=limits.destinations,
        egress=None if egress is None else durations.octets(egress),
        execs=limits.execs_per_minute,
        deletes=limits.deletes_per_minute,
    )


class _Maker:
    """Makes rules on program starts of one profile."""

    def __init__(self, profile: Profile, variables: Variables, resolve: Resolve) -> None:
        self.profile = profile
        self.variables = variables
        self.resolve = resolve

    def rules(
        self, key: str, listed: Iterable[profiles.ExecRule], verdict: Verdict
    ) -> tuple[ExecRule, ...]:
        return tuple(self._rule(key, rule, verdict) for rule in listed)

    def _rule(self, key: str, rule: profiles.ExecRule, verdict: Verdict) -> ExecRule:
        outside = None
        if rule.outside is not None:
            outside = self.resolve(expand(rule.outside, self.variables, rule.position))
        return ExecRule(
            pattern=pattern_of(self.profile, key, rule, self.variables, self.resolve),
            arguments=rule.args,
            outside=outside,
            content=rule.sha256,
            verdict=verdict,
            why=rule.why,
            origin=origins.make(self.profile, key, _written(rule), rule.position),
        )


def _written(rule: profiles.ExecRule) -> str:
    """The rule as one line."""
    text = " ".join((rule.path, *(rule.args or ())))
    if rule.outside is not None:
        text += f" outside {rule.outside}"
    return text + (" (sha256)" if rule.sha256 else "")

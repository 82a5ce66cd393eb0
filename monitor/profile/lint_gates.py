# SPDX-License-Identifier: Apache-2.0
"""Lint of what is asked about, counted and labelled: rules that hold less than they seem to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from monitor.profile import network, paths, placed
from monitor.profile.finding import Finding
from monitor.profile.model import ExecRule, ExecSection, NetworkSection, Profile
from monitor.profile.placed import PlacedPath, Rules
from monitor.profile.variables import Variables


def lint(profile: Profile, rules: Rules, variables: Variables) -> Iterator[Finding]:
    """Doubts about the asks, labels and budgets of one profile."""
    if profile.ask_fallback == "allow":
        at = profile.places.get("ask_fallback")
        message = "what nobody can be asked about is allowed: whoever is away has agreed"
        yield Finding("warning", at, "ask_fallback", message)
    yield from _asks(profile, rules, variables)
    section = profile.exec or ExecSection()
    for key, listed in (("exec.deny", section.deny), ("exec.ask", section.ask)):
        yield from _programs(key, listed, rules, variables)
    yield from _labels(profile, rules, variables)
    yield from _budget(profile)


def _asks(profile: Profile, rules: Rules, variables: Variables) -> Iterator[Finding]:
    for rule in profile.files.ask if profile.files else ():
        if not _granted(rule.path, (*rules.read, *rules.write), variables):
            message = f"{rule.path} is never asked about: neither read nor write allows it"
            yield Finding("warning", rule.position, "files.ask", message)
    section = profile.network or NetworkSection()
    for asked in section.ask:
        to = network.parse(asked.to)
        for denied in section.deny:
            if network.covers(network.parse(denied.to), to):
                message = f"{asked.to} is never asked about: network.deny takes it away"
                yield Finding("warning", asked.position, "network.ask", message)
                break


def _granted(text: str, allowing: Sequence[PlacedPath], variables: Variables) -> bool:
    """Whether a pattern may name something that one of `allowing` grants."""
    path, _ = placed.place(text, variables)
    names = path.split("/")
    plain = next((at for at, name in enumerate(names) if paths.is_glob(name)), len(names))
    start = "/".join(names[:plain]) or "/"
    return any(
        rule.covers(start) or (plain < len(names) and placed.within(rule.path, start))
        for rule in allowing
    )


def _programs(
    key: str, listed: Sequence[ExecRule], rules: Rules, variables: Variables
) -> Iterator[Finding]:
    """Rules by name, where the agent can make a copy by another name and run that."""
    copies = [made for made in rules.write if any(made.touches(other) for other in rules.execute)]
    for rule in listed:
        # Plain denials of programs have that warning already, at the place that is to blame.
        plain = key == "exec.deny" and rule.whatever_arguments
        if rule.sha256 or plain or not copies:
            continue
        if _granted(rule.path, rules.read, variables):
            message = (
                f"a copy of {rule.path} under another name is not meant: {copies[0].text} is"
                " writable and executable (`sha256: true` means copies as well)"
            )
            yield Finding("warning", rule.position, key, message)


def _labels(profile: Profile, rules: Rules, variables: Variables) -> Iterator[Finding]:
    for name, label in profile.labels.items():
        key = f"labels.{name}.files"
        for rule in label.files:
            if not _granted(rule.path, (*rules.read, *rules.write), variables):
                message = f"{rule.path} never gives the label: neither read nor write allows it"
                yield Finding("warning", rule.position, key, message)


def _budget(profile: Profile) -> Iterator[Finding]:
    limits = profile.limits
    counted = ("connects", "execs", "deletes")
    names = ["egress_bytes", "destinations", *(f"{each}_per_minute" for each in counted)]
    if limits is None or limits.on_budget is None:
        return
    if all(getattr(limits, name) is None for name in names):
        at = profile.places.get("limits.on_budget")
        message = "on_budget does nothing: no budget is set"
        yield Finding("warning", at, "limits.on_budget", message)

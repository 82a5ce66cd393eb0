# SPDX-License-Identifier: Apache-2.0
"""Lint of what is asked about, counted and labelled: rules that hold less than they seem to."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from monitor.profile import hazards, network, paths, placed
from monitor.profile.finding import Finding
from monitor.profile.model import (
    ExecRule,
    ExecSection,
    LabelSection,
    NetworkRule,
    NetworkSection,
    Profile,
)
from monitor.profile.placed import PlacedPath, Rules
from monitor.profile.variables import Variables


@dataclass(frozen=True, slots=True)
class Look:
    """What a file of this host is: under how many names, and whether it is a script."""

    names: int
    script: bool


NOTHING = Look(1, False)


def look(path: str) -> Look:
    """What is at `path`; of what cannot be read, nothing is said."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return NOTHING
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return NOTHING
        return Look(status.st_nlink, os.read(descriptor, 2) == b"#!")
    except OSError:
        return NOTHING
    finally:
        os.close(descriptor)


def lint(
    profile: Profile, rules: Rules, variables: Variables, look: Callable[[str], Look]
) -> Iterator[Finding]:
    """Doubts about the asks, labels and budgets of one profile."""
    if profile.ask_fallback == "allow":
        at = profile.places.get("ask_fallback")
        message = "what nobody can be asked about is allowed: whoever is away has agreed"
        yield Finding("warning", at, "ask_fallback", message)
    yield from _asks(profile, rules, variables)
    for key, listed in _starts(profile):
        yield from _programs(key, listed, rules, variables)
        for rule in listed:
            yield from _other_ways(key, rule, rules, variables, look)
    yield from _labels(profile, rules, variables)
    yield from _budget(profile)
    yield from _zones(profile)


def _starts(profile: Profile) -> Iterator[tuple[str, Sequence[ExecRule]]]:
    """Every list of rules on program starts."""
    section = profile.exec or ExecSection()
    yield "exec.deny", section.deny
    yield "exec.ask", section.ask
    for name, label in profile.labels.items():
        yield f"labels.{name}.exec", label.exec
        if label.then.exec is not None:
            yield f"labels.{name}.then.exec.deny", label.then.exec.deny
            yield f"labels.{name}.then.exec.ask", label.then.exec.ask


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


def _other_ways(
    key: str,
    rule: ExecRule,
    rules: Rules,
    variables: Variables,
    look: Callable[[str], Look],
) -> Iterator[Finding]:
    """Other ways to the same program that this host has, past a rule by its name."""
    path, _ = placed.place(rule.path, variables)
    if paths.is_glob(path):
        return
    found = look(path)
    if found.script:
        message = (
            f"{rule.path} is a script: who gives it to its interpreter (`sh {rule.path}`) does not"
            " start it (`files.deny` takes it away)"
        )
        yield Finding("warning", rule.position, key, message)
    # Plain denials are the view's, which finds a file by all of its names.
    if rule.sha256 or (key == "exec.deny" and rule.whatever_arguments):
        return
    copies = [
        copy
        for program, copy in hazards.COPIES
        if program == path and any(each.covers(copy) for each in rules.execute)
    ]
    if copies:
        message = f"{rule.path} is {copies[0]} as well (`sha256: true` means both)"
        yield Finding("warning", rule.position, key, message)
    elif found.names > 1:
        message = f"{rule.path} has other names on this host (`sha256: true` means those too)"
        yield Finding("warning", rule.position, key, message)


def _labels(profile: Profile, rules: Rules, variables: Variables) -> Iterator[Finding]:
    for name, label in profile.labels.items():
        key = f"labels.{name}.files"
        for rule in label.files:
            if not _granted(rule.path, (*rules.read, *rules.write), variables):
                message = f"{rule.path} never gives the label: neither read nor write allows it"
                yield Finding("warning", rule.position, key, message)
        yield from _destinations(profile, name, label)


def _destinations(profile: Profile, name: str, label: LabelSection) -> Iterator[Finding]:
    section = profile.network or NetworkSection()
    texts = [each.to for each in section.connect if not network.names_host(each.to)]
    texts += [each.to for each in section.ask]
    allowed = [network.parse(text) for text in texts]
    only = label.then.network.only if label.then.network else ()
    doubts: tuple[tuple[str, Sequence[NetworkRule], str], ...] = (
        ("connect", label.connect, "never gives the label: network.connect does not allow it"),
        ("then.network.only", only, "leaves nothing: network.connect does not allow it"),
    )
    for key, listed, message in doubts:
        for rule in listed:
            to = network.parse(rule.to)
            if not any(network.touches(to, each) for each in allowed):
                yield Finding(
                    "warning", rule.position, f"labels.{name}.{key}", f"{rule.to} {message}"
                )
    if label.then.network is not None and section.unix:
        message = "unix sockets stay as they are: what listens there may send on what it is given"
        at = profile.places.get(f"labels.{name}.then.network")
        yield Finding("note", at, f"labels.{name}.then.network", message)


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


def _zones(profile: Profile) -> Iterator[Finding]:
    for window in profile.conditions.time if profile.conditions else ():
        try:
            ZoneInfo(window.zone)
        except (KeyError, ValueError, OSError):
            message = f"this host does not know the time zone {window.zone}: no session starts"
            yield Finding("error", window.position, "conditions.time", message)

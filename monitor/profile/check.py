# SPDX-License-Identifier: Apache-2.0
"""What the rules of a well-formed profile say: whether each can be meant, and can be held.

A rule that is taken without a word and then not held is worse than none: it is an error here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from monitor.profile import durations, network, paths, variables
from monitor.profile.errors import Problem, problem
from monitor.profile.model import (
    AskNetworkRule,
    AskPathRule,
    ConditionsSection,
    ConnectRule,
    EnvironmentSection,
    ExecRule,
    ExecSection,
    FilesSection,
    LimitsSection,
    Model,
    NetworkRule,
    NetworkSection,
    PathRule,
    Profile,
    UnixRule,
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME_GLOB = re.compile(r"[A-Za-z0-9_*?\[\]!-]+")
_SYSCALL = re.compile(r"[a-z_][a-z0-9_]*")
_PROFILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MIDNIGHT = "24:00"
_CLOCK = re.compile(rf"(?:[01][0-9]|2[0-3]):[0-5][0-9]|{_MIDNIGHT}")
# Names of the IANA database; whether this host has it is seen at launch.
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}")
# The kernel holds so many labels for a session (probes/include/maps.h, RI_MAX_LABELS).
MOST_LABELS = 8
LONGEST_WHY = 500

Check = Callable[[str], object]


def problems(profile: Profile) -> list[Problem]:
    """Everything that is wrong with the rules of one profile, in the order of the model."""
    return list(_all(profile))


def _all(profile: Profile) -> Iterator[Problem]:
    yield from _names(profile)
    if profile.files:
        yield from _files(profile.files)
    if profile.network:
        yield from _network(profile.network)
    if profile.exec:
        yield from _exec(profile.exec)
    if profile.syscalls:
        for index, name in enumerate(profile.syscalls.deny):
            if not _SYSCALL.fullmatch(name):
                yield _at(profile, f"syscalls.deny[{index}]", f"{name!r} names no system call")
    if profile.limits:
        yield from _limits(profile, profile.limits)
    if profile.environment:
        yield from _environment(profile, profile.environment)
    yield from _labels(profile)
    if profile.conditions:
        yield from _conditions(profile, profile.conditions)


def _names(profile: Profile) -> Iterator[Problem]:
    names = [("extends", profile.extends)] if profile.extends is not None else []
    names += [(f"include[{index}]", name) for index, name in enumerate(profile.include)]
    for key, name in names:
        if not _PROFILE.fullmatch(name or ""):
            yield _at(profile, key, f"{name!r} is not the name of a profile")
    for index, name in enumerate(profile.include):
        if name in profile.include[:index]:
            yield _at(profile, f"include[{index}]", f"{name} is included already")


def _at(profile: Profile, key: str, message: str) -> Problem:
    return problem(profile.places.get(key), key, message)


def _says(check: Check, text: str) -> str | None:
    """What `check` has against `text`, if anything."""
    try:
        check(text)
    except ValueError as error:
        return str(error)
    return None


def _files(files: FilesSection) -> Iterator[Problem]:
    for key in ("read", "write", "execute"):
        yield from _paths(f"files.{key}", getattr(files, key), paths.check_allowed)
    for key in ("deny", "read_only"):
        yield from _paths(f"files.{key}", getattr(files, key), paths.check_mask)
    yield from _paths("files.ask", files.ask, paths.check_mask)


def _paths(
    key: str, rules: Sequence[PathRule | AskPathRule | UnixRule], check: Check
) -> Iterator[Problem]:
    for index, rule in enumerate(rules):
        wrong = _says(check, rule.path)
        if wrong:
            yield problem(rule.position, f"{key}[{index}]", wrong)
        yield from _why(rule, f"{key}[{index}]")


def _why(rule: Model, key: str) -> Iterator[Problem]:
    """A reason is shown on somebody's terminal, in one line of a table."""
    text = getattr(rule, "why", "")
    if not text.isprintable():
        message = "holds a line break or a control character"
        yield problem(getattr(rule, "position", None), f"{key}.why", message)
    if len(text) > LONGEST_WHY:
        message = f"is longer than {LONGEST_WHY} characters"
        yield problem(getattr(rule, "position", None), f"{key}.why", message)


def _network(section: NetworkSection) -> Iterator[Problem]:
    yield from _connects("network.connect", section.connect)
    for key in ("bind", "expose", "deny", "ask"):
        yield from _destinations(f"network.{key}", getattr(section, key))
    yield from _paths("network.unix", section.unix, paths.check_socket)


def _connects(key: str, rules: Sequence[ConnectRule]) -> Iterator[Problem]:
    for index, rule in enumerate(rules):
        wrong = _says(network.parse_either, rule.to)
        if wrong is None and rule.private and not network.names_hosts(rule.to):
            wrong = "`private` is about what a name is answered with, and this names addresses"
        if wrong:
            yield problem(rule.position, f"{key}[{index}]", wrong)


def _destinations(key: str, rules: Sequence[NetworkRule | AskNetworkRule]) -> Iterator[Problem]:
    for index, rule in enumerate(rules):
        wrong = _says(network.parse, rule.to)
        if wrong:
            yield problem(rule.position, f"{key}[{index}]", wrong)
        yield from _why(rule, f"{key}[{index}]")


def _exec(section: ExecSection, key: str = "exec") -> Iterator[Problem]:
    yield from _programs(f"{key}.deny", section.deny)
    yield from _programs(f"{key}.ask", section.ask)


def _programs(key: str, rules: Sequence[ExecRule]) -> Iterator[Problem]:
    for index, rule in enumerate(rules):
        where = f"{key}[{index}]"
        wrong = _says(paths.check_mask, rule.path)
        if wrong:
            yield problem(rule.position, where, wrong)
        for number, text in enumerate(rule.args or ()):
            wrong = _says(_check_argument, text)
            if wrong:
                yield problem(rule.position, f"{where}.args[{number}]", wrong)
        wrong = None if rule.outside is None else _says(paths.check_folder, rule.outside)
        if wrong:
            yield problem(rule.position, f"{where}.outside", wrong)
        yield from _why(rule, where)


def _check_argument(text: str) -> None:
    """ValueError where no argument can be so."""
    if "\0" in text:
        raise ValueError("an argument holds no NUL")
    if "..." in text and text != "...":
        raise ValueError(f"... stands alone for any number of arguments, not as in {text!r}")


def _labels(profile: Profile) -> Iterator[Problem]:
    if len(profile.labels) > MOST_LABELS:
        message = f"{len(profile.labels)} labels; the kernel holds {MOST_LABELS} for a session"
        yield _at(profile, "labels", message)
    for name, label in profile.labels.items():
        key = f"labels.{name}"
        if not _PROFILE.fullmatch(name):
            yield _at(profile, key, f"{name!r} is not the name of a label: write it as a profile's")
        if not (label.files or label.connect or label.exec):
            yield _at(profile, key, "nothing earns it: `files`, `connect` or `exec` say what does")
        then = label.then
        if then.network is None and then.exec is None and then.ask is None:
            yield _at(profile, f"{key}.then", "nothing follows: `network`, `exec` or `ask`")
        yield from _paths(f"{key}.files", label.files, paths.check_mask)
        yield from _destinations(f"{key}.connect", label.connect)
        yield from _programs(f"{key}.exec", label.exec)
        if then.network is not None:
            yield from _destinations(f"{key}.then.network.only", then.network.only)
        if then.exec is not None:
            yield from _exec(then.exec, f"{key}.then.exec")


def _conditions(profile: Profile, conditions: ConditionsSection) -> Iterator[Problem]:
    for index, window in enumerate(conditions.time):
        where = f"conditions.time[{index}]"
        for key in ("start", "until"):
            text = getattr(window, key)
            if not _CLOCK.fullmatch(text) or (key, text) == ("start", _MIDNIGHT):
                message = f'{text!r} is not a time of day: "HH:MM", in quotes'
                yield problem(window.position, f"{where}.{key}", message)
        if window.start == window.until:
            yield problem(window.position, where, "it ends when it begins")
        if not window.days:
            yield problem(window.position, f"{where}.days", "no day: leave it out for every day")
        if not _ZONE.fullmatch(window.zone):
            message = f"{window.zone!r} is not a time zone: Europe/Berlin, UTC"
            yield problem(window.position, f"{where}.zone", message)
    yield from _measures(
        profile, "conditions", conditions, (("memory_available", durations.octets),)
    )


def _limits(profile: Profile, limits: LimitsSection) -> Iterator[Problem]:
    yield from _measures(
        profile,
        "limits",
        limits,
        (
            ("ttl", durations.seconds),
            ("memory", durations.octets),
            ("egress_bytes", durations.octets),
            ("ask_timeout", durations.seconds),
        ),
    )


def _measures(
    profile: Profile, section: str, values: Model, checks: Sequence[tuple[str, Check]]
) -> Iterator[Problem]:
    """Durations and sizes that are no such thing."""
    for key, check in checks:
        text = getattr(values, key)
        wrong = None if text is None else _says(check, text)
        if wrong:
            yield _at(profile, f"{section}.{key}", wrong)


def _environment(profile: Profile, environment: EnvironmentSection) -> Iterator[Problem]:
    for key in ("keep", "scrub"):
        for index, glob in enumerate(getattr(environment, key)):
            if not _NAME_GLOB.fullmatch(glob):
                where = f"environment.{key}[{index}]"
                yield _at(profile, where, f"{glob!r} is not a pattern on a variable's name")
    for name, value in environment.set.items():
        where = f"environment.set.{name}"
        if not _NAME.fullmatch(name):
            yield _at(profile, where, f"{name!r} is not the name of a variable")
        wrong = _says(variables.check, value)
        if wrong:
            yield _at(profile, where, wrong)
        if "\0" in value:
            yield _at(profile, where, "a value holds no NUL")

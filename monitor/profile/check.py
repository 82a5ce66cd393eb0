# SPDX-License-Identifier: Apache-2.0
"""What the rules of a well-formed profile say: whether each can be meant, and can be held.

What a later release enforces is an error here, because a rule that is taken without a word and then
not held is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from monitor.profile import durations, network, paths, variables
from monitor.profile.errors import Problem, problem
from monitor.profile.model import (
    EnvironmentSection,
    ExecSection,
    FilesSection,
    LimitsSection,
    NetworkSection,
    PathRule,
    Profile,
    UnixRule,
)

_LATER = "enforced by a later release; this one refuses it rather than ignore it"
_LATER_LIMITS = ("connects_per_minute", "execs_per_minute", "deletes_per_minute", "egress_bytes")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME_GLOB = re.compile(r"[A-Za-z0-9_*?\[\]!-]+")
_SYSCALL = re.compile(r"[a-z_][a-z0-9_]*")
_PROFILE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Check = Callable[[str], object]


def problems(profile: Profile) -> list[Problem]:
    """Everything that is wrong with the rules of one profile, in the order of the model."""
    return list(_all(profile))


def _all(profile: Profile) -> Iterator[Problem]:
    names = [("extends", profile.extends)] if profile.extends is not None else []
    names += [(f"include[{index}]", name) for index, name in enumerate(profile.include)]
    for key, name in names:
        if not _PROFILE.fullmatch(name or ""):
            yield _at(profile, key, f"{name!r} is not the name of a profile")
    for index, name in enumerate(profile.include):
        if name in profile.include[:index]:
            yield _at(profile, f"include[{index}]", f"{name} is included already")
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
    for index, rule in enumerate(files.ask):
        yield problem(rule.position, f"files.ask[{index}]", f"ask is {_LATER}")


def _paths(key: str, rules: Sequence[PathRule | UnixRule], check: Check) -> Iterator[Problem]:
    for index, rule in enumerate(rules):
        wrong = _says(check, rule.path)
        if wrong:
            yield problem(rule.position, f"{key}[{index}]", wrong)


def _network(section: NetworkSection) -> Iterator[Problem]:
    for key in ("connect", "bind", "deny"):
        for index, rule in enumerate(getattr(section, key)):
            wrong = _says(network.parse, rule.to)
            if wrong:
                yield problem(rule.position, f"network.{key}[{index}]", wrong)
    for index, rule in enumerate(section.ask):
        yield problem(rule.position, f"network.ask[{index}]", f"ask is {_LATER}")
    yield from _paths("network.unix", section.unix, paths.check_socket)


def _exec(section: ExecSection) -> Iterator[Problem]:
    for index, rule in enumerate(section.deny):
        wrong = _says(paths.check_mask, rule.path)
        if wrong:
            yield problem(rule.position, f"exec.deny[{index}]", wrong)
        if rule.args is not None:
            yield problem(rule.position, f"exec.deny[{index}].args", f"args are {_LATER}")
    for index, rule in enumerate(section.ask):
        yield problem(rule.position, f"exec.ask[{index}]", f"ask is {_LATER}")


def _limits(profile: Profile, limits: LimitsSection) -> Iterator[Problem]:
    for key, check in (("ttl", durations.seconds), ("memory", durations.octets)):
        text = getattr(limits, key)
        wrong = None if text is None else _says(check, text)
        if wrong:
            yield _at(profile, f"limits.{key}", wrong)
    for key in _LATER_LIMITS:
        if getattr(limits, key) is not None:
            yield _at(profile, f"limits.{key}", f"this limit is {_LATER}")


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

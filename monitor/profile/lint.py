# SPDX-License-Identifier: Apache-2.0
"""What is doubtful about a profile that loads: rules that do nothing, or more than they seem to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from monitor.profile import hazards, lint_files, lint_gates, lint_names, network, paths, placed
from monitor.profile.finding import LEVELS, Finding, Level
from monitor.profile.model import ConnectRule, NetworkRule, Profile, UnixRule
from monitor.profile.variables import Variables, expand

__all__ = ["Finding", "lint"]

# More addresses than this are as good as any: a /8 of IPv4.
MANY = 1 << 24
# Shipped profiles that open one kind of sockets, for whoever includes them.
SOCKET_PROFILES = "socket-"
ANY_FOUR = network.EVERYWHERE[:1]


def lint(
    profiles: tuple[Profile, ...],
    variables: Variables,
    exists: Callable[[str], bool] = os.path.lexists,
    is_folder: Callable[[str], bool] = os.path.isdir,
    look: Callable[[str], lint_gates.Look] = lint_gates.look,
) -> list[Finding]:
    """Everything doubtful about resolved `profiles`, the worst first, each thing once."""
    found: dict[Finding, None] = {}
    outer: list[placed.Rules] = []
    for profile in profiles:
        rules = placed.rules(profile, variables)
        missing = [rule for rule in _own_paths(rules) if not exists(rule.path)]
        folders = [rule for rule in rules.allowing() if not rule.tree and is_folder(rule.path)]
        found |= dict.fromkeys(lint_files.lint(rules, outer, variables, missing))
        found |= dict.fromkeys(lint_files.folders(folders))
        found |= dict.fromkeys(_sockets(profile, variables, [*outer, rules]))
        found |= dict.fromkeys(_networks(profile))
        found |= dict.fromkeys(_environment(profile))
        found |= dict.fromkeys(lint_gates.lint(profile, rules, variables, look))
        outer.append(rules)
    return sorted(found, key=_order)


def _order(finding: Finding) -> tuple[int, str, int]:
    at = finding.position
    return LEVELS.index(finding.level), at.source if at else "", at.line if at else 0


def _own_paths(rules: placed.Rules) -> Iterable[placed.PlacedPath]:
    """Where each path stands first. What is included is written for many hosts: it is left out."""
    own: dict[str, placed.PlacedPath] = {}
    for rule in (*rules.allowing(), *rules.taking()):
        if rule.source == rules.source and not paths.is_glob(rule.path):
            own.setdefault(rule.path, rule)
    return own.values()


def _sockets(
    profile: Profile, variables: Variables, chain: Sequence[placed.Rules]
) -> Iterator[Finding]:
    """`chain`: the path rules of this profile and of those that it narrows."""
    for rule in profile.network.unix if profile.network else ():
        path, _ = placed.place(rule.path, variables)
        for hazard in hazards.SOCKETS:
            if placed.matches(path, expand(hazard.path, variables)):
                message = f"{rule.path} is no ordinary socket: {hazard.why}"
                level = "warning" if _opened_by_name(rule) else hazard.level
                yield Finding(level, rule.position, "network.unix", message)
        if all(_may_replace(rules, path) for rules in chain):
            message = (
                f"{rule.path} lies where the session may write: each connection waits for the gate,"
                " and sendto(2) without connect(2) is refused"
            )
            yield Finding("note", rule.position, "network.unix", message)


def _opened_by_name(rule: UnixRule) -> bool:
    """Whether a profile that is there for it lists the socket, and so somebody included it."""
    at = rule.position
    return at is not None and at.source.rpartition("/")[2].startswith(SOCKET_PROFILES)


def _may_replace(rules: placed.Rules, path: str) -> bool:
    """Whether names in the folder of `path` may be written. An abstract name (`@`) has none."""
    folder = path.rpartition("/")[0] or "/"
    writable = path.startswith("/") and any(
        rule.tree and rule.covers(folder) for rule in rules.write
    )
    return writable and placed.taken(rules.taking(), path) is None


def _networks(profile: Profile) -> Iterator[Finding]:
    section = profile.network
    if section is None:
        return
    denied = [network.parse(rule.to) for rule in section.deny]
    yield from lint_names.lint(section.connect)
    bound = [network.parse(rule.to) for rule in section.bind]
    for key in ("connect", "bind", "expose"):
        listed: Sequence[ConnectRule | NetworkRule] = getattr(section, key)
        for rule in listed:
            if network.names_host(rule.to):
                continue
            to = network.parse(rule.to)
            where = f"network.{key}"
            if any(network.covers(each, to) for each in denied):
                message = f"{rule.to} is never allowed: network.deny takes it away"
                yield Finding("warning", rule.position, where, message)
            elif key == "connect":
                for level, message in _reached(rule, to):
                    yield Finding(level, rule.position, where, message)
            elif key == "expose":
                yield from _exposed(rule, to, bound)
            elif any(not net.is_loopback for net in to.networks) and not section.expose:
                message = f"{rule.to}: only this host can connect in; network.expose lets others"
                yield Finding("note", rule.position, where, message)


def _exposed(
    rule: ConnectRule | NetworkRule, to: network.Destination, bound: Sequence[network.Destination]
) -> Iterator[Finding]:
    if not any(_meet(each, to) for each in bound):
        message = f"{rule.to} lets nobody in: no rule of network.bind is about it"
        yield Finding("warning", rule.position, "network.expose", message)
    elif any(not net.is_loopback for net in to.networks):
        message = f"{rule.to} lets others than this host connect in, and fetch data"
        yield Finding("note", rule.position, "network.expose", message)


def _meet(bound: network.Destination, to: network.Destination) -> bool:
    """Whether what is bound may be reached at `to`; a wildcard address is every one."""
    every = [each for each in bound.networks if each.network_address.is_unspecified]
    if every:
        # Bound to `::` a socket takes IPv4 as well.
        wide = network.EVERYWHERE if any(each.version == 6 for each in every) else ANY_FOUR
        bound = replace(bound, networks=wide)
    if bound.ports[0][0] == 0:  # a port that the kernel chooses
        bound = replace(bound, ports=((0, network.HIGHEST_PORT),))
    return network.touches(bound, to)


def _reached(
    rule: ConnectRule | NetworkRule, to: network.Destination
) -> Iterator[tuple[Level, str]]:
    if to.networks == network.EVERYWHERE:
        yield "warning", f"{rule.to} names a port and no host: any host is a way out for data"
    elif any(net.num_addresses > MANY and net.version == 4 for net in to.networks):
        yield "warning", f"{rule.to} names millions of hosts: each is a way out for data"
    for address in hazards.METADATA:
        # A wider rule does not reach them: only one that names them, or their own small network.
        if any(address in net and net.prefixlen >= net.max_prefixlen // 2 for net in to.networks):
            message = f"{rule.to} reaches {address}, which hands out the machine's credentials"
            yield "error", message


def _environment(profile: Profile) -> Iterator[Finding]:
    environment = profile.environment
    if environment is None:
        return
    for index, glob in enumerate(environment.keep):
        key = "environment.keep"
        position = profile.places.get(f"{key}[{index}]")
        if glob == "*":
            message = "* keeps every variable: secrets have names that no pattern foresees"
            yield Finding("warning", position, key, message)
        if glob in environment.scrub:
            message = f"{glob} is never kept: scrub lists it too"
            yield Finding("warning", position, key, message)

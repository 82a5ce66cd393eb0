# SPDX-License-Identifier: Apache-2.0
"""What a chain of profiles allows, written plainly over the rules as people write them.

Shares nothing with monitor/policy but the words, so that the two can be held against each other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from monitor.policy.action import (
    ExecAction,
    FileAction,
    NetAction,
    SocketAction,
    UnixAction,
    Verb,
)
from monitor.profile import network
from monitor.profile.model import FilesSection, NetworkSection, PathRule, Profile
from tests.support.profiles import HOME, WORKSPACE

NAMED_ONLY = [
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "0.0.0.0/32",
        "::/128",
        "224.0.0.0/4",
        "255.255.255.255",
        "ff00::/8",
    )
]


def allows(chain: Sequence[Profile], action: object, view: bool = False) -> bool:
    """`view`: whether the plan asked for one, and so mounts the rest read-only."""
    match action:
        case NetAction():
            return all(net(profile, action) for profile in chain)
        case UnixAction():
            return all(action.path in unix(profile) for profile in chain)
        case SocketAction():
            return all(socket(profile, action) for profile in chain)
        case ExecAction():
            return not masked(chain, action.path, "deny", "exec") and all(
                granted(profile, key, action.path)
                for profile in chain
                for key in ("read", "execute")
            )
        case FileAction():
            return file(chain, action, view)
    raise AssertionError(action)


# -- network --------------------------------------------------------------------------------------


def net(profile: Profile, action: NetAction) -> bool:
    section = profile.network or NetworkSection()
    binding = action.verb is Verb.NET_BIND

    def speaking(rules: Sequence[object]) -> list[network.IPNetwork]:
        """The networks of rules that speak of this address, port and protocol."""
        found = []
        for rule in rules:
            to = network.parse(rule.to)  # type: ignore[attr-defined]
            in_ports = any(first <= action.port <= last for first, last in to.ports)
            if in_ports and to.protocol == action.protocol:
                found += [each for each in to.networks if holds(each, action)]
        return found

    if speaking(section.deny):
        return False
    if binding and asking(action) and looks_up(section):
        return True
    narrow = [] if binding else [each for each in NAMED_ONLY if holds(each, action)]
    for each in speaking(section.bind if binding else section.connect):
        if all(each.subnet_of(outer) for outer in narrow):  # type: ignore[arg-type]
            return True
    return False


def looks_up(section: NetworkSection) -> bool:
    """Whether names may be looked up, which needs sockets and a port."""
    return any(network.names_hosts(rule.to) for rule in section.connect)


def asking(action: NetAction) -> bool:
    """Whether a resolver may bind so before it asks."""
    return action.protocol == 17 and action.port == 0 and int(action.address) == 0


def holds(each: network.IPNetwork, action: NetAction) -> bool:
    return each.version == action.address.version and action.address in each


def unix(profile: Profile) -> set[str]:
    return {expand(rule.path) for rule in (profile.network or NetworkSection()).unix}


def socket(profile: Profile, action: SocketAction) -> bool:
    section = profile.network or NetworkSection()
    texts = [*(rule.to for rule in section.connect), *(rule.to for rule in section.bind)]
    named = {network.parse(text).protocol for text in texts}
    if looks_up(section):
        named = {6, 17}
    if profile.syscalls and "socket" in profile.syscalls.deny:
        return False
    if action.family == 1:
        return action.type in {1, 2, 5}
    if action.family in {2, 10}:
        return (action.type == 1 and action.protocol in {0, 6} and 6 in named) or (
            action.type == 2 and action.protocol in {0, 17} and 17 in named
        )
    strict = profile.syscalls is not None and profile.syscalls.preset == "strict"
    listing = action.family == 16 and action.type in {2, 3} and action.protocol == 0
    return listing and bool(named) and not strict


# -- files ----------------------------------------------------------------------------------------


def file(chain: Sequence[Profile], action: FileAction, view: bool) -> bool:
    both = [action.path] + ([action.target] if action.target is not None else [])
    if action.verb is Verb.FILE_OPEN:
        return not any(masked(chain, name, "deny") for name in both) and all(
            granted(profile, "read", action.path) for profile in chain
        )
    if any(masked(chain, name, "deny", "read_only", "exec") for name in both):
        return False
    if action.verb is Verb.FILE_CHMOD:
        return not view or all(granted(profile, "write", action.path) for profile in chain)
    if action.verb in {Verb.FILE_WRITE, Verb.FILE_TRUNCATE}:
        return all(granted(profile, "write", action.path) for profile in chain)
    return naming(chain, action, both)


def naming(chain: Sequence[Profile], action: FileAction, both: list[str]) -> bool:
    changed = list(both)
    moves = len(both) == 2 and folder(both[0]) != folder(both[1])
    if action.verb is Verb.FILE_LINK and len(both) == 2 and not moves:
        changed = both[1:]
    for profile in chain:
        if not all(granted(profile, "write", folder(name), "tree") for name in changed):
            return False
        for key in ("read", "write", "execute"):
            gains = granted(profile, key, both[-1], "tree") and not granted(profile, key, both[0])
            if moves and gains:
                return False
    if action.verb in {Verb.FILE_UNLINK, Verb.FILE_RENAME}:
        return not any(above_mask(chain, name) for name in both)
    return True


def granted(profile: Profile, key: str, path: str, kind: str = "any") -> bool:
    for rule in getattr(profile.files or FilesSection(), key):
        text = expand(rule.path)
        if text.endswith("/**"):
            base = text[:-3]
            if (path + "/").startswith(base + "/"):
                return True
        elif kind == "any" and path == text:
            return True
    return False


def masked(chain: Sequence[Profile], path: str, *kinds: str) -> bool:
    return any(
        re.match(regex(text), path + "/") for profile in chain for text in patterns(profile, *kinds)
    )


def above_mask(chain: Sequence[Profile], path: str) -> bool:
    """Whether a mask inside what may be written lies beneath `path`."""
    for profile in chain:
        for text in patterns(profile, "deny", "read_only", "exec"):
            start = re.match(r"((?:/[^/*?\[]+)*)(?=/|$)", text)[1]  # type: ignore[index]
            whole = start == text
            if (start + "/").startswith(path + "/") and not (whole and start == path):
                return True
    return False


def patterns(profile: Profile, *kinds: str) -> list[str]:
    found: list[PathRule] = []
    for kind in kinds:
        if kind == "exec":
            found += profile.exec.deny if profile.exec else ()  # type: ignore[arg-type]
        else:
            found += getattr(profile.files or FilesSection(), kind)
    texts = []
    for rule in found:
        text = expand(rule.path)
        while text.endswith("/**"):
            text = text[:-3]
        texts.append(text)
    return texts


def regex(pattern: str) -> str:
    """Matches the named object and all beneath it, in a path with a slash at its end."""
    parts = []
    for name in pattern.split("/")[1:]:
        if name == "**":
            parts.append(r"(?:[^/]+/)*")
        else:
            text = name.replace(".", r"\.").replace("[!", "[^")
            parts.append(text.replace("*", "[^/]*").replace("?", "[^/]") + "/")
    return "/" + "".join(parts)


def folder(path: str) -> str:
    return path.rpartition("/")[0]


def expand(text: str) -> str:
    return text.replace("{workspace}", WORKSPACE).replace("{home}", HOME)

# SPDX-License-Identifier: Apache-2.0
"""Random profiles and actions, small enough that rules and actions meet."""

from __future__ import annotations

import ipaddress
import itertools
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from monitor.policy.action import (
    Action,
    ExecAction,
    FileAction,
    NetAction,
    SocketAction,
    SyscallAction,
    UnixAction,
    Verb,
)
from monitor.policy.compile import Context, compile_plan
from monitor.policy.plan import HostFeatures, Plan
from monitor.profile.model import Profile

WORKSPACE = "/a/b"
HOME = "/a"
ABLE = HostFeatures(landlock_abi=7, unix_hooks=True, view=True)

FILE_VERBS = (
    Verb.FILE_OPEN,
    Verb.FILE_WRITE,
    Verb.FILE_UNLINK,
    Verb.FILE_RENAME,
    Verb.FILE_LINK,
    Verb.FILE_MKDIR,
    Verb.FILE_CHMOD,
    Verb.FILE_TRUNCATE,
)

NAMES = ["a", "b", "ab"]
names = st.sampled_from(NAMES)
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
bases = st.one_of(paths, st.sampled_from(["{workspace}", "{home}", "{workspace}/ab"]))
# Most rules grant much: an action that nothing allows says little about denials.
wide = st.sampled_from(["/**", "/a/**", "{workspace}/**", "{home}/**", "/b/**"])
allowed_paths = st.one_of(wide, wide, wide, bases, bases.map(lambda path: f"{path}/**"))
globs = st.lists(
    st.one_of(names, st.sampled_from(["*", "**", "?", "a*", "[ab]", "[!a]"])), max_size=3
).map(lambda parts: "".join(f"/{part}" for part in parts))
masks = st.tuples(bases, globs, st.sampled_from(["", "/**"])).map("".join)

networks = st.sampled_from(
    [
        "any",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.3",
        "127.0.0.1",
        "0.0.0.0",
        "0.0.0.0/0",
        "0.0.0.0/1",
        "169.254.0.0/16",
        "169.254.169.254",
        "169.254.0.0/15",
        "224.0.0.0/4",
        "[::]/0",
        "[::]",
        "[::1]",
        "[::ffff:10.1.2.3]",
        "[2001:db8::]/32",
        "[fe80::]/10",
        "[fe80::1]",
        "[::]/64",
    ]
)
ports = st.sampled_from(["*", "0", "53", "443", "1-100", "80,443", "443-65535", "65535"])
protocols = st.sampled_from(["", "/tcp", "/udp"])
anywhere = st.sampled_from(["any", "0.0.0.0/0", "[::]/0", "10.0.0.0/8", "169.254.169.254"])
destinations = st.one_of(
    st.tuples(anywhere, st.sampled_from([":*", ":1-60000"]), protocols).map("".join),
    st.tuples(networks, st.just(":"), ports, protocols).map("".join),
)
narrow = st.tuples(networks, st.just(":"), ports, protocols).map("".join)
sockets = st.sampled_from(["/run/x.sock", "/a/s", "@name", "{workspace}/s"])

ADDRESSES = [
    "10.1.2.3",
    "10.1.9.9",
    "10.9.9.9",
    "11.0.0.1",
    "127.0.0.1",
    "0.0.0.0",
    "169.254.169.254",
    "169.254.0.1",
    "168.63.129.16",
    "224.0.0.251",
    "255.255.255.255",
    "200.1.1.1",
    "::",
    "::1",
    "::2",
    "2001:db8::1",
    "2001:db9::1",
    "fe80::1",
    "fe80::2",
    "fd00:ec2::254",
    "ff02::1",
]


def listed(
    key: str, strategy: st.SearchStrategy[str], least: int = 0, most: int = 3
) -> st.SearchStrategy[Any]:
    """Rules with `key` for their text."""
    texts = st.lists(strategy, min_size=least, max_size=most)
    return texts.map(lambda found: [{key: text} for text in found])


def sections(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    filled = st.fixed_dictionaries(fields)
    return st.one_of(filled, filled, filled, filled, st.none())


profiles: st.SearchStrategy[Profile] = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["one", "two"]),
        "files": sections(
            read=listed("path", allowed_paths, 1),
            write=listed("path", allowed_paths, 1),
            execute=listed("path", allowed_paths, 1),
            deny=listed("path", masks, most=1),
            read_only=listed("path", masks, most=1),
        ),
        "exec": sections(deny=listed("path", masks, most=1)),
        "network": sections(
            connect=listed("to", destinations, 1, 5),
            bind=listed("to", destinations, 1),
            deny=listed("to", narrow, most=2),
            unix=listed("path", sockets, 1),
        ),
        "syscalls": sections(
            preset=st.sampled_from(["standard", "strict"]),
            allow=st.sampled_from([[], ["sysv-ipc"]]),
            deny=st.lists(st.sampled_from(["fork", "shmget", "bpf", "socket"]), max_size=2),
        ),
        "environment": sections(
            keep=st.lists(st.sampled_from(["A*", "PATH", "*", "?B"]), max_size=2),
            scrub=st.lists(st.sampled_from(["AB", "P*"]), max_size=2),
            set=st.dictionaries(st.sampled_from(["AB", "PATH"]), st.just("{home}"), max_size=2),
        ),
        "may_lack": st.sampled_from([[], ["view"]]),
    }
).map(Profile.model_validate)

# As many of one link as of several.
chains = st.one_of(profiles.map(lambda one: [one]), st.lists(profiles, min_size=1, max_size=3))

# -- actions --------------------------------------------------------------------------------------

PATHS = [
    "/" + "/".join(parts) for size in (1, 2, 3) for parts in itertools.product(NAMES, repeat=size)
]
FILE_ACTIONS: list[Action] = [
    *(FileAction(verb, path) for verb in FILE_VERBS for path in PATHS),
    *(ExecAction(path) for path in PATHS for _weight in FILE_VERBS),
]
PAIR_ACTIONS: list[Action] = [
    FileAction(verb, *pair)
    for verb in (Verb.FILE_RENAME, Verb.FILE_LINK)
    for pair in itertools.product(PATHS, repeat=2)
]
NET_ACTIONS: list[NetAction] = [
    NetAction(verb, ipaddress.ip_address(address), port, protocol)
    for verb in (Verb.NET_CONNECT, Verb.NET_SEND, Verb.NET_BIND)
    for address in ADDRESSES
    for port in (0, 1, 53, 79, 80, 100, 101, 443, 444, 65535)
    for protocol in (6, 17, 136)
]
UNIX_ACTIONS: list[Action] = [
    UnixAction(path) for path in ("/run/x.sock", "/a/s", "/a/b/s", "@name", "", "/run/y")
]
SOCKET_ACTIONS: list[Action] = [
    SocketAction(family, kind, protocol)
    for family in (0, 1, 2, 3, 10, 16, 17, 40, 45, 46)
    for kind in (1, 2, 3, 4, 5, 6, 10)
    for protocol in (0, 1, 2, 6, 17, 132, 136, 255, 262)
]
SYSCALL_ACTIONS: list[Action] = [
    SyscallAction(number, (first, second, third))
    for number in range(-1, 480)
    for first, second, third in ((0, 0, 0), (1, 1, 0), (2, 3, 0), (3, 41, 57), (1 << 29, 8, 2))
]
KINDS: list[list[Any]] = [
    FILE_ACTIONS,
    PAIR_ACTIONS,
    NET_ACTIONS,
    UNIX_ACTIONS,
    SOCKET_ACTIONS,
    SYSCALL_ACTIONS,
]


def some(universe: list[Any], most: int = 200) -> st.SearchStrategy[list[Any]]:
    """Many actions at once: a rule and the one action that shows it wrong rarely meet."""
    size = min(most, len(universe))
    return st.integers(0, 2**32).map(lambda seed: random.Random(seed).sample(universe, size))


actions: st.SearchStrategy[list[Action]] = st.tuples(*map(some, KINDS)).map(
    lambda kinds: [action for kind in kinds for action in kind]
)


def compiled(
    chain: Sequence[Profile], host: HostFeatures = ABLE, observe: bool = False, **context: Any
) -> Plan:
    """The plan of a chain, with `resolve` the identity."""
    settings: dict[str, Any] = {
        "workspace": WORKSPACE,
        "home": HOME,
        "session": "s",
        "uid": 1000,
        "ttl": None,
        "observe": observe,
        "resolve": lambda path: path,
    }
    return compile_plan(tuple(chain), Context(**(settings | context)), host)


def profile(**fields: Any) -> Profile:
    """A profile whose rules are given as mere texts."""
    shaped: dict[str, Any] = {"name": "test"}
    for name, value in fields.items():
        if name in {"files", "exec", "network"}:
            key = "to" if name == "network" else "path"
            shaped[name] = {
                kind: [{"path" if kind == "unix" else key: text} for text in texts]
                if isinstance(texts, list)
                else texts
                for kind, texts in value.items()
            }
        else:
            shaped[name] = value
    return Profile.model_validate(shaped)

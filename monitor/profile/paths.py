# SPDX-License-Identifier: Apache-2.0
"""The text of path rules: what may be written in an allow list, and what in `deny`."""

from __future__ import annotations

import re

from monitor.profile import variables

TREE = "/**"
LONGEST_PATH = 4095  # PATH_MAX without its NUL, uapi/linux/limits.h
LONGEST_SOCKET = 107  # sun_path without its NUL, uapi/linux/un.h

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_GLOB = re.compile(r"[*?\[]")
_ROOT = re.compile(r"\{(?:" + "|".join(variables.ROOTS) + r")\}")
# `[` opens a set, which a `]` closes that is not its first character; fnmatch reads it so too.
_COMPONENT = re.compile(r"(?:[^\[]|\[!?[^/][^\]/]*\])*", re.DOTALL)


def split(path: str) -> tuple[str, bool]:
    """(`/srv`, True) of `/srv/**`: the path itself, and whether all beneath it is meant."""
    if path.endswith(TREE):
        return path.removesuffix(TREE) or "/", True
    return path, False


def is_glob(path: str) -> bool:
    """Whether any character of `path` makes it a pattern."""
    return _GLOB.search(path) is not None


def check_allowed(path: str) -> None:
    """ValueError where `path` may not stand in an allow list: only exact paths and `DIR/**`."""
    base, tree = split(path)
    if path in {"*", "**"}:
        raise ValueError("everything is written out: /**")
    _check_shape(base)
    if is_glob(base):
        raise ValueError(
            f"{path} is a pattern: an allow list takes exact paths and DIR/**"
            if tree or not path.endswith("*")
            else f"{path} is a pattern: all beneath a folder is DIR/**"
        )


def check_folder(path: str) -> None:
    """ValueError where `path` is not the name of one folder."""
    check_allowed(path)
    if split(path)[1]:
        raise ValueError(f"{path}: the folder alone is meant, without /**")


def check_mask(path: str) -> None:
    """ValueError where `path` may not stand in `deny` or `read_only`, which take globs."""
    base, _ = split(path)
    _check_shape(base)
    components = base.split("/")
    for component in components:
        if "**" in component and component != "**":
            raise ValueError(f"** stands alone between slashes, not as in {component!r}")
        if not _COMPONENT.fullmatch(component):
            raise ValueError(f"a [ without its ] in {component!r}")
    first = components[0] or components[min(1, len(components) - 1)]
    if base == "/" or is_glob(first):
        raise ValueError(
            f"{path} begins with a pattern: the whole host would be searched at every launch;"
            " name a folder first"
        )


def check_socket(path: str) -> None:
    """ValueError where `path` is not the name of a unix socket: a path, or `@NAME`."""
    if len(path.encode("utf-8", "surrogatepass")) > LONGEST_SOCKET:
        raise ValueError(f"longer than the name of a socket can be: {LONGEST_SOCKET} bytes")
    if path.startswith("@"):
        _check_characters(path)
        variables.check(path)
        if path == "@":
            raise ValueError("an abstract socket has a name behind its @")
        return
    _check_shape(path)
    if is_glob(path):
        raise ValueError(f"{path} is a pattern: sockets are named one by one")


def _check_characters(path: str) -> None:
    found = _CONTROL.search(path)
    if found:
        raise ValueError(f"a path with the control character U+{ord(found[0]):04X} in it")
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise ValueError("a path with half a surrogate pair in it") from None
    if size > LONGEST_PATH:
        raise ValueError(f"a path of more than {LONGEST_PATH} bytes")


def _check_shape(path: str) -> None:
    """ValueError unless absolute, clean (no `..`, `.`, `//`), and with variables in their place."""
    _check_characters(path)
    if not path:
        raise ValueError("an empty path")
    variables.check(path)
    root = _ROOT.match(path)
    rest = path[root.end() :] if root else path
    if path.startswith("~"):
        raise ValueError("a path in the home folder begins with {home}")
    if not root and not path.startswith("/"):
        raise ValueError(f"{path} is relative: it begins with /, {{workspace}} or {{home}}")
    if rest and not rest.startswith("/"):
        raise ValueError(f"a / is missing behind {path[: len(path) - len(rest)]}")
    if _ROOT.search(rest):
        raise ValueError("{workspace} and {home} are absolute: they only stand at the beginning")
    if path == "/" or not rest:
        return
    for component in rest[1:].split("/"):
        if component in {"", ".", ".."}:
            raise ValueError(
                f"{path} has an empty, '.' or '..' component;"
                " a folder with all beneath it is DIR/**"
            )

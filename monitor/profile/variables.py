# SPDX-License-Identifier: Apache-2.0
"""Variables in the paths and environment values of a profile: `{workspace}`, `{home}`, …"""

from __future__ import annotations

import re
from dataclasses import dataclass

from monitor.profile.errors import ProfileError, problem
from monitor.profile.model import Position

NAMES = ("workspace", "home", "session", "uid")
# A path may begin with these: they are absolute themselves.
ROOTS = ("workspace", "home")

# A brace that is not part of a name in braces is an error: it would be a variable misspelt.
_BRACES = re.compile(r"\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Variables:
    """The values for one session. `workspace` and `home` are absolute paths."""

    workspace: str
    home: str
    session: str
    uid: int


def check(text: str) -> None:
    """ValueError where `text` holds a variable that does not exist, or a brace of none."""
    for match in _BRACES.finditer(text):
        if match[1] is None:
            raise ValueError(f"a {match[0]} that belongs to no variable in {text!r}")
        if match[1] not in NAMES:
            known = ", ".join(f"{{{name}}}" for name in NAMES)
            raise ValueError(f"unknown variable {match[0]}; there are {known}")


def expand(text: str, variables: Variables, position: Position | None = None) -> str:
    """`text` with each variable's value in its place; ProfileError on an unknown one.

    Values are put in once: one that holds braces itself is not looked at again.
    """
    try:
        check(text)
    except ValueError as error:
        raise ProfileError([problem(position, "", str(error))]) from None
    return _BRACES.sub(lambda match: str(getattr(variables, match[1])), text)

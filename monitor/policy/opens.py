# SPDX-License-Identifier: Apache-2.0
"""What opens that wait are judged by: `files.ask`, labels by files, and `files.deny`.

The view holds what is there at launch; this is for what appears later, and for what only an open
can tell. Small: the gate's process loads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from monitor.policy.patterns import pattern


class OpenKind(Enum):
    """What follows when something that a rule names is opened."""

    ASK = "ask"
    LABEL = "label"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class OpenRule:
    """One pattern of one link. `label` is the kernel's id of the label `name`, else -1 and "".

    `rule` is the rule as records name it, `why` what its author wrote.
    """

    kind: OpenKind
    pattern: str
    link: int
    rule: str
    why: str = ""
    label: int = -1
    name: str = ""

    def covers(self, path: str) -> bool:
        return pattern(self.pattern).covers(path)


def matching(rules: Sequence[OpenRule], path: str, known: Iterable[int]) -> list[OpenRule]:
    """The rules on `path`; `known` are indexes of those that are known to name the object."""
    found = {number for number, rule in enumerate(rules) if rule.covers(path)}
    return [rules[number] for number in sorted(found.union(known)) if number < len(rules)]

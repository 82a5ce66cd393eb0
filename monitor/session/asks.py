# SPDX-License-Identifier: Apache-2.0
"""Asks: actions that are held until somebody answers, and the answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import Enum

from monitor.policy.action import Verb

# In characters. Arguments may take two megabytes, names four kilobytes.
LONGEST_ARGUMENTS = 16_384
LONGEST_NAME = 4_096
LONGEST_KEY = 512


@dataclass(frozen=True, slots=True)
class Wanted:
    """An action that one link of a session's chain asks about.

    `link` indexes the policies of the whole session (registry.whole), as in records. `object` is
    written as there; `argv` and `cwd` are what the program really has (empty where they say
    nothing). `rule` is the rule that asks, as records name it, `why` what its author wrote. `key`
    is all that matters of the object: the same session, link, verb and key is the same ask, and
    what an approval holds for.
    """

    session: str
    link: int
    verb: Verb
    object: str
    argv: tuple[str, ...]
    cwd: str
    rule: str
    why: str
    pid: int
    exe: str
    key: str

    @property
    def place(self) -> tuple[str, int, str, str]:
        """What an approval belongs to."""
        return self.session, self.link, self.verb.value, self.key

    def bounded(self) -> Wanted:
        """The same, kept short enough to be written down and shown ten thousand times.

        What is left out of the arguments is said in their place, and still part of the key.
        """
        kept: list[str] = []
        room = LONGEST_ARGUMENTS
        for argument in self.argv:
            if len(argument) >= room:
                break
            kept.append(argument)
            room -= len(argument) + 1
        if left := self.argv[len(kept) :]:
            kept.append(left[0][:room])
            rest = sum(map(len, left)) - len(kept[-1])
            kept.append(f"[{rest} more characters in {len(left)} arguments]")
        key = self.key
        if len(key) > LONGEST_KEY:
            digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
            key = f"sha256:{digest}"
        return replace(
            self,
            argv=tuple(kept),
            key=key,
            object=self.object[:LONGEST_NAME],
            cwd=self.cwd[:LONGEST_NAME],
            exe=self.exe[:LONGEST_NAME],
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"verb": self.verb.value})

    @classmethod
    def from_json(cls, text: str) -> Wanted:
        """The reverse of `to_json`; trusts what it reads."""
        data = json.loads(text)
        return cls(**data | {"verb": Verb(data["verb"]), "argv": tuple(data["argv"])})


class How(Enum):
    """Where an answer comes from."""

    PERSON = "person"
    APPROVER = "approver"  # a program or a webhook of the configuration
    STANDING = "standing"  # an answer given before, for more than one action
    TIMEOUT = "timeout"
    FALLBACK = "fallback"  # nobody could be asked: the profile's `ask_fallback`
    LIMIT = "limit"  # too many asks
    OVER = "over"  # the session has ended, or its authority has
    GONE = "gone"  # nothing waits for it any more


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one held action.

    `uses` is how many actions this very answer lets through: 1, or None: any number until `expires`
    (CLOCK_BOOTTIME nanoseconds; 0: with the session). `ask` is the ask's id, "" where there was
    none. `by` is who answered, `why` what they said.
    """

    allow: bool
    how: How
    by: str
    why: str = ""
    ask: str = ""
    uses: int | None = 1
    expires: int = 0

    @property
    def reason(self) -> str:
        """One line for records and for the agent."""
        done = "approved" if self.allow else "denied"
        return f"{done} by {self.by}" + (f": {self.why}" if self.why else "")


@dataclass(frozen=True, slots=True)
class Scope:
    """How far an answer reaches: `uses` actions, or all within `seconds`, or all of the session."""

    uses: int | None = 1
    seconds: int | None = None

    def __str__(self) -> str:
        if self.uses is not None:
            return "once" if self.uses == 1 else f"{self.uses} times"
        return "for the session" if self.seconds is None else f"for {self.seconds} s"


ONCE = Scope()
SESSION = Scope(uses=None)


# Called once with the answer, maybe before `raise_` returns. It stands for the held action: the
# same object withdraws it.
Answered = Callable[[Answer], None]


@dataclass(frozen=True, slots=True)
class Ask:
    """An ask as it stands: `count` actions wait for it.

    `raised` is in Unix seconds, `since` and `deadline` in CLOCK_BOOTTIME nanoseconds. `token` lets
    a webhook answer later. An ask that was answered at once has the id "".
    """

    id: str
    wanted: Wanted
    raised: float
    since: int
    deadline: int
    token: str
    count: int = 1

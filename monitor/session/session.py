# SPDX-License-Identifier: Apache-2.0
"""A session: one process tree running under one chain, and the states it may go through."""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass, replace
from enum import Enum

from monitor.identity.chain import Chain
from monitor.policy.plan import Plan


class State(Enum):
    LAUNCHING = "launching"  # it has a cgroup and rules; CMD has not started
    RUNNING = "running"
    FROZEN = "frozen"
    ENDING = "ending"  # no way back: it is being killed
    ENDED = "ended"


LEGAL = {
    State.LAUNCHING: {State.RUNNING, State.ENDING},
    State.RUNNING: {State.FROZEN, State.ENDING},
    State.FROZEN: {State.RUNNING, State.ENDING},
    State.ENDING: {State.ENDED},
    State.ENDED: set[State](),
}


class Hold(Enum):
    """Who froze a session; only the same one may thaw it, and nobody where its time is over."""

    PERSON = "person"
    AUDIT = "audit"  # its records cannot be written, and its profile requires them
    EXPIRY = "expiry"  # its time is over, and its profile says `on_expiry: freeze`
    CONDITION = "condition"  # something that must hold does not, or a signal is against it


class Denial(Enum):
    """Why a session that lives on is refused everything on the network, for good."""

    REVOKED = "revoked"
    EXPIRED = "expired"  # its profile says `on_expiry: deny`


class IllegalTransition(ValueError):
    """The session is in a state from which this cannot be done."""


@dataclass(frozen=True, slots=True)
class Session:
    """Everything that a restarted worker needs to go on with a session.

    Times are Unix seconds; `expires_boottime` is the same expiry in CLOCK_BOOTTIME nanoseconds,
    which is what the kernel compares (0: never). `policies` are the kernel's policy ids, in the
    order of `plan.policies`. `pid` is CMD's process, `launcher` the process that ri-exec waits in
    and `launcher_start` its start time in clock ticks, so that a reused pid is not mistaken for it.
    `denied` goes beside the state: a session that is thawed stays denied, and nothing lifts it.
    """

    id: str
    agent: str
    chain: Chain
    user: str
    uid: int
    gid: int
    profile: str
    digest: str
    purpose: str
    workspace: str
    created: float
    expires: float | None
    expires_boottime: int
    cgroup: str
    cgroup_id: int
    policies: tuple[int, ...]
    plan: Plan
    launcher: int
    launcher_start: int
    pid: int | None = None
    state: State = State.LAUNCHING
    hold: Hold | None = None
    ended: float | None = None
    why: str = ""
    denied: Denial | None = None
    # The policy ids of all labels: those of each policy of the plan, in their order.
    labels: tuple[int, ...] = ()
    # Kernel ids of what the session above gives: its policies, and its labels'.
    above: tuple[int, ...] = ()
    above_labels: tuple[int, ...] = ()
    parent: str | None = None  # the id of the session that this one was started in
    depth: int = 0  # how many links may follow
    source: str = ""  # the file that the caller sent as its profile; "": the host's, by its name
    lease: int = 0  # seconds that each renewal gives; 0: `expires` is fixed
    # The latest that a lease goes on to, as `expires` and `expires_boottime`.
    until: float | None = None
    until_boottime: int = 0

    def to(self, state: State, *, hold: Hold | None = None, why: str = "") -> Session:
        """This session in another state; IllegalTransition where there is no such way."""
        if state not in LEGAL[self.state]:
            raise IllegalTransition(
                f"session {self.id} is {self.state.value} and cannot become {state.value}"
            )
        ended = time.time() if state is State.ENDED else None
        return replace(self, state=state, hold=hold, ended=ended, why=why or self.why)

    def whole(self, above: Plan) -> Session:
        """This session with all that holds for it: `above` is the whole plan of its parent."""
        plan = replace(
            self.plan,
            policies=above.policies + self.plan.policies,
            syscalls=replace(
                self.plan.syscalls,
                rules=tuple(dict.fromkeys(above.syscalls.rules + self.plan.syscalls.rules)),
                notified=above.syscalls.notified,
            ),
            # It lives in the view of the outermost one.
            view=above.view,
        )
        return replace(
            self,
            plan=plan,
            policies=self.above + self.policies,
            labels=self.above_labels + self.labels,
            above=(),
            above_labels=(),
        )

    @property
    def live(self) -> bool:
        return self.state is not State.ENDED


def new_id() -> str:
    """A UUIDv7 (RFC 9562 section 5.7): sorts by time; 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))

# SPDX-License-Identifier: Apache-2.0
"""What the worker's parts share, and the types that pass between launch channel and sessions."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from monitor.daemon.config import Config
from monitor.daemon.kept import Kept
from monitor.daemon.probes.tables import KernelTables
from monitor.kernel.features import Features
from monitor.policy.plan import HostFeatures
from monitor.session.registry import Registry

if TYPE_CHECKING:  # they are built on this module
    from monitor.daemon.asks.asks import Asks
    from monitor.daemon.budgets import Budgets
    from monitor.daemon.gates import Gates
    from monitor.daemon.labels import Labels
    from monitor.daemon.names import Names
    from monitor.daemon.opens import Opening
    from monitor.daemon.packet_floor import PacketFloor
    from monitor.daemon.recording import Recording
    from monitor.daemon.sessions import Sessions


class Refused(Exception):
    """No session, or an end to its launch: `reason` in one line, `hint` what the caller can do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What a caller asks for, as ri-exec sent it; nothing in it is trusted.

    `profile` is a name; or `profile_text` is the content of a file that the launcher read as the
    caller, and `profile_source` its name for messages. `workspace` and `cwd` are absolute. `ttl`
    in seconds. `user`: the name CMD is to run as, None: the caller. `argv0` is for the record.
    `grant` is a grant's text; then no profile is named, and `agent` may be "": the grant's.
    `depth`: how many sub-agents may follow one upon the other; None: as many as there may be.
    """

    agent: str
    workspace: str
    cwd: str
    profile: str | None = None
    profile_text: str | None = None
    profile_source: str = ""
    ttl: int | None = None
    purpose: str = ""
    observe: bool = False
    user: str | None = None
    argv0: str = ""
    grant: str | None = None
    lease: int | None = None  # seconds
    depth: int | None = None


@dataclass(slots=True)
class Context:
    """One worker. What has no value yet is set before anything is served."""

    config: Config
    features: Features
    host: HostFeatures
    kept: Kept
    tables: KernelTables
    registry: Registry
    recording: Recording = field(init=False)
    sessions: Sessions = field(init=False)
    asks: Asks = field(init=False)
    labels: Labels = field(init=False)
    budgets: Budgets = field(init=False)
    opens: Opening = field(init=False)
    gates: Gates = field(init=False)
    packets: PacketFloor = field(init=False)
    names: Names = field(init=False)
    since: float = field(default_factory=time.time)

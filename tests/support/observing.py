# SPDX-License-Identifier: Apache-2.0
"""Watching what the probes tell of an action."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monitor.policy.plan import Policy
from monitor.wire.events import AnyEvent, FileEvent
from monitor.wire.layout import SessionFlag
from tests.support.probes import Probes, inside, policy


def observed(
    probes: Probes,
    action: Callable[[], object],
    rules: Policy | None = None,
    flags: SessionFlag = SessionFlag.EVERY,
) -> tuple[Any, list[AnyEvent]]:
    """What `action` returned in a new session, and all its events (`flags`: or the first ones)."""
    probes.events()
    with probes.running(rules or policy(), flags=flags) as session:
        result = inside(session, action)
        events = probes.events(session)
    assert probes.reader.errors == 0
    assert [event.time for event in events] == sorted(event.time for event in events)
    return result, events


def beneath(events: Sequence[AnyEvent], folder: Path | str) -> list[FileEvent]:
    """The file events whose path or target is `folder` or in it."""
    start = f"{folder}/"
    return [
        event
        for event in events
        if isinstance(event, FileEvent)
        and (f"{event.path}/".startswith(start) or f"{event.target}/".startswith(start))
    ]

# SPDX-License-Identifier: Apache-2.0
"""The worker's figures for /v1/metrics."""

from __future__ import annotations

from collections import Counter

from monitor import __version__
from monitor.audit.export import Figures, prometheus
from monitor.daemon.context import Context


def text(context: Context) -> str:
    """All figures in the text format of Prometheus."""
    recording = context.recording
    states = Counter(session.state for session in context.registry.live())
    return prometheus(
        Figures(
            version=__version__,
            started=context.since,
            records=recording.totals,
            sessions=states,
            lost=recording.lost,
            undecoded=recording.undecoded,
            waiting=recording.waiting,
            last_record=recording.store.last(),
            audit_problem=recording.problem,
            head_problem=recording.store.head_problem,
            asks_waiting=len(context.asks),
            asks_held=context.asks.held,
            asks_answered=context.asks.answered,
            lookups=context.names.resolutions.totals,
            named_addresses=context.names.count,
            resolver_starts=context.names.started,
        )
    )

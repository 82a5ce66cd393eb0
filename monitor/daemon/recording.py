# SPDX-License-Identifier: Apache-2.0
"""Records: from the rings, and of the daemon's own, to the audit store."""

from __future__ import annotations

from typing import Any

from monitor.policy.action import Verb, Verdict
from monitor.session.session import Session


class Recording:
    """Drains, composes, appends."""

    def daemon_record(
        self,
        session: Session | None,
        verb: Verb,
        object_: str,
        details: dict[str, Any],
        *,
        verdict: Verdict = Verdict.ALLOW,
        reason: str = "",
        pid: int = 0,
    ) -> None:
        """A record of the daemon's own, in order with those of the rings."""
        raise NotImplementedError

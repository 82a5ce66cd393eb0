# SPDX-License-Identifier: Apache-2.0
"""Answers that hold for more than one action: used up, expired, or over with their session."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from monitor.session.asks import Answer, How
from monitor.session.docket import Docket, Place, Standing


class StandingAnswers:
    """All of them, in memory and in the docket."""

    def __init__(self, docket: Docket) -> None:
        self._docket = docket
        self._all: dict[Place, Standing] = {each.place: each for each in docket.standing()}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, standing: Standing) -> None:
        """Take over what the docket knows already."""
        self._all[standing.place] = standing

    def answer(self, place: Place, now: int) -> Answer | None:
        """The answer for one action, which is counted; None where none holds."""
        found = self._all.get(place)
        if found is None or 0 < found.expires <= now:
            return None
        if found.uses is not None:
            left = replace(found, uses=found.uses - 1)
            # What cannot be written down would be there again after a restart.
            if not self._docket.use(left):
                return None
            if left.uses:
                self._all[place] = left
            else:
                del self._all[place]
        return Answer(
            allow=found.allow,
            how=How.STANDING,
            by=found.by,
            why=found.why,
            ask=found.ask,
            uses=None if found.uses is None else 1,
            expires=found.expires if found.uses is None else 0,
        )

    def forget(self, live: Collection[str], now: int) -> None:
        """Drop what has expired, and what belongs to sessions that are not `live`."""
        over = [
            each.place
            for each in self._all.values()
            if each.place[0] not in live or 0 < each.expires <= now
        ]
        for place in over:
            del self._all[place]
        if over:
            self._docket.lift(over)

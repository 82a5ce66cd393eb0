# SPDX-License-Identifier: Apache-2.0
"""The opens of all sessions in the gate's process, as the worker tells of them.

`{"do": "opens", **OpensFacts}` comes with the group and the memory of a session; without them its
rules have changed. `{"do": "opens.unearned", "session", "labels"}`, `{"do": "opens.end",
"session"}`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monitor.daemon.gate.desk import Desk
from monitor.daemon.gate.loop import Loop
from monitor.daemon.gate.opens import Opens, OpensFacts

DO = "opens"


class OpensTable:
    """Which session's opens are answered here. `earn` writes a label's row, by the kernel's id."""

    def __init__(self, loop: Loop, desk: Desk, earn: Callable[[int], None]) -> None:
        self._loop = loop
        self._desk = desk
        self._earn = earn
        self._opens: dict[str, Opens] = {}

    def take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """One of the worker's messages whose `do` begins with "opens"."""
        session = message["session"]
        known = self._opens.get(session)
        if message["do"] == "opens.end":
            self.end(session)
        elif message["do"] == "opens.unearned":
            if known is not None:
                known.unearned(set(message["labels"]))
        elif descriptors:
            self.end(session)
            group, memory = descriptors
            facts = OpensFacts.from_json(message)
            made = Opens(facts, group, memory, self._desk, self._earn)
            self._opens[session] = made
            made.resume()
            self._loop.add(made)
        elif known is not None:
            known.change(OpensFacts.from_json(message))

    def end(self, session: str) -> None:
        """Answer nothing more for a session; what waits is refused."""
        opens = self._opens.pop(session, None)
        if opens is not None:
            self._loop.remove(opens)
            opens.close()
